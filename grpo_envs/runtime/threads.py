"""How many threads of a CPU compute, and how they wait for each other. torch is imported late."""

from __future__ import annotations

import logging
import os
import sys

from grpo_envs.runtime.launch import cores

log = logging.getLogger(__name__)
AUTO = "auto"
_SMALL = 5_000_000
"""Parameters below which one thread computes: a second one made the steps of the bundled model
(0.9 M) 1.4 times as fast on a quiet machine, and slower than one on a busy machine."""


def wait_passively() -> None:
    """Let threads that wait for others sleep and not spin; call it before torch is imported.

    On a machine with other work a thread that spins takes the core that the other one needs: two
    threads beside a busy process take twice the time of one (`OMP_WAIT_POLICY`, OpenMP 5.2, 21.3).
    A machine with nothing else to do keeps the default, which is faster there.
    """
    shared = hasattr(os, "getloadavg") and os.getloadavg()[0] >= 1
    if shared and "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def threads_for(asked: int | str, parameters: int, processes: int = 1) -> int:
    """Return how many threads are to compute.

    Args:
        asked: A number, or auto: OMP_NUM_THREADS where it is set, else 1 for a small model and
            this process's share of the cores for a larger one.
        parameters: Of the model.
        processes: Those that compute at once for this one, itself included.
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
    """Choose the threads that compute, and say so in a line.

    Args:
        asked: `trainer.threads`.
        parameters: Of the model.
        recorded: How many computed in the run that goes on, whose bits `auto` keeps.
        processes: As of `threads_for`.
    """
    import torch  # not above: `wait_passively` comes before it

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
    """Return how many threads compute."""
    import torch

    return torch.get_num_threads()


def line(threads: int) -> str:
    """Return what a run says of its threads."""
    if threads == 1:
        return "1 thread computes: the same seed gives the same numbers under any load."
    return (
        f"{threads} threads compute: on a busy machine the same seed gives numbers that differ in "
        "their last bits; with trainer.threads=1 it does not."
    )
