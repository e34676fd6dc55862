"""Growing runs for a page: first all rows, then only new rows."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_envs.report.charts import charts
from grpo_envs.report.completions import about_runs, contexts, small
from grpo_envs.report.page import Live, detailed, names_of, page, reached, summary
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.record import Record, state_of

_FILES = {
    "steps": "metrics",
    "evals": "eval",
    "completions": "completions",
    "answers": "eval_completions",
    "problems": "problems",
}
"""The files of a run, by the field of its record."""
_Lengths = list[list[int]]
"""The number of points of each line of each chart."""


@dataclass(slots=True)
class Tail:
    """A file of JSON lines that grows."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    """All rows read so far."""
    _read: int = 0
    """Bytes read so far."""
    _number: int = 0
    """The file's inode, which changes if the file is replaced."""

    def grow(self) -> bool:
        """Read the new rows; return whether there are any.

        Raises:
            Rewritten: the file was replaced: a resumed run removes rows.
        """
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if self._number not in (0, number):
                raise Rewritten
            self._number = number
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return False
        self._read += len(whole) + 1
        self.rows += map(json.loads, whole.split(b"\n"))
        return True


class Rewritten(Exception):
    """A run's file was replaced."""


@dataclass(frozen=True)
class Growing(Record):
    """A record whose rows are given instead of read from files."""

    completions: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The contents of a page of some version, so that it is sent only newer data."""

    titles: list[str]
    """Titles of the charts."""
    points: _Lengths
    completions: list[int]
    """Number of completions of each run."""

    @property
    def lines(self) -> dict[str, int]:
        """Number of lines of each chart, by title."""
        return dict(zip(self.titles, map(len, self.points), strict=True))


class Watched:
    """Growing runs, and the contents of each version of their page."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the runs.

        Raises:
            ConfigError: a folder is not a run.
        """
        for path in paths:
            if not (path / "metrics.jsonl").is_file():
                raise ConfigError(f"{path}: no metrics.jsonl. Give the folder of a run.")
        self._paths = paths
        self._lock = Lock()
        self._begin()

    def page(self) -> str:
        """Return the page with the current data."""
        with self._lock:
            self._look()
            version = Live(version=self._version, state=self._state())
            return page(self._runs, live=version)

    def news(self, since: str) -> dict[str, Any] | None:
        """Return the data that a page of version `since` lacks; None if it lacks nothing."""
        with self._lock:
            self._look()
            if since == self._version:
                return None
            before, now = self._shown.get(since), self._shown[self._version]
            if before is None or before.lines != now.lines:
                return {"reload": True, "state": self._state()}
            return {"version": self._version, "state": self._state(), **self._since(before)}

    def _begin(self) -> None:
        self._tails = [
            {name: Tail(path / f"{file}.jsonl") for name, file in _FILES.items()}
            for path in self._paths
        ]
        self._shown: dict[str, Shown] = {}
        self._runs: list[Growing] = []
        self._look()

    def _look(self) -> None:
        """Read new rows; if there are any, begin a new version."""
        try:
            grown = [tail.grow() for tails in self._tails for tail in tails.values()]
        except Rewritten:
            self._begin()
            return
        records = self._records()
        if any(grown) or [run.state for run in records] != [run.state for run in self._runs]:
            self._runs = records
            self._version = str(time.time_ns())  # differs from versions of an earlier server
            drawn = charts(records, names_of(records))
            self._charts = [chart for _, chart in drawn]
            self._shown[self._version] = Shown(
                titles=[title for title, _ in drawn],
                points=[[len(line["x"]) for line in each["data"]] for each in self._charts],
                completions=[len(record.completions) for record in records],
            )

    def _records(self) -> list[Growing]:
        found = []
        for path, tails in zip(self._paths, self._tails, strict=True):
            rows: dict[str, Any] = {name: tail.rows for name, tail in tails.items()}
            folder = RunFolder(path)
            state = state_of(folder, rows["steps"])
            config, about = folder.config or {}, folder.about
            found.append(Growing(path=path, config=config, about=about, state=state, **rows))
        return found

    def _state(self) -> str:
        """Return the progress of the runs, in words."""
        states = {run.state for run in self._runs}
        ends = ["done"] if states == {"done"} else [s for s in states if s.startswith("failed")]
        return "; ".join([", ".join(map(reached, self._runs)), *sorted(ends)])

    def _since(self, before: Shown) -> dict[str, Any]:
        names = names_of(self._runs)
        rows = [
            small(name, row)
            for run, name, count in zip(self._runs, names, before.completions, strict=True)
            for row in run.completions[count:]
        ]
        total = sum(len(run.completions) for run in self._runs)
        return {
            "rows": rows,
            "runs": about_runs(self._runs, names),
            "contexts": contexts(self._runs, names, rows),
            "points": [
                [_points(line, count) for line, count in zip(each["data"], counts, strict=True)]
                for each, counts in zip(self._charts, before.points, strict=True)
            ],
            "html": {
                "summary": "".join(summary(self._runs, names)),
                "held-out": "".join(detailed(self._runs, live=True)),
                "extent": f"{total:,} completions so far.",
            },
        }


def _points(line: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the points of a line from number `count` on."""
    error = line.get("error_y", {}).get("array", [])
    return {"x": line["x"][count:], "y": line["y"][count:], "error": error[count:]}
