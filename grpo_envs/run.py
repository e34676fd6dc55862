"""Train: `python -m grpo_envs.run env=math model=qwen`; with `-m`, a sweep."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from grpo_envs import composition, config, job, plugins
from grpo_envs.errors import GrpoEnvsError
from grpo_envs.files import shown
from grpo_envs.help import help_text
from grpo_envs.run_folder import RunFolder, failures

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@hydra.main(config_path=str(plugins.conf_dir()), config_name="config", **composition.RUNNING)
def _hydra_main(cfg: DictConfig) -> float | None:
    if job.in_sweep():
        return job.run_in_sweep(cfg)  # raises no SystemExit: it would end the whole sweep
    try:
        return job.run(cfg)
    except GrpoEnvsError as error:
        raise SystemExit(f"grpo_envs: {error}") from None
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise SystemExit(_told_of_disk(error)) from None


def main() -> None:
    """Compose, train, and turn a mistake in the configuration into one line."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    started = time.time()
    if {"-h", "--help"} & {*sys.argv}:
        _print_help([word for word in sys.argv[1:] if not word.startswith("-")])
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors to us instead of printing a page
    try:
        _hydra_main()
    except job.Terminated:
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except job.JobFailed as error:
        sys.exit(_told(failures(error.folder.parent, started)))
    except (GrpoEnvsError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        sys.exit(f"grpo_envs: {config.explain(error)}")
    except OSError as error:
        if wants_traceback or error.errno not in _OF_THE_DISK:
            raise
        sys.exit(_told_of_disk(error))


def _told_of_disk(error: OSError) -> str:
    where = f" ({shown(Path(error.filename))})" if error.filename else ""
    return f"grpo_envs: {error.strerror}{where}. What was saved is whole; resume=auto goes on."


def _print_help(overrides: list[str]) -> None:
    """Print the help: not through Hydra, which takes two seconds to list what ours does not use."""
    try:
        print(help_text(composition.composed(overrides)))
    except GrpoEnvsError as error:
        sys.exit(f"grpo_envs: {error}")


def _told(failed: list[RunFolder]) -> str:
    """Return which jobs of a sweep failed, a line each: Hydra tells of the first one only."""
    lines = [f"  {shown(folder.path)}: {folder.error}" for folder in failed]
    told = f"grpo_envs: {len(failed)} of the sweep's jobs failed; the same command tries them again"
    return "\n".join([f"{told}:", *lines])


if __name__ == "__main__":
    main()
