"""Which curves a run has: the metric, the title and the axis of each, and its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""Of metrics.jsonl or eval.jsonl."""
_SMOOTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A metric over the steps of a run."""

    metric: str
    title: str
    share: bool = False
    """Whether its axis goes from 0 to 1."""

    @property
    def evaluated(self) -> bool:
        """Whether it has points where the run was evaluated, else at every step."""
        return self.metric.startswith("eval/")

    def points(self, steps: Sequence[Row], evals: Sequence[Row]) -> tuple[list[int], list[float]]:
        """Return the steps that have the metric, and its values."""
        rows = [row for row in (evals if self.evaluated else steps) if self.metric in row]
        return [row["step"] for row in rows], [row[self.metric] for row in rows]

    def half_widths(self, evals: Sequence[Row]) -> list[float]:
        """Return half of each 95 % interval of an evaluation's metric; 0 where it has none."""
        half = half_width_of(self.metric)
        return [row.get(half, 0.0) for row in evals if self.metric in row]


ACCURACY = Curve(metric="eval/accuracy", title="held-out accuracy, greedy", share=True)
REWARD = Curve(metric="reward/mean", title="reward of sampled answers")
LENGTH = Curve(metric="completion/length", title="completion length [tokens]")
KL = Curve(metric="loss/kl", title="KL to the reference [nats/token]")
MORE = (
    KL,
    Curve(metric="policy/entropy", title="entropy [nats/token]"),
    LENGTH,
    Curve(metric="completion/truncated", title="share of truncated answers", share=True),
    Curve(metric="group/zero_std", title="share of flat groups (they teach nothing)", share=True),
    Curve(metric="reward/invalid", title="share of invalid rewards", share=True),
    Curve(metric="optim/grad_norm", title="norm of the gradient"),
    Curve(metric="policy/sample_gap", title="gap between sampling and training [nats/token]"),
    Curve(metric="tokens/per_second", title="tokens per second"),
)
"""What a report shows beside accuracy, reward and its parts, in this order."""


def half_width_of(metric: str) -> str:
    """Return what half the width of an evaluation's metric is called, see `eval_metrics`."""
    return "eval/ci95" if metric == "eval/accuracy" else f"{metric}_ci95"


def smooth(values: Sequence[float]) -> list[float]:
    """Return running means over the last five values.

    >>> smooth([1.0, 3.0, 2.0])
    [1.0, 2.0, 2.0]
    """
    windows = [values[max(0, i - _SMOOTH + 1) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
