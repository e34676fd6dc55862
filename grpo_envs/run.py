"""Train: `python -m grpo_envs.run env=math model=qwen`; with `-m`, a sweep."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from grpo_envs.config import composition, place
from grpo_envs.config.convert import explain
from grpo_envs.config.help import help_text
from grpo_envs.env import plugins
from grpo_envs.errors import ConfigError, GrpoEnvsError, nearest
from grpo_envs.runs.folder import RunFolder, failures
from grpo_envs.runtime import launch
from grpo_envs.runtime.allocator import keep_freed_memory
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.stopping import end_on_sigterm
from grpo_envs.runtime.terminal import INTERRUPTED
from grpo_envs.runtime.threads import wait_passively
from grpo_envs.training import job

log = logging.getLogger(__name__)
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_OF_SWEEPS = ("hydra.launcher", "hydra.sweeper", "hydra.sweep.")
"""Prefixes of the keys that only a sweep uses."""
_FIRST_SAYS = 15.0
"""Seconds that other processes wait, so that the first process reports an error first."""


@hydra.main(config_path=str(plugins.conf_dir()), config_name="config", **composition.RUNNING)
def _hydra_main(cfg: DictConfig) -> float | None:
    if job.in_sweep():
        return job.run_in_sweep(cfg)  # raises no SystemExit: it would end the whole sweep
    try:
        return job.run(cfg)
    except Exception as error:
        if _is_bug(error):
            log.exception("failed")  # run.log has the traceback
        place.abandon()
        raise SystemExit(_in_words(error)) from None  # Hydra would print more


def main() -> None:
    """Compose the configuration and train; turn every error into one line."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    started = time.time()
    if {"-h", "--help"} & {*sys.argv}:
        if launch.speaks():
            _print_help([word for word in sys.argv[1:] if not word.startswith("-")])
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors to us instead of printing a page
    end_on_sigterm()
    wait_passively()
    keep_freed_memory()
    try:
        _begin(sys.argv[1:])
    except job.Terminated:
        sys.exit(0)
    except KeyboardInterrupt:
        place.abandon()
        sys.exit(INTERRUPTED)
    except job.JobFailed as error:
        sys.exit(_failures_in_words(failures(error.folder.parent, started)))
    except Exception as error:
        place.abandon()
        if wants_traceback:
            raise
        _fail(_in_words(error))


def _begin(words: list[str]) -> None:
    """Run as the only process, the first of several processes, or one of the others."""
    if launch.count() > 1:
        flags = [word for word in words if word.startswith("-")]
        if flags:
            raise ConfigError(
                f"{flags[0]} in a run of several processes. Allowed: key=value. A sweep has runs "
                "of one process each: python -m grpo_envs.run -m ..."
            )
    if launch.index() == 0:
        _require_options(words)
        _hydra_main()
        return
    logging.getLogger().addHandler(logging.NullHandler())  # the first process logs
    job.follow(words)


def _require_options(words: list[str]) -> None:
    """Refuse options that Hydra does not know, and keys of sweeps that a single run would ignore.

    Hydra would answer an unknown option with the list of all options, and would ignore such a key.
    """
    parser = get_args_parser()
    known = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        flag = message.rpartition(": ")[2].split()[0]
        close = nearest(flag, known) if flag.startswith("-") else ""
        raise ConfigError(f"{message}. Allowed: options of --hydra-help, then key=value.{close}")

    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(words)
    if given.multirun or any(word.startswith("hydra.mode=") for word in given.overrides):
        return
    for word in given.overrides:
        if word.lstrip("+").replace("/", ".").startswith(_OF_SWEEPS):
            raise ConfigError(
                f"{word} in a single run, which has no use for it. Allowed: in a sweep, "
                "python -m grpo_envs.run -m ..."
            )


def _fail(line: str) -> NoReturn:
    """End with one line.

    Of several processes on a machine, the first prints its line at once, and the launcher then ends
    the others. A process that still runs after a while has an error of its own, and prints it.
    """
    if not launch.speaks():
        time.sleep(_FIRST_SAYS)
    sys.exit(line)


def _in_words(error: Exception) -> str:
    """Return the line that a command ends with."""
    if isinstance(error, GrpoEnvsError):
        return f"grpo_envs: {error}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"grpo_envs: {explain(error)}"
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = f" ({shown(Path(error.filename))})" if error.filename else ""
        saved = "Saved checkpoints are complete; resume=auto continues."
        return f"grpo_envs: {error.strerror}{where}. {saved}"
    said = " ".join(str(error).split())
    return f"grpo_envs: {type(error).__name__}: {said} (HYDRA_FULL_ERROR=1 shows where)"


def _is_bug(error: Exception) -> bool:
    """Return whether an error is neither a mistake in the configuration nor one of the disk."""
    of_the_disk = isinstance(error, OSError) and error.errno in _OF_THE_DISK
    return not (isinstance(error, GrpoEnvsError) or of_the_disk)


def _print_help(overrides: list[str]) -> None:
    """Print our help. Hydra's own takes two seconds, to list options that ours leaves out."""
    try:
        print(help_text(composition.composed(overrides)))
    except GrpoEnvsError as error:
        sys.exit(f"grpo_envs: {error}")


def _failures_in_words(failed: list[RunFolder]) -> str:
    """Return which jobs of a sweep failed, a line each: Hydra reports only the first one."""
    lines = [f"  {shown(folder.path)}: {folder.error}" for folder in failed]
    head = f"grpo_envs: {len(failed)} of the sweep's jobs failed; the same command tries them again"
    return "\n".join([f"{head}:", *lines])


if __name__ == "__main__":
    main()
