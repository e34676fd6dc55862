"""CSV files of a run's metrics, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_envs.loggers.basic import Logger
from grpo_envs.runs.metrics import rounded
from grpo_envs.runtime.files import fsync, write_atomically


class CsvLogger(Logger):
    """metrics.csv and eval.csv: a row a step, a column a metric.

    A metric that appears later adds a column, which is empty in earlier rows. Completions are not
    written.
    """

    def __init__(self, run: Path, steps: int, done: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._metrics = _CsvFile(run / "metrics.csv", done)
        self._evals = _CsvFile(run / "eval.csv", done)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append to metrics.csv."""
        self._metrics.append(step, metrics)

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Append to eval.csv."""
        self._evals.append(step, metrics)

    def close(self) -> None:
        """Make sure that every row is on the disk."""
        self._metrics.sync()
        self._evals.sync()


class _CsvFile:
    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        self._columns = ["step"]
        self._last = -1
        if not done:
            path.unlink(missing_ok=True)  # left by a run without a checkpoint
        elif path.is_file():
            kept = [row for row in self._read() if int(row["step"]) <= done]
            self._columns = list(kept[0]) if kept else self._columns
            self._last = int(kept[-1]["step"]) if kept else self._last
            self._rewrite(kept)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._last:  # a resumed run may repeat an evaluation
            return
        row = {"step": step, **rounded(metrics)}
        new = [name for name in row if name not in self._columns]
        if new or not self._path.is_file():
            self._columns += new
            self._rewrite([*self._read(), row])
        else:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._text([row]))
        self._last = step

    def sync(self) -> None:
        if self._path.is_file():
            fsync(self._path)

    def _read(self) -> list[dict[str, str]]:
        """Return the rows without an incomplete last one."""
        text = self._path.read_text(encoding="utf-8") if self._path.is_file() else ""
        lines = text.splitlines(keepends=True)
        return list(csv.DictReader(line for line in lines if line.endswith("\n")))

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        header = {name: name for name in self._columns}
        write_atomically(self._path, self._text([header, *rows]))

    def _text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()
