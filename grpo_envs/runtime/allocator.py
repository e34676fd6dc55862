"""How the C library hands out memory: a training step asks for what the step before gave back."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of mallopt(3)."""
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables with which a user has chosen already."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, where the C library is glibc and nobody chose otherwise.

    glibc returns large blocks to the system as soon as they are free. A training step then gets the
    same pages again, one page fault each, and the system writes zeros into them first. The peak
    stays what it is; between steps the process stays at its peak.

    Returns:
        Whether the C library does so now.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone, of those we know
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
