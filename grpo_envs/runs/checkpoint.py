"""Checkpoints: a Transformers folder and the trainer's state, written atomically."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from pickle import UnpicklingError  # what torch raises
from typing import Any

from grpo_envs.errors import CheckpointError, ConfigError
from grpo_envs.runs.folder import require_alike
from grpo_envs.runtime.files import fsync, shown, write_atomically

log = logging.getLogger(__name__)
_STATE = "trainer.pt"
_META = "trainer.json"


class Checkpoints:
    """`checkpoints/step_000100/` and the links `last` and `best` beside it, in a run's folder."""

    def __init__(self, run: Path, keep: int = 0, dtype: str = "fp32") -> None:
        """Find the checkpoints of a run's folder.

        Args:
            run: The folder.
            keep: Number of newest checkpoints that are kept; 0: all.
            dtype: Type of the saved model's weights; `trainer.save_dtype`.
        """
        self.folder = run / "checkpoints"
        self.keep = keep
        self.dtype = dtype

    @property
    def last(self) -> Path:
        """The link to the newest checkpoint."""
        return self.folder / "last"

    @property
    def best(self) -> Path:
        """The link to the checkpoint of the best evaluation, see `trainer.keep_best`."""
        return self.folder / "best"

    def after(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.folder / f"step_{step:06d}"

    def newest_whole(self) -> Path | None:
        """Return the newest complete checkpoint, from which a run resumes.

        None if there is none: the run starts from the beginning.
        """
        newest_first = sorted(self.folder.glob("step_*"), reverse=True)
        return next((folder for folder in newest_first if not _lacks(folder)), None)

    def set_aside(self) -> list[str]:
        """Rename incomplete checkpoints, so that a run from the beginning does not overwrite them.

        Returns:
            Their new names, with what they lack.
        """
        kept = []
        for folder in sorted(self.folder.glob("step_*")):
            lacks = _lacks(folder)
            if lacks:
                name = self._unused(f"broken_{folder.name}")
                folder.rename(self.folder / name)
                kept.append(f"{name} ({lacks})")
        if self.last.is_symlink() and not self.last.exists():
            self.last.unlink()
        return kept

    def _unused(self, name: str) -> str:
        names = (f"{name}-{number}" if number > 1 else name for number in count(1))
        return next(each for each in names if not (self.folder / each).exists())

    def save(self, step: int, policy: Any, state: Mapping[str, Any] | None, config: Any) -> Path:
        """Write a checkpoint: model and tokenizer, `state` and the run's configuration.

        Args:
            step: Optimiser steps done.
            policy: The policy; `policy.save` writes model and tokenizer into a folder.
            state: Tensors, numbers and containers of them; None for a checkpoint that no run can
                resume from.
            config: The decisive keys, compared on resume; must be JSON.

        Raises:
            CheckpointError: the checkpoint cannot be written.
        """
        final = self.after(step)
        temporary = self.folder / f".{final.name}.tmp"
        for left in self.folder.glob(".step_*.tmp"):  # left by a killed process
            shutil.rmtree(left)
        try:
            self._write(
                temporary, policy, state, {"step": step, "config": config, "dtype": self.dtype}
            )
        except Exception as error:  # of the system, safetensors or torch
            shutil.rmtree(temporary, ignore_errors=True)
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            older = self.newest_whole()
            again = "" if state is None else ", resume=auto continues from it"
            good = f"{older.name} is whole{again}" if older else "none before"
            raise CheckpointError(f"{shown(final)} cannot be written: {cause}; {good}.") from error
        if final.exists():  # a resumed run repeats the step
            shutil.rmtree(final)
        temporary.rename(final)
        self.point_last_to(final)
        fsync(self.folder)
        if self.keep:  # later ones are incomplete: they do not count
            until = [path for path in sorted(self.folder.glob("step_*")) if path.name <= final.name]
            best = self.best.resolve()
            for old in until[: -self.keep]:
                if old.resolve() != best:
                    shutil.rmtree(old)
        return final

    def _write(
        self, temporary: Path, policy: Any, state: Mapping[str, Any] | None, meta: Mapping[str, Any]
    ) -> None:
        import torch  # as in `load`

        temporary.mkdir(parents=True)
        policy.save(temporary, self.dtype)
        if state is not None:
            torch.save(dict(state), temporary / _STATE)
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        write_atomically(temporary / _META, json.dumps({**meta, "bytes": sizes}, indent=1))
        mode = (temporary / _META).stat().st_mode  # by the umask; safetensors writes 0600
        for file in temporary.iterdir():
            file.chmod(mode)
            fsync(file)

    def require(self, config: Mapping[str, Any]) -> int:
        """Return the step of the checkpoint to resume from, without loading it.

        A log line names each newer checkpoint that is incomplete, for example after a full disk.

        Raises:
            ConfigError: there is no checkpoint, it has no optimizer, or its configuration differs;
                the message names the keys that differ.
        """
        folder = self.newest_whole()
        for newer in sorted(self.folder.glob("step_*"), reverse=True) if folder else ():
            if newer == folder:
                break
            log.warning("%s is not whole (%s): passed over", shown(newer), _lacks(newer))
        return self._step(folder, config)

    def _step(self, folder: Path | None, config: Mapping[str, Any]) -> int:
        """Return the step of a checkpoint that has the given configuration."""
        if folder is None:
            raise ConfigError(f"resume={shown(self.folder.parent)}: no checkpoint in it.")
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        require_alike(self.folder.parent, meta["config"], config)
        if not (folder / _STATE).is_file():
            raise ConfigError(
                f"resume={shown(self.folder.parent)}: its checkpoints have no optimizer "
                "(trainer.save_optimizer=false). Allowed: python -m grpo_envs.evaluate and export, "
                "or a new run."
            )
        return int(meta["step"])

    def load(self, config: Mapping[str, Any]) -> tuple[int, Path, dict[str, Any]]:
        """Return step, folder and state of the newest whole checkpoint.

        Raises:
            ConfigError: as in `require`.
        """
        import torch  # here: `require` does not need torch

        newest = self.newest_whole()
        step = self._step(newest, config)
        folder = self.after(step)
        try:
            state = torch.load(folder / _STATE, weights_only=True, map_location="cpu")
        except UnpicklingError as error:
            cause = "it holds more than numbers and texts, which could run as code: refused"
            raise ConfigError(f"{shown(folder / _STATE)}: {cause}.") from error
        return step, folder.resolve(), state

    def point_last_to(self, final: Path) -> None:
        """Point the link `last` to this checkpoint."""
        _point(self.last, final)

    def point_best_to(self, step: int) -> None:
        """Point the link `best` to the checkpoint after `step` steps."""
        _point(self.best, self.after(step))


def _point(name: Path, final: Path) -> None:
    """Point a link to a checkpoint in the same folder."""
    link = name.with_name(f".{name.name}.tmp")
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    link.replace(name)


def _lacks(folder: Path) -> str:
    """Return what a checkpoint lacks, in words; '' if it is complete."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        meta = None
    if not (isinstance(meta, dict) and {"step", "config"} <= meta.keys()):
        return f"no {_META} that can be read"
    for name, size in meta.get("bytes", {}).items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if there != size:
            return f"{name} has {there:,} of {size:,} bytes"
    return ""
