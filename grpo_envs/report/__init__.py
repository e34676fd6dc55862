"""The report of a run, `report.html`; `python -m grpo_envs.report RUN...` for one or several runs.

The report is a single file that needs no network: curves, the findings of `grpo_envs.doctor`,
answers before and after, a browser of completions, the configuration and the versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grpo_envs.errors import require_training
from grpo_envs.loggers import Logger
from grpo_envs.runs.record import Record, read_record
from grpo_envs.runtime.files import write_atomically


def write_report(runs: Sequence[Record], out: Path) -> None:
    """Write the page of one or several runs."""
    require_training("a report", ["plotly"])
    from grpo_envs.report.page import page  # imports plotly, which may not be installed
    from grpo_envs.runs.bundle import shared_bundle

    out.parent.mkdir(parents=True, exist_ok=True)
    text = page(runs, bundle=shared_bundle(out)).encode("utf-8", "replace")  # lone surrogates
    write_atomically(out, text.decode("utf-8"))


class ReportLogger(Logger):
    """Writes report.html when a run ends, from the files of the jsonl logger."""

    def __init__(self, run: Path, steps: int, done: int) -> None:
        self._run = run

    def close(self) -> None:
        """Write the page, unless the run has no metrics.jsonl."""
        if (self._run / "metrics.jsonl").is_file():
            write_report([read_record(self._run)], self._run / "report.html")
