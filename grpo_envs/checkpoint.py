"""Checkpoints: a Transformers folder plus what the trainer needs to go on, written atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_envs.files import fsync, shown, write_atomically
from grpo_envs.run_folder import differences

_STATE = "trainer.pt"
_META = "trainer.json"


class Checkpoints:
    """`checkpoints/step_000100/` and the link `checkpoints/last` in a run's folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    @property
    def last(self) -> Path:
        """The link to the newest whole checkpoint."""
        return self.folder / "last"

    def save(self, step: int, policy: Any, state: Mapping[str, Any], config: Any) -> Path:
        """Write a checkpoint: model and tokenizer, `state` and the run's configuration.

        Args:
            step: Optimiser steps done.
            policy: With `model` and `tokenizer` as Transformers has them.
            state: Tensors, numbers and containers of them.
            config: The decisive keys, compared on resume; must be JSON.
        """
        import torch  # as in `load`

        final = self.folder / f"step_{step:06d}"
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        policy.model.save_pretrained(temporary)
        policy.tokenizer.save_pretrained(temporary)
        torch.save(dict(state), temporary / _STATE)
        write_atomically(temporary / _META, json.dumps({"step": step, "config": config}, indent=1))
        for file in temporary.iterdir():
            fsync(file)
        if final.exists():  # the same step again, after a resume
            shutil.rmtree(final)
        temporary.rename(final)
        self._point_last_to(final)
        fsync(self.folder)
        return final

    def require(self, config: Mapping[str, Any]) -> int:
        """Return the step of the last checkpoint. Loads nothing: a mistake is told within a second.

        Raises:
            ConfigError: there is none, or it comes from another configuration; the message names
                the keys that differ.
        """
        if not (self.last / _META).is_file():
            raise ConfigError(f"resume={shown(self.folder.parent)}: no checkpoint in it.")
        meta = json.loads((self.last / _META).read_text(encoding="utf-8"))
        told = differences(meta["config"], config)
        if told:
            raise ConfigError(f"resume={shown(self.folder.parent)}: another configuration: {told}.")
        return int(meta["step"])

    def load(self, config: Mapping[str, Any]) -> tuple[int, Path, dict[str, Any]]:
        """Return step, folder and state of the last checkpoint.

        Raises:
            ConfigError: as in `require`.
        """
        import torch  # not at the top: who only asks need not wait for it

        step = self.require(config)
        state = torch.load(self.last / _STATE, weights_only=True, map_location="cpu")
        return step, self.last.resolve(), state

    def _point_last_to(self, final: Path) -> None:
        link = self.folder / ".last.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        link.replace(self.last)
