"""Few-shot prompts (`env.shots`): solved problems of the train split before each problem.

They are turns of a conversation, which a chat template shows as its own; a model without one reads
the transcript, as of any prompt that is a conversation.
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
"""Training problems that are looked at for ones that can be shown."""


@dataclass(frozen=True, slots=True)
class Shots:
    """What is shown before each problem; nothing by default."""

    count: int = 0
    """Solved problems before each one."""
    solved: tuple[Problem, ...] = ()
    """One more of them: a problem is never shown before itself."""

    def before(self, problem: Problem) -> Problem:
        """Return a problem whose prompt begins with others and their solutions."""
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
    """Return the first solved problems of the train split, whatever split `env` is on.

    Those with one prompt are one, and all have the system message of the first. They are chosen
    once, before an environment adapts: each problem of a run has the same ones before it.

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
            "solution, and one more than are shown is needed. Allowed: 0 to "
            f"{max(0, len(found) - 1)}."
        )
    return Shots()
