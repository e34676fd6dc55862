"""The steps of a run that rules judge, the limits of the rules, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_envs.runs.record import Record, quarter


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """A reason why a run does not learn what it should."""

    name: str
    """One word or two, for tests and tables."""
    part: str = ""
    """The reward component, if the symptom is about one."""
    says: str
    """What is wrong, in plain words."""
    evidence: str
    """The numbers that show it."""
    turn: str
    """The keys to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the rules. They are wider for a running run, because a few steps may be noise."""

    flat: float
    """Mean share of zero-variance groups at or above which hardly anything is learnt."""
    truncated: float
    """Mean share of truncated answers at or above which there are too many."""
    ungraded: float
    """Mean share of invalid rewards at or above which the grader causes zero-variance groups."""
    drop: float
    """Least loss of reward that counts as a collapse."""
    constant: int
    """Least number of steps with the same value of a reward component."""


WINDOW = Limits(flat=1.0, truncated=1.0, ungraded=1.0, drop=0.0, constant=10)
"""Limits for the last ten steps of a running run: every step must show the symptom."""
WHOLE = Limits(flat=0.9, truncated=0.5, ungraded=0.5, drop=0.1, constant=5)
"""Limits for the last quarter of a whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The mean reward over a number of steps: the best one, and the last."""

    best: float = 0.0
    now: float = 0.0
    when: str = ""
    """When the best mean was reached."""
    width: int = 1
    """Steps in a mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The steps that rules judge: the last ones, or all steps of a run."""

    steps: Sequence[Mapping[str, Any]]
    limits: Limits
    level: Level = Level()
    run: Record | None = None
    """The whole run; None during a run."""

    def column(self, name: str) -> list[float]:
        """Return a metric of the steps that have it."""
        return [float(row[name]) for row in self.steps if name in row]

    def late(self, name: str) -> list[float]:
        """Return the values to judge: the last quarter of a whole run; all values during a run."""
        column = self.column(name)
        return column if self.run is None else column[-quarter(column) :]

    def early(self, name: str) -> list[float]:
        """Return the values to compare with: the first quarter of a whole run; [] during a run."""
        column = self.column(name)
        return [] if self.run is None else column[: quarter(column)]


def whole(run: Record) -> Stretch:
    """Return all steps of a run, which has at least one."""
    rewards = run.column("reward/mean") or [0.0]
    width = max(1, len(rewards) // 8)
    means = [sum(rewards[i : i + width]) / width for i in range(len(rewards) - width + 1)]
    best = max(means)
    when = f"around step {run.steps[means.index(best)]['step']}"
    level = Level(best=best, now=means[-1], when=when, width=width)
    return Stretch(steps=run.steps, limits=WHOLE, level=level, run=run)
