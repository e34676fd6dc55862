"""The runs that can be compared, what they reached, and why others cannot be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isfinite

from grpo_envs.runs.record import Record
from grpo_envs.runtime.files import shown


def reached(run: Record, metric: str) -> float:
    """Return a run's final value of a metric: of the last evaluation, or a mean of the last steps.

    Metrics of training steps are noisy, so the value is the mean over the last quarter of steps, at
    most 20.
    """
    return float(run.evals[-1][metric]) if _evaluated(run, metric) else run.late(metric)


def comparable(
    runs: Sequence[Record], metrics: Sequence[str]
) -> tuple[list[Record], dict[str, str]]:
    """Return finished runs of one length that have the metrics, and why the others are left out.

    The length is that of most finished runs; of two that are equally frequent, the larger one. A
    run that a limit of its own ended, such as `trainer.target`, may have any length.
    """
    whole = [run for run in runs if run.state == "done" and run.steps and not run.stopped]
    lengths = Counter(run.steps[-1]["step"] for run in whole)
    usual = max(lengths, key=lambda steps: (lengths[steps], steps), default=0)
    reasons = [_why_not(run, metrics, usual) for run in runs]
    pairs = list(zip(runs, reasons, strict=True))
    kept = [run for run, why in pairs if not why]
    return kept, {shown(run.path): why for run, why in pairs if why}


def names_of(run: Record) -> set[str]:
    """Return the metrics that a run has."""
    return {name for row in (*run.steps, *run.evals) for name in row} - {"step"}


def _why_not(run: Record, metrics: Sequence[str], usual: int) -> str:
    """Return why a run cannot be compared; '' if it can."""
    if run.state != "done":
        return run.state
    if not run.steps:
        return "no metrics.jsonl, or an empty one"
    last = run.steps[-1]["step"]
    if last != usual and not run.stopped:
        return f"{last} steps, others {usual}"
    if missing := [metric for metric in metrics if metric not in names_of(run)]:
        return f"no {', '.join(missing)}"
    for metric in metrics:
        if _evaluated(run, metric) and run.evals[-1]["step"] != last:
            return f"its last evaluation is of step {run.evals[-1]['step']}, not {last}"
        if _evaluated(run, metric) and metric not in run.evals[-1]:
            return f"no {metric} in its last evaluation"
        if not isfinite(value := reached(run, metric)):
            return f"{metric} is {value:g}"
    return ""


def _evaluated(run: Record, metric: str) -> bool:
    """Return whether evaluations have the metric; steps do otherwise."""
    return any(metric in row for row in run.evals)
