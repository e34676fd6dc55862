"""How much memory this process holds, and the machine has: where the system says so (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_mib() -> float | None:
    """Return the memory [MiB] that this process holds; None where the system does not say."""
    if not _STATM.is_file():
        return None
    pages = int(_STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def machine_mib() -> float:
    """Return the memory [MiB] of this machine; infinity where the system does not say."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return float("inf")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
