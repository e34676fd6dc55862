"""Memory: what this process has of it, what is left, and whether an error says that none is."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_envs.errors import GrpoEnvsError

_MIB = 2**20
_WORDS = ("out of memory", "can't allocate memory", "can't start new thread")
_GROUPS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Versions 2 and 1 of control groups: controller, folder, limit, usage."""


class MemoryExhausted(GrpoEnvsError):
    """There was no memory left; what was saved is whole."""


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that a device or the machine had no memory left."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return words or isinstance(error, MemoryError)


@contextmanager
def in_one_line() -> Iterator[None]:
    """Let what runs out of memory end with a line that says what to do.

    Raises:
        MemoryExhausted: it did.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, GrpoEnvsError) or not ran_out(error):
            raise
        raise MemoryExhausted(
            "out of memory. What was saved is whole; resume=auto goes on. If memory/process of "
            "metrics.jsonl rises with the steps, a function of env.rewards or the environment "
            "keeps what it sees; else turn agent.group_size or sampler.max_new_tokens down."
        ) from error


def memory_metrics(root: Path = Path("/")) -> dict[str, float]:
    """Return `memory/process` and `memory/left` [MiB]; nothing if there is no /proc.

    The process has what is resident, without mapped files: the system may drop those. Left is the
    least that the machine, a control group (a container, a job of Slurm) and `ulimit -v` allow.

    Args:
        root: Where /proc and /sys are.
    """
    proc = root / "proc"
    try:
        pages = [int(word) for word in (proc / "self/statm").read_text().split()]
        words = (proc / "meminfo").read_text().split("MemAvailable:")[1].split()
        limits = (proc / "self/limits").read_text()
    except (OSError, IndexError):
        return {}
    virtual, resident, mapped = (number * os.sysconf("SC_PAGE_SIZE") for number in pages[:3])
    most = _number(limits.partition("Max address space")[2].split()[0])
    left = min(int(words[0]) * 1024, most - virtual, *_left_in_groups(root))
    return {"memory/process": (resident - mapped) / _MIB, "memory/left": max(left, 0) / _MIB}


def gpu_metrics() -> dict[str, float]:
    """Return `memory/allocated`, `memory/reserved` and `memory/peak` [MiB] of a CUDA GPU in use.

    Allocated are tensors now, peak the most of them since the call before, reserved is what PyTorch
    has taken from the device; nothing where no GPU is used.
    """
    torch = sys.modules.get("torch")  # without it no GPU is
    if torch is None or not torch.cuda.is_initialized():
        return {}
    cuda = torch.cuda
    sizes = {
        "memory/allocated": cuda.memory_allocated(),
        "memory/reserved": cuda.memory_reserved(),
        "memory/peak": cuda.max_memory_allocated(),
    }
    cuda.reset_peak_memory_stats()
    return {name: size / _MIB for name, size in sizes.items()}


def _left_in_groups(root: Path) -> Iterator[float]:
    """Yield the bytes that each control group around this process has left; inf without a limit."""
    yield math.inf
    try:
        groups = (root / "proc/self/cgroup").read_text()
    except OSError:
        return
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in groups.splitlines()}
    for controller, mount, limit, usage in _GROUPS:
        place = Path(paths.get(controller, "/"))
        for folder in (place, *place.parents):  # in a container some are not to be seen
            here = root / mount / str(folder).lstrip("/")
            try:
                most = _number((here / limit).read_text())
                used = _number((here / usage).read_text())
                cache = (here / "memory.stat").read_text().split("inactive_file")[-1].split()[0]
            except (OSError, IndexError):
                continue
            yield most - used + _number(cache)


def _number(text: str) -> float:
    """Read a number of bytes; other words mean that there is no limit."""
    return int(text) if text.strip().isdigit() else math.inf
