"""The folder of a run or a sweep, reserved before Hydra writes into it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from grpo_envs.config.composition import sweep_keys
from grpo_envs.config.convert import explain
from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runtime.files import shown

AUTO = "auto"
"""`resume=auto`: continue an interrupted run of the same command, or start a new one."""
_taken: list[RunFolder] = []
"""The folder of this process's run or sweep."""
_held = ExitStack()
"""The lock on a sweep's folder. Kept outside `Place`, which launchers pickle for other
processes."""


class Place(Callback):
    """A Hydra callback that gives each command a folder of its own."""

    def __init__(self, new: str) -> None:
        """Take Hydra's arguments.

        Args:
            new: Folder of a new run if the command names none.
        """
        self.new = new

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder of a new run, under another name if the name is taken."""
        with _in_one_line():
            _require_sweep(config.hydra.overrides.hydra)
            folder = Path(config.hydra.run.dir)
            if config.resume not in (None, AUTO):
                _require_run(config.resume, folder)
            if str(folder) == self.new:
                folder = _made(folder)
                with read_write(config):
                    config.hydra.run.dir = str(folder)
            _taken[:] = [RunFolder(folder)]

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Lock a sweep's folder against other sweeps while this sweep runs."""
        with _in_one_line():
            _require_slurm(str(config.hydra.launcher._target_))
            _name_jobs_by_what_varies(config)
            folder = Path(config.hydra.sweep.dir)
            free = _locked(folder)
            _taken[:] = [RunFolder(free)]
            # Only Hydra's own sweeper writes this file. Reports recognise a sweep by it.
            OmegaConf.save(config, free / "multirun.yaml")
            if free != folder:
                here = "another sweep is using it; this one goes to"
                sys.stderr.write(f"{shown(folder)}: {here} {shown(free)}\n")
                quoted = str(free).replace("\\", "\\\\").replace("'", "\\'")
                with read_write(config):
                    config.hydra.sweep.dir = str(free)
                    config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")  # its jobs'


def _name_jobs_by_what_varies(config: DictConfig) -> None:
    """Leave keys with a single value out of the names of the sweep's jobs."""
    keys = sweep_keys(list(config.hydra.overrides.task))
    fixed = [key for key, value in keys.items() if value is not None]
    if len(fixed) == len(keys):  # a single job, named by all keys
        return
    but = [*config.hydra.job.config.override_dirname.exclude_keys, *fixed]
    quoted = ",".join(f"'{key}'" for key in but)
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]"
    with read_write(config):
        config.hydra.overrides.hydra.append(excluded)


def abandon() -> None:
    """Remove the folder of a command that ends before its run or its sweep begins."""
    _held.close()
    for folder in _taken:
        folder.abandon()


def _names(folder: Path) -> Iterator[Path]:
    """Yield the names that a folder may have, the shortest first."""
    yield folder
    yield from (folder.with_name(f"{folder.name}_{number}") for number in count(2))


def _made(folder: Path) -> Path:
    """Make a folder that did not exist; return it. Concurrent processes get different folders."""
    for name in _names(folder):
        while True:
            name.parent.mkdir(parents=True, exist_ok=True)
            try:
                name.mkdir()
            except FileExistsError:
                break
            except FileNotFoundError:  # another command has removed the empty parent meanwhile
                continue
            return name
    raise AssertionError  # `_names` is endless


def _locked(folder: Path) -> Path:
    """Lock the first folder that no other process has locked, until this process ends."""
    for name in _names(folder):
        try:
            _held.enter_context(RunFolder(name).locked())
        except ConfigError:
            continue
        return name
    raise AssertionError  # `_names` is endless


def _require_run(resume: str, folder: Path) -> None:
    """Refuse to resume a folder without a run, or a run in the folder of another run."""
    named = RunFolder(Path(resume)).begun
    if named and Path(resume).resolve() != folder.resolve():
        raise ConfigError(f"resume={resume} with hydra.run.dir={folder}. Allowed: one of them.")
    if not RunFolder(folder).begun:
        raise ConfigError(f"resume={resume}: no checkpoint in it.")


def _require_sweep(overrides: Iterable[str]) -> None:
    """Refuse options that only a sweep uses: Hydra would train here, not on the named cluster."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("hydra/launcher", "hydra/sweeper") and value != "basic":
            raise ConfigError(f"{override} is for a sweep. Allowed: with -m, e.g. -m seed=0,1,2.")


def _require_slurm(launcher: str) -> None:
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if launcher.endswith(".SlurmLauncher") and missing:
        raise ConfigError(
            f"hydra/launcher=submitit_slurm: no {missing[0]} here, so no Slurm cluster. Allowed: "
            "hydra/launcher=joblib, submitit_local, basic."
        )


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn an error into one line that ends the process: Hydra makes it a warning otherwise."""
    try:
        yield
    except (GrpoEnvsError, OSError) as error:
        raise SystemExit(f"grpo_envs: {error}") from None
    except OmegaConfBaseException as error:
        raise SystemExit(f"grpo_envs: {explain(error)}") from None
