"""The files of a run's folder, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.rows import read_jsonl

Row = Mapping[str, Any]
"""A row of metrics.jsonl or eval.jsonl."""


@dataclass(frozen=True)
class Record:
    """One run's files. Completions may be large, so they are read on first use."""

    path: Path
    steps: list[dict[str, Any]]
    """Rows of metrics.jsonl."""
    evals: list[dict[str, Any]]
    """Rows of eval.jsonl."""
    config: dict[str, Any]
    """The configuration by dotted name."""
    about: dict[str, Any]
    """`weights` of the reward components, `own` (those of the environment itself), `versions`,
    the `choices` of option groups, the `formulas` of the agent by key, `name`, `tags` and `notes`
    of the run, and its `sessions` (time, machine and code of each)."""
    state: str
    """`done`, `failed: <why>`, or `cut off after step <N>`."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Overrides of the command line."""
    result: dict[str, float] = field(default_factory=dict)
    """The last metrics of a finished run; else empty."""
    stopped: str = ""
    """The limit that ended a finished run before its last step, such as `trainer.target=0.9: ...`;
    '' if there was none."""

    @property
    def seconds(self) -> float:
        """Total seconds of the training steps."""
        return sum(self.column("time/step"))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration and the versions of packages, by dotted name."""
        versions = self.about.get("versions", {})
        return {**self.config, **{f"version of {name}": v for name, v in versions.items()}}

    @cached_property
    def completions(self) -> list[dict[str, Any]]:
        """Rows of completions.jsonl; [] if the run wrote none."""
        file = self.path / "completions.jsonl"
        return read_jsonl(file) if file.is_file() else []

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """Rows of eval_completions.jsonl; [] if there are none."""
        file = self.path / "eval_completions.jsonl"
        return read_jsonl(file) if file.is_file() else []

    @cached_property
    def problems(self) -> list[dict[str, Any]]:
        """Rows of problems.jsonl; [] if no problem has a system message or tools."""
        file = self.path / "problems.jsonl"
        return read_jsonl(file) if file.is_file() else []

    def column(self, name: str) -> list[float]:
        """Return the values of a metric, for the steps that have it."""
        return [float(row[name]) for row in self.steps if name in row]

    def early(self, name: str) -> float:
        """Return a metric's mean over the first quarter of the steps, at most 20; 0 without any."""
        column = self.column(name)
        return fmean(column[: quarter(column)]) if column else 0.0

    def late(self, name: str) -> float:
        """Return a metric's mean over the last quarter of the steps, at most 20; 0 without any."""
        column = self.column(name)
        return fmean(column[-quarter(column) :]) if column else 0.0

    @property
    def parts(self) -> list[str]:
        """The names of the reward components that were logged."""
        names = {key for row in self.steps for key in row if key.startswith("reward/")}
        return sorted(name.removeprefix("reward/") for name in names - NOT_PARTS)

    @property
    def main_part(self) -> str | None:
        """The environment's own part with the largest weight, which measures the task itself."""
        weights = self.about.get("weights", {})
        own = [part for part in self.parts if part in self.about.get("own", self.parts)]
        return max(own, key=lambda part: float(weights.get(part, 1.0)), default=None)


NOT_PARTS = {"reward/mean", "reward/std", "reward/invalid"}
"""Metrics below `reward/` that are not reward components."""


def read_record(path: Path) -> Record:
    """Read the folder of a run.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not (path / "metrics.jsonl").is_file():
        raise ConfigError(f"{path}: no metrics.jsonl. Give the folder of a run.")
    return record_of(path)


def record_of(path: Path) -> Record:
    """Read the files of a folder, even if its run never began."""
    folder = RunFolder(path)
    files = [path / f"{name}.jsonl" for name in ("metrics", "eval")]
    steps, evals = (read_jsonl(file) if file.is_file() else [] for file in files)
    pairs = (override.partition("=") for override in folder.overrides)
    return Record(
        path=path,
        steps=steps,
        evals=evals,
        config=folder.config or {},
        about=folder.about,
        state=state_of(folder, steps),
        overrides={key.lstrip("+"): value for key, _, value in pairs},
        result=folder.result or {},
        stopped=folder.stopped,
    )


def state_of(folder: RunFolder, steps: Sequence[Mapping[str, Any]]) -> str:
    """Return how a run ended: `done`, `failed: <why>`, or `cut off after step <N>`."""
    if folder.error is not None:
        return f"failed: {folder.error}"
    if folder.result is None:
        return f"cut off after step {steps[-1]['step'] if steps else 0}"
    return "done"


def quarter(column: Sequence[float]) -> int:
    """Return the number of values in the first and in the last quarter: 1 to 20."""
    return min(20, max(1, len(column) // 4))
