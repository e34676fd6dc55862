"""Settings of the C library's allocator: training steps reuse the memory of earlier steps."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of mallopt(3)."""
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which users choose these settings themselves."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, if the C library is glibc and no variable is set.

    glibc returns large blocks to the system as soon as they are free. A training step then gets the
    same pages again, one page fault each, and the system writes zeros into them first. The peak
    does not change, but the process stays at its peak between steps.

    Returns:
        Whether freed memory is kept now.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
