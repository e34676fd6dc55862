"""The steps of a run that rules judge, the limits they are judged by, and what a rule says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_envs.runs.record import Record, quarter


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """Something that keeps a run from learning what it should."""

    name: str
    """One word or two, for tests and tables."""
    part: str = ""
    """The reward part, where it is about one."""
    says: str
    """What is wrong, in plain words."""
    evidence: str
    """The numbers that show it."""
    turn: str
    """The keys to turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the rules. Those of a run that goes on are wider: a few steps may be noise."""

    flat: float
    """Mean share of flat groups from which on hardly anything is learnt."""
    truncated: float
    """Mean share of truncated answers from which on they are too many."""
    ungraded: float
    """Mean share of invalid rewards from which on flat groups are the grader's fault."""
    drop: float
    """What a collapse must cost at least, in reward."""
    constant: int
    """Steps that a reward part must have had the same value."""


WINDOW = Limits(flat=1.0, truncated=1.0, ungraded=1.0, drop=0.0, constant=10)
"""Of the last ten steps of a run that goes on: each of them must show it."""
WHOLE = Limits(flat=0.9, truncated=0.5, ungraded=0.5, drop=0.1, constant=5)
"""Of a whole run: of its last quarter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The mean reward over a number of steps: the best one, and the last."""

    best: float = 0.0
    now: float = 0.0
    when: str = ""
    """When the best one was."""
    width: int = 1
    """Steps that a mean is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The steps that the rules judge: the last ones, or all of a run."""

    steps: Sequence[Mapping[str, Any]]
    limits: Limits
    level: Level = Level()
    run: Record | None = None
    """The whole run; None while it goes on."""

    def column(self, name: str) -> list[float]:
        """Return a metric of the steps that have it."""
        return [float(row[name]) for row in self.steps if name in row]

    def late(self, name: str) -> list[float]:
        """Return the values that are judged: the last quarter of a run, all while it goes on."""
        column = self.column(name)
        return column if self.run is None else column[-quarter(column) :]

    def early(self, name: str) -> list[float]:
        """Return the values to compare them with: the first quarter; none while a run goes on."""
        column = self.column(name)
        return [] if self.run is None else column[: quarter(column)]


def whole(run: Record) -> Stretch:
    """Return all steps of a run, of which there is one at least."""
    rewards = run.column("reward/mean") or [0.0]
    width = max(1, len(rewards) // 8)
    means = [sum(rewards[i : i + width]) / width for i in range(len(rewards) - width + 1)]
    best = max(means)
    when = f"around step {run.steps[means.index(best)]['step']}"
    level = Level(best=best, now=means[-1], when=when, width=width)
    return Stretch(steps=run.steps, limits=WHOLE, level=level, run=run)
