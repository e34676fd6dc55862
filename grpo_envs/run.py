"""Train: `python -m grpo_envs.run env=math model=qwen`."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from grpo_envs import config, plugins
from grpo_envs.environments import make_envs
from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.files import shown, write_atomically

log = logging.getLogger("grpo_envs.run")  # not __main__, which no logging configuration names
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

config.register()


def train(cfg: DictConfig) -> float | None:
    """Run one composed configuration; return the last held-out accuracy."""
    run = config.convert(cfg)
    out = Path(HydraConfig.get().runtime.output_dir)
    finished = _finished(run, out)
    if finished is not None:
        return finished
    envs = make_envs(run)
    from grpo_envs.build import build  # torch and transformers: not for --help, nor for a mistake

    trainer = build(run, out, envs)
    accuracy = trainer.run()
    if trainer.interrupted:
        log.warning("stopped after step %d, saved. To go on:\n  %s", trainer.done, _command(out))
        raise KeyboardInterrupt
    done = {"accuracy": accuracy, "steps": trainer.done, "config": run.fingerprint()}
    write_atomically(out / "done.json", json.dumps(done))
    log.info("checkpoint: %s", shown(out / "checkpoints" / "last"))
    return accuracy


def _finished(run: config.RunConfig, out: Path) -> float | None:
    """Return the result of a run that is already in `out`; refuse one that is in the way."""
    done = out / "done.json"
    if run.resume is None and done.is_file():
        before = json.loads(done.read_text(encoding="utf-8"))
        if before["config"] != run.fingerprint():
            raise ConfigError(f"{shown(out)} holds a run of another configuration.")
        log.info("already done: %s", shown(out))
        return float(before["accuracy"] or 0.0)
    if run.resume is None and (out / "checkpoints").exists():
        raise ConfigError(f"{shown(out)} holds a run. Add resume={shown(out)} to go on.")
    return None


def _command(out: Path) -> str:
    """Return the command that continues this run."""
    overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    return shlex.join(["python", "-m", "grpo_envs.run", *overrides, f"resume={shown(out)}"])


@hydra.main(version_base="1.3", config_path=str(plugins.conf_dir()), config_name="config")
def _hydra_main(cfg: DictConfig) -> float | None:
    try:
        return train(cfg)
    except GrpoEnvsError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # SystemExit would end the whole sweep
        raise SystemExit(f"grpo_envs: {error}") from None


def main() -> None:
    """Compose, train, and turn a mistake in the configuration into one line."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors to us instead of printing a page
    try:
        _hydra_main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (GrpoEnvsError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        sys.exit(f"grpo_envs: {config.explain(error)}")


if __name__ == "__main__":
    main()
