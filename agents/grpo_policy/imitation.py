"""Demonstrations as groups: the training data of a supervised warm start, in place of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from grpo_envs.errors import ConfigError
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Completion, Group
from grpo_policy.demonstrations import IGNORED, encode, played
from grpo_policy.room import Room


@dataclass(slots=True)
class Demonstrations(Room):
    """Finds the problems that the environment demonstrates, and plays them.

    A demonstration is a group of one completion, whose mask excludes the environment's replies.
    Prompt and answers together must fit into the model's context; problems that do not fit are left
    out, and so are problems without a solution, such as some rows of a dataset.
    """

    _found: dict[int, Group | None] = field(default_factory=dict, init=False)
    """Demonstrations that were made to check a problem and are not used yet."""

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        """Return one graded group for each problem; `timer` counts it as `sample`."""
        with timer("sample"):
            groups = [self._group(number) for number in seeds]
            self._found.clear()
        return [group for group in groups if group is not None]

    def no_problem(self) -> ConfigError:
        """Return the error that no problem has a demonstration."""
        name = type(self.env).__name__
        return ConfigError(
            f"agent=sft: no problem of {name}'s split {self.env.split} has a solution that fits "
            f"into the model's context of {self.chat.context_length:,} tokens. Allowed: an "
            f"environment whose problems have solutions ({_EXAMPLES}), or a dataset with a column "
            "of solutions."
        )

    def _fits(self, number: int) -> bool:
        return Room._fits(self, number) and self._group(number) is not None

    def _group(self, number: int) -> Group | None:
        """Return the demonstration of a problem; None if there is none, or it is too long."""
        if number not in self._found:
            self._found[number] = self._made(number)
        return self._found[number]

    def _made(self, number: int) -> Group | None:
        problem = self.env.problem(number)
        if not self.env.demonstrate(problem, []):
            return None
        shown = played(self.env, problem)
        tokens, labels = encode(self.chat, shown)
        if len(tokens) > self.chat.context_length:
            return None
        begin = next(place for place, label in enumerate(labels) if label != IGNORED)
        token_ids = tuple(tokens[begin:])
        completion = Completion(
            text=shown.turns[0].action if len(shown.turns) == 1 else self.chat.decode(token_ids),
            token_ids=token_ids,
            logprobs=(0.0,) * len(token_ids),
            mask=tuple(label != IGNORED for label in labels[begin:]),
            turns=shown.turns if len(shown.turns) > 1 else (),
        )
        return Group(
            key=number,
            prompt=problem.prompt,
            prompt_ids=tuple(tokens[:begin]),
            completions=(completion,),
            rewards=(shown.reward,),
            meta=dict(problem.meta),
        )


_EXAMPLES = "math, code, format, countdown"
