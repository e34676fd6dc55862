"""What the launcher (`accelerate launch`, `torchrun`) says of the processes that it started.

By the variables of torchrun: https://pytorch.org/docs/stable/elastic/run.html. A run that nobody
launched so is one process.
"""

import os


def index() -> int:
    """Return the number of this process among those of the run, 0 to `count() - 1`."""
    return _number("RANK", 0)


def count() -> int:
    """Return how many processes share the run."""
    return _number("WORLD_SIZE", 1)


def speaks() -> bool:
    """Return whether this process is the one of its machine that prints."""
    return _number("LOCAL_RANK", 0) == 0


def cores() -> int:
    """Return the processor cores that are this process's share: 1 or more."""
    usable = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0))
    return max(1, (usable or os.cpu_count() or 1) // _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, alone: int) -> int:
    """Return a variable; LOCAL_RANK says that it is torchrun's, others set RANK, too."""
    return int(os.environ.get(name, alone)) if "LOCAL_RANK" in os.environ else alone
