"""The curves of runs: metric, title, axis and points."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grpo_envs.runs.record import Record, Row
from grpo_envs.runs.statistics import band

_SMOOTH = 5
_PASS = re.compile(r"eval/pass@\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A curve of one run, or the mean over several runs."""

    steps: Sequence[int]
    values: Sequence[float]
    """The metric; for a metric of every step its running mean."""
    raw: Sequence[float] = ()
    """The values of each step of a single run; () if `values` are not smoothed."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """95 % intervals: over the problems of an evaluation, or over several runs; () if there are
    none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A metric over the steps of a run."""

    metric: str
    title: str
    share: bool = False
    """Whether the axis goes from 0 to 1."""
    noisy: bool = True
    """Whether the curve shows a running mean."""

    @property
    def evaluated(self) -> bool:
        """Whether the metric has points at evaluations only, not at every step."""
        return self.metric.startswith("eval/")

    def rows(self, run: Record) -> list[Row]:
        """Return the rows that have the metric."""
        return [row for row in (run.evals if self.evaluated else run.steps) if self.metric in row]

    def points(self, runs: Sequence[Record]) -> Points:
        """Return the points of a run, or the mean of several runs with a bootstrap interval.

        The mean covers the steps that all runs have.
        """
        if len(runs) == 1:
            return self._of_one(self.rows(runs[0]))
        columns = [self._by_step(run) for run in runs]
        steps = sorted(set(columns[0]).intersection(*columns[1:])) if columns else []
        places = band([[column[step] for step in steps] for column in columns]) if steps else []
        return Points(
            steps=steps,
            values=[place.mean for place in places],
            low=[place.low for place in places],
            high=[place.high for place in places],
        )

    def _of_one(self, rows: Sequence[Row]) -> Points:
        steps, values = [row["step"] for row in rows], [row[self.metric] for row in rows]
        if not self.noisy:
            return Points(steps=steps, values=values)
        if not self.evaluated:
            return Points(steps=steps, values=smooth(values), raw=values)
        halves = [row.get(half_width_of(self.metric), 0.0) for row in rows]
        pairs = list(zip(values, halves, strict=True))
        return Points(
            steps=steps,
            values=values,
            low=[value - half for value, half in pairs],
            high=[value + half for value, half in pairs],
        )

    def _by_step(self, run: Record) -> dict[int, float]:
        points = self._of_one(self.rows(run))
        return dict(zip(points.steps, points.values, strict=True))


ACCURACY = Curve(metric="eval/accuracy", title="held-out accuracy, greedy", share=True)
REWARD = Curve(metric="reward/mean", title="reward of sampled answers")
LENGTH = Curve(metric="completion/length", title="completion length [tokens]")
KL = Curve(metric="loss/kl", title="KL to the reference [nats/token]")
OPTIMISER = (
    Curve(metric="loss/policy", title="loss of the objective alone"),
    Curve(metric="loss/clipped", title="share of clipped tokens", share=True),
    Curve(metric="optim/lr", title="learning rate", noisy=False),
)
MORE = (
    KL,
    Curve(metric="policy/entropy", title="entropy [nats/token]"),
    LENGTH,
    Curve(metric="completion/truncated", title="share of truncated answers", share=True),
    Curve(metric="group/zero_std", title="share of zero-variance groups (no signal)", share=True),
    Curve(metric="reward/invalid", title="share of invalid rewards", share=True),
    *OPTIMISER,
    Curve(metric="optim/grad_norm", title="norm of the gradient"),
    Curve(metric="policy/sample_gap", title="gap between sampling and training [nats/token]"),
    Curve(metric="tokens/per_second", title="tokens per second"),
)
"""The curves of a report after accuracy, reward and its parts, in this order."""


def curve_of(metric: str) -> Curve:
    """Return the curve of a metric; the title of an unknown metric is its name."""
    known = {curve.metric: curve for curve in (ACCURACY, REWARD, *MORE)}
    return known.get(metric, Curve(metric=metric, title=metric))


def seen(runs: Sequence[Record], curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves that are not 0 everywhere in all runs."""
    return [c for c in curves if any(row[c.metric] for run in runs for row in c.rows(run))]


def curves_of(runs: Sequence[Record]) -> Iterator[Curve]:
    """Yield each curve that a report of these runs shows, in order."""
    for curve in (ACCURACY, *_passes(runs)):
        if any(curve.rows(run) for run in runs):
            yield curve
    yield REWARD
    for part in sorted({part for run in runs for part in run.parts}):
        yield Curve(metric=f"reward/{part}", title=f"reward component: {part}")
    logged = {name for run in runs for row in run.steps for name in row}
    for metric in sorted(name for name in logged if name.startswith("env/")):
        if metric.endswith(("/reward", "/level")):
            title = metric.removeprefix("env/").replace("/", ": ")
            yield Curve(metric=metric, title=title)
    yield from seen(runs, MORE)


def _passes(runs: Sequence[Record]) -> list[Curve]:
    """Return pass@k for the largest k that was evaluated."""
    found = {name for run in runs for row in run.evals for name in row if _PASS.fullmatch(name)}
    most = max(found, key=lambda name: int(name.partition("@")[2]), default=None)
    if most is None:
        return []
    return [Curve(metric=most, title=f"held-out {most.removeprefix('eval/')}", share=True)]


def half_width_of(metric: str) -> str:
    """Return the name of the interval's half width of a metric, see `eval_metrics`."""
    return "eval/ci95" if metric == "eval/accuracy" else f"{metric}_ci95"


def smooth(values: Sequence[float]) -> list[float]:
    """Return running means over the last five values.

    >>> smooth([1.0, 3.0, 2.0])
    [1.0, 2.0, 2.0]
    """
    windows = [values[max(0, i - _SMOOTH + 1) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
