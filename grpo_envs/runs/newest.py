"""The run that a path means, and the one that a command goes on with: the newest of a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from grpo_envs.errors import ConfigError
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runtime.files import shown

_DEEPEST = 3
"""Levels below a given folder that are searched: outputs/math/TIME is three levels down."""


def run_at(path: Path) -> Path:
    """Return the run that a path means; the path itself if it means none.

    If the run is the newest one of a folder, a line on stderr names it.
    """
    found = newest_run(path)
    if found is None:
        return path
    sys.stderr.write(f"{shown(path)}: its newest run is {shown(found)}\n")
    return found


def model_path(given: str | None) -> str | None:
    """Return `model.path`; for a folder of runs its newest run, see `run_at`."""
    return given and str(run_at(Path(given).expanduser()))


def newest_run(path: Path) -> Path | None:
    """Return the latest run below a folder; None for a run, a model or any other path."""
    if _is_run(path) or _is_model(path) or not path.is_dir():
        return None
    return max(_runs_below(path, _DEEPEST), key=_began, default=None)


def runs_in(path: Path) -> list[Path]:
    """Return the run in a folder, or all runs below it, by name; including failed jobs.

    Raises:
        ConfigError: there are no runs.
    """
    if _is_run(path):
        return [path]
    found = {*_runs_below(path, _DEEPEST)} if path.is_dir() else set()
    found |= {mark.parent for mark in path.glob("*/failed.json")}
    if not found:
        raise ConfigError(f"{shown(path)}: no run in it. Give runs, or folders of runs.")
    return sorted(found)


def model_in(path: Path) -> Path:
    """Return the model that a path means: for a run its last checkpoint, else the path itself.

    Raises:
        ConfigError: the path is a run without a checkpoint, or a folder of several runs.
    """
    last = path / "checkpoints" / "last"
    if last.exists():
        return last
    if _is_run(path) and not _is_model(path):
        raise ConfigError(f"model.path={shown(path)}: a run without a checkpoint yet.")
    if newest := newest_run(path):  # ambiguous: the next run would be newer
        raise ConfigError(f"model.path={shown(path)}: a folder of runs. Give model.path={newest}.")
    return path


def newest_cut_off(runs: Path, overrides: Sequence[str]) -> Path | None:
    """Return the newest interrupted run of a command; None if there is none.

    Args:
        runs: The folder that holds the runs' folders.
        overrides: Overrides of the command; `resume=` is ignored.
    """
    said = [override for override in overrides if not override.startswith("resume=")]
    for path in sorted(runs.glob("*/config.json"), reverse=True):
        folder = RunFolder(path.parent)
        before = [override for override in folder.overrides if not override.startswith("resume=")]
        if before == said and folder.result is None:
            return folder.path
    return None


def _is_run(path: Path) -> bool:
    return (path / "metrics.jsonl").is_file() or {"overrides", "config"} <= _keys(path)


def _is_model(path: Path) -> bool:
    """Return whether a folder holds a model, or adapters, in the format of Transformers."""
    return (path / "adapter_config.json").is_file() or "model_type" in _keys(path)


def _keys(path: Path) -> set[str]:
    """Return the keys in a folder's config.json, which may be that of a run, a model or neither."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {*config} if isinstance(config, dict) else set()


def _runs_below(path: Path, depth: int) -> Iterator[Path]:
    """Yield the runs below a folder, down to `depth` levels."""
    try:
        folders = sorted(each for each in path.iterdir() if each.is_dir())
    except OSError:  # not readable: no run of ours
        return
    for folder in folders:
        if folder.name.startswith(".") or folder.is_symlink():
            continue
        if _is_run(folder):
            yield folder
        elif depth > 1:
            yield from _runs_below(folder, depth - 1)


def _began(run: Path) -> tuple[int, str]:
    """Return when a run began or was last resumed [ns], then its name."""
    marks = (run / "config.json", run / "metrics.jsonl")
    mark = next(file for file in marks if file.is_file())
    return mark.stat().st_mtime_ns, run.name
