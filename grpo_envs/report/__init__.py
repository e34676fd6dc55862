"""A run as a page: `report.html`, and `python -m grpo_envs.report RUN...` for one or several.

One file that needs no network: curves, what `grpo_envs.doctor` sees, answers before and after, a
browser of completions, the configuration and the versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_envs.files import write_atomically
from grpo_envs.record import Record, read_record
from grpo_envs.report.page import page
from grpo_envs.types import Group


def write_report(runs: Sequence[Record], out: Path) -> None:
    """Write the page of one or several runs."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = page(runs).encode("utf-8", "replace")  # a wild completion has lone surrogates
    write_atomically(out, text.decode("utf-8"))


class ReportLogger:
    """Writes report.html when a run ends; it is made of the files that the jsonl logger wrote."""

    def __init__(self, run: Path, steps: int, done: int) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """It is in metrics.jsonl."""

    def log_completions(
        self, step: int, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
    ) -> None:
        """They are in completions.jsonl."""

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """It is in eval.jsonl, and its answers in eval_completions.jsonl."""

    def close(self) -> None:
        """Write the page, unless the run kept nothing to make it of."""
        if (self._run / "metrics.jsonl").is_file():
            write_report([read_record(self._run)], self._run / "report.html")
