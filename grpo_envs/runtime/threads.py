"""The number of computing threads on a CPU, and how they wait. torch is imported late."""

from __future__ import annotations

import logging
import os
import sys

from grpo_envs.runtime.launch import cores

log = logging.getLogger(__name__)
AUTO = "auto"
_SMALL = 5_000_000
"""Below this number of parameters one thread computes. For the bundled model (0.9 M), a second
thread made steps 1.4 times as fast on a quiet machine, and slower on a busy machine."""


def wait_passively() -> None:
    """Let waiting threads sleep, not spin. Call this before torch is imported.

    On a busy machine a spinning thread occupies the core that another thread needs: two threads
    beside a busy process take twice the time of one (`OMP_WAIT_POLICY`, OpenMP 5.2, 21.3). An idle
    machine keeps the default, which is faster there.
    """
    shared = hasattr(os, "getloadavg") and os.getloadavg()[0] >= 1
    if shared and "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def threads_for(asked: int | str, parameters: int, processes: int = 1) -> int:
    """Return the number of computing threads.

    Args:
        asked: A number, or auto: OMP_NUM_THREADS if it is set, else 1 for a small model and this
            process's share of the cores for a larger one.
        parameters: Parameters of the model.
        processes: Processes that compute at the same time on this share, including this one.
    """
    if asked != AUTO:
        return int(asked)
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return 1 if parameters < _SMALL else max(1, cores() // processes)


def settle(
    asked: int | str, parameters: int, recorded: int | None = None, *, processes: int = 1
) -> None:
    """Set the number of computing threads, and log it.

    Args:
        asked: `trainer.threads`.
        parameters: Parameters of the model.
        recorded: Number of threads in the resumed run; `auto` keeps it, for identical results.
        processes: As in `threads_for`.
    """
    import torch  # here: `wait_passively` must run before the import

    if recorded is None:
        threads = threads_for(asked, parameters, processes)
        log.info(line(threads))
    elif asked != AUTO or recorded == torch.get_num_threads():
        return
    elif recorded > cores():
        now = torch.get_num_threads()
        text = "%d threads computed before, %d do now: its numbers will differ in their last bits"
        log.warning(text, recorded, now)
        return
    else:
        threads = recorded
        log.info("as before: %s", line(threads))
    torch.set_num_threads(threads)


def computing() -> int:
    """Return the present number of computing threads."""
    import torch

    return torch.get_num_threads()


def line(threads: int) -> str:
    """Return the log line about the computing threads."""
    if threads == 1:
        return "1 thread computes: the same seed gives the same numbers under any load."
    return (
        f"{threads} threads compute: on a busy machine the same seed gives numbers that differ in "
        "their last bits; with trainer.threads=1 it does not."
    )
