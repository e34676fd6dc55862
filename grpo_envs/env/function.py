"""A reward function as an environment calls it: with a time limit, and failures as rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_envs.env.deadlines import in_time, in_time_together
from grpo_envs.env.scored import Scored
from grpo_envs.types import Problem, Reward

TIMEOUT = 60.0
"""The usual time limit of a reward function [s]."""


@dataclass(frozen=True, slots=True)
class Function:
    """A reward function with its options."""

    name: str
    function: Callable[..., Any]
    whole: bool = False
    """Whether the function takes all answers of a step at once."""
    grouped: bool = False
    """Whether the function takes a group, when the episodes of all members are over."""
    asks: frozenset[str] = frozenset()
    """Further parameters beside problem and answer: names in `MEMBERS`."""
    timeout: float = TIMEOUT
    """Seconds that a call may take: for one answer, or for all answers if `whole`."""
    columns: frozenset[str] = frozenset()
    """Columns of a dataset that the function requires."""
    each_alone: bool = False
    """Whether the reward of an answer does not depend on the other answers of the call."""

    @property
    def late(self) -> bool:
        """Whether the function sees whole episodes, when those of a group are over."""
        return self.grouped or "episodes" in self.asks

    @property
    def early(self) -> bool:
        """Whether it is asked about an episode as soon as that is over, whatever others do."""
        return self.late and self.each_alone and not self.grouped

    def __call__(
        self,
        problems: Sequence[Problem],
        answers: Sequence[str],
        scored: Sequence[Scored] = (),
    ) -> list[Reward]:
        """Return the reward of each answer for this part.

        Args:
            problems: The problem of each answer.
            answers: The answers to grade.
            scored: What is known about each answer, if the function has such parameters.
        """
        pairs = [(problems, answers)] if self.whole else zip(problems, answers, strict=True)
        known = {name: [getattr(each, name) for each in scored] for name in sorted(self.asks)}
        values = self._called([partial(self.function, *pair, **known) for pair in pairs])
        if self.whole:
            (values,) = values
            if isinstance(values, Exception):
                raise values
            if isinstance(values, BaseException):  # raised here, SystemExit would end the run
                raise RuntimeError(f"{type(values).__name__}: {values}")
        return [_reward(self.name, value) for value in values]

    def of_groups(
        self, problems: Sequence[Problem], groups: Sequence[Sequence[Scored]]
    ) -> list[list[Reward]]:
        """Return the reward of each member for this part; the function is called once a group."""
        names = sorted(self.asks - {"problem"})
        calls = []
        for problem, members in zip(problems, groups, strict=True):
            known: dict[str, Any] = {name: [getattr(m, name) for m in members] for name in names}
            known |= {"problem": problem} if "problem" in self.asks else {}
            calls += [partial(self.function, **known)] if members else []
        values = iter(self._called(calls))
        return [_of_group(self.name, next(values), len(m)) if m else [] for m in groups]

    def _called(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        together = inspect.iscoroutinefunction(self.function)
        return (in_time_together if together else in_time)(calls, self.timeout)


def _of_group(name: str, values: Any, count: int) -> list[Reward]:
    """Return the rewards from what a function returned for a group of `count` members."""
    if isinstance(values, BaseException):
        return [_reward(name, values)] * count
    try:
        given = list(values)
    except TypeError:
        return [Reward(valid=False, error=f"{name} returned {values!r:.40}, no list")] * count
    if len(given) != count:
        text = f"{name} returned {len(given)} rewards for a group of {count}"
        return [Reward(valid=False, error=text)] * count
    return [_number(name, value) for value in given]


def _number(name: str, value: Any) -> Reward:
    try:
        return Reward(parts={name: float(value)})
    except (TypeError, ValueError):
        return Reward(valid=False, error=f"{name} returned {value!r:.40}, no number")


def _reward(name: str, value: Any) -> Reward:
    if isinstance(value, BaseException):
        error = f"{name}: {type(value).__name__}: {value}"
        return Reward(valid=False, error=error.removesuffix(": "))  # a MemoryError has no message
    return Reward(parts={} if value is None else {name: float(value)})
