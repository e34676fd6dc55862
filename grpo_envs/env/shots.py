"""Few-shot prompts (`env.shots`): solved problems of the train split before each problem.

The solved problems are earlier turns of a conversation, which the chat template renders. A model
without a chat template reads the transcript, as for every prompt that is a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from grpo_envs.env.cells import transcript
from grpo_envs.errors import ConfigError, require
from grpo_envs.types import Problem

if TYPE_CHECKING:
    from grpo_envs.env.text import TextEnv

_LOOK = 1000
"""Training problems that are searched for solved ones."""


@dataclass(frozen=True, slots=True)
class Shots:
    """The solved problems before each problem; none by default."""

    count: int = 0
    """Number of solved problems before each problem."""
    solved: tuple[Problem, ...] = ()
    """One more than `count`, so that a problem is never shown before itself."""

    def before(self, problem: Problem) -> Problem:
        """Return the problem with other problems and their solutions before it."""
        if not self.count:
            return problem
        others = [each for each in self.solved if each.prompt != problem.prompt][: self.count]
        turns: list[Mapping[str, str]] = []
        for each in others:
            turns += each.messages or _said("user", each.prompt)
            turns += _said("assistant", each.solution)
        turns += problem.messages or _said("user", problem.prompt)
        return replace(problem, prompt=transcript(turns), messages=tuple(turns))


def _said(role: str, content: str) -> list[Mapping[str, str]]:
    return [{"role": role, "content": content}]


def find_shots(env: TextEnv, count: object) -> Shots:
    """Return the first solved problems of the train split, for either split of `env`.

    Problems with the same prompt count once, and all have the system message of the first. They are
    chosen once, before an environment adapts, so that all problems of a run have the same ones.

    Raises:
        ConfigError: the environment is a conversation or has tools, or too few problems have a
            solution.
    """
    allowed = "a whole number, 0 (none) or more"
    require(type(count) is int and count >= 0, "env.shots", count, allowed)
    assert isinstance(count, int)
    found: dict[str, Problem] = {}
    system = None
    for number in range(_LOOK if count else 0):
        problem = env.problem(number, "train")
        if env.turns_of(problem) > 1 or problem.tools:
            raise ConfigError(
                f"env.shots={count}: {type(env).__name__} is a conversation, and only single "
                "answers can be shown. Allowed: 0."
            )
        system = env.system_prompt_of(problem) if system is None else system
        if problem.solution and env.system_prompt_of(problem) == system:
            found.setdefault(problem.prompt, problem)
        if len(found) == count + 1:
            return Shots(count, tuple(found.values()))
    if count:
        raise ConfigError(
            f"env.shots={count}: {type(env).__name__} has {len(found)} training problems with a "
            "solution, and one more than env.shots is needed. Allowed: 0 to "
            f"{max(0, len(found) - 1)}."
        )
    return Shots()
