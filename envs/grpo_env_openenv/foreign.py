"""A player for other servers than ours: only their schema is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

from grpo_env_openenv.fields import Action, Shown, called, result_of, tool_of
from grpo_env_openenv.player import Player, invalid, require_repeated
from grpo_env_openenv.sessions import Sessions
from grpo_env_openenv.wire import Outside, Told
from grpo_envs.env.calls import join_results
from grpo_envs.env.returns import ReturnRange
from grpo_envs.errors import ConfigError
from grpo_envs.graders.text import action_in
from grpo_envs.seeding import rng_for, split_of
from grpo_envs.types import Problem, Reply, Reward, Turn

_OPENINGS = 8  # first observations that are compared, once
_DISTINCT = 4  # different ones among them from which openings distinguish problems
_DRAWS = 1000
_NOTHING = Reward(parts={"score": 0.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The conversion of answers to actions, observations to texts, and returns to rewards."""

    action: Action
    shown: Shown
    returns: ReturnRange
    form: str
    """The part of a completion that is its answer: text or tag."""

    @classmethod
    def of(
        cls,
        schema: Mapping[str, Any],
        fields: Mapping[str, Any],
        *,
        form: str,
        returns: ReturnRange,
    ) -> Self:
        """Choose the fields by a server's schema.

        Raises:
            ConfigError: a named field does not exist, or the choice is ambiguous.
        """
        openings = schema.get("reset_observation") or {}
        return cls(
            action=Action(schema["action"], fields["action"]),
            shown=Shown([schema["observation"], openings], fields["observation"]),
            returns=returns,
            form=form,
        )


class Foreign(Player):
    """A player whose problems are determined by a seed.

    The split of a problem is that of its opening, or that of its seed if few openings differ.
    """

    weights: ClassVar[Mapping[str, float]] = {"score": 1.0}
    most_turns = 16

    def __init__(self, sessions: Sessions, reset: Mapping[str, Any], reading: Reading) -> None:
        super().__init__(sessions, reset)
        self._reading = reading
        self._tools = tuple(map(tool_of, sessions.tools())) if reading.action.calls else ()
        self.uses_tools = bool(self._tools)
        first = islice(_seeds("openings", 0), _OPENINGS)
        openings = {self.shown(self.open({"seed": seed})) for seed in first}
        self.hidden = len(openings) == 1
        self._by_opening = len(openings) >= _DISTINCT
        self._places: dict[tuple[str, int], int] = {}

    def problem(self, seed: int, split: str) -> Problem:
        """Draw seeds of the server until the opening, or the seed itself, belongs to `split`."""
        key = (split, seed)
        tried = [self._places[key]] if key in self._places else islice(_seeds(split, seed), _DRAWS)
        for place in tried:
            if not self._by_opening and split_of(str(place)) != split:
                continue
            prompt = self.shown(self.open({"seed": place}))
            if not self._by_opening or split_of(prompt) == split or key in self._places:
                self._places[key] = place
                return self._problem(prompt, place)
        raise ConfigError(f"{_DRAWS} seeds of the server gave no question of {split}.")

    def reply(self, problem: Problem, turns: Sequence[Turn], *, last: bool) -> Reply:
        """Return the server's reply; the last reply has the reward, the return of the episode."""
        if self._reading.action.calls:
            return self._reply_to_calls(problem, turns, last=last)
        form = self._reading.form
        steps = [self._reading.action.of(action_in(turn.action, form)) for turn in turns]
        told: list[Told] = []
        try:
            if None not in steps:
                told = self.play(problem, [step for step in steps if step])
        except Outside as error:
            return Reply(reward=Reward(parts=_NOTHING.parts, note=str(error)))
        if not told:
            note = "the answer is not an action of the server's schema"
            return Reply(reward=Reward(parts=_NOTHING.parts, note=note))
        said = list(map(self.shown, told))
        require_repeated(turns, said)
        return self._paid(told, Reply(reward=_NOTHING, observation=said[-1], done=False), last=last)

    def shown(self, told: Told) -> str:
        """Return the text of the shown fields, or of the result of a tool."""
        if self._reading.action.calls and "tool_name" in told["observation"]:
            return result_of(told["observation"])
        return self._reading.shown.of(told)

    def _problem(self, prompt: str, place: int) -> Problem:
        if not prompt:
            shown = ", ".join(self._reading.shown.names)
            raise ConfigError(
                f"env.observation={shown}: it is empty after a reset, but a problem needs a prompt."
            )
        return Problem(
            prompt=prompt,
            gold=None,
            solution="",
            meta={"seed": place},
            columns={"seed": place},
            tools=self._tools,
        )

    def _reply_to_calls(self, problem: Problem, turns: Sequence[Turn], *, last: bool) -> Reply:
        """Make each call of the last turn; a turn without a call ends the episode."""
        calls = [called(turn.action) for turn in turns]
        steps = [[step for step, error in each if not error] for each in calls]
        told = self.play(problem, [step for each in steps for step in each], min(1, len(steps[-1])))
        texts = map(self.shown, told)  # fewer than the calls if the episode ended
        results = [[error or next(texts, None) for _, error in each] for each in calls]
        made = [tuple(text for text in each if text is not None) for each in results]
        said = [
            join_results(texts)
            for texts, each in zip(made, calls, strict=True)
            if texts or not each
        ]
        require_repeated(turns, said)
        reply = Reply(reward=_NOTHING, observation=said[-1], done=not calls[-1], results=made[-1])
        return self._paid(told, reply, last=last)

    def _paid(self, told: Sequence[Told], reply: Reply, *, last: bool) -> Reply:
        """Return the reply, with the return of the episode as its reward if the episode ends."""
        done = reply.done or bool(told and told[-1].get("done"))
        if not done and not last:
            return reply
        rewards = [each.get("reward") for each in told]
        odd = [reward for reward in rewards if reward is not None and not _is_number(reward)]
        if odd or (rewards and rewards[-1] is None):
            given = f"{odd[0]!r:.40}" if odd else "null with the last answer"
            return invalid(f"the server gave no reward: {given}")
        paid = self._reading.returns.paid(math.fsum(float(x) for x in rewards if x is not None))
        return replace(reply, reward=paid, done=done)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _seeds(split: str, seed: int) -> Iterator[int]:
    rng = rng_for("openenv", split, seed)
    while True:
        yield rng.getrandbits(31)
