"""Memory: how much this process uses, how much is left, and which errors mean that none is."""

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
    """No memory was left; saved checkpoints are complete."""


def ran_out(error: BaseException) -> bool:
    """Return whether an error means that a device or the machine had no memory left."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return words or isinstance(error, MemoryError)


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn an out-of-memory error in the block into a line that says what to do.

    Raises:
        MemoryExhausted: the block ran out of memory.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, GrpoEnvsError) or not ran_out(error):
            raise
        raise MemoryExhausted(
            "out of memory. Saved checkpoints are complete; resume=auto continues. If "
            "memory/process of metrics.jsonl rises with the steps, a function of env.rewards or "
            "the environment keeps what it sees; else lower agent.group_size or "
            "sampler.max_new_tokens."
        ) from error


def memory_metrics(root: Path = Path("/")) -> dict[str, float]:
    """Return `memory/process` and `memory/left` [MiB]; {} if there is no /proc.

    `memory/process` is the resident memory without mapped files, which the system may drop.
    `memory/left` is the minimum of what the machine, a control group (a container, a job of Slurm)
    and `ulimit -v` allow.

    Args:
        root: The folder of /proc and /sys.
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

    `allocated` is the present size of tensors, `peak` their largest size since the previous call,
    and `reserved` what PyTorch has taken from the device. {} if no GPU is used.
    """
    torch = sys.modules.get("torch")  # without torch no GPU is used
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
    """Yield the bytes that each control group of this process has left; inf without a limit."""
    yield math.inf
    try:
        groups = (root / "proc/self/cgroup").read_text()
    except OSError:
        return
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in groups.splitlines()}
    for controller, mount, limit, usage in _GROUPS:
        place = Path(paths.get(controller, "/"))
        for folder in (place, *place.parents):  # some are not visible in a container
            here = root / mount / str(folder).lstrip("/")
            try:
                most = _number((here / limit).read_text())
                used = _number((here / usage).read_text())
                cache = (here / "memory.stat").read_text().split("inactive_file")[-1].split()[0]
            except (OSError, IndexError):
                continue
            yield most - used + _number(cache)


def _number(text: str) -> float:
    """Return a number of bytes; inf for words such as `max`."""
    return int(text) if text.strip().isdigit() else math.inf
