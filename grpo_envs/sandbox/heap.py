"""Preparation of the heap before forks.

A fork maps all pages of this process, and copies each page that it writes to. Python writes
wherever it makes an object. Memory that imports have freed leaves holes all over the heap: a new
object in each hole costs the copy of a page.
"""

import ctypes
from array import array
from collections import Counter
from itertools import repeat
from typing import Any

_LIBC = ctypes.CDLL(None)
_LARGEST = 512  # bytes: the C library allocates larger objects
_STEP = 16
_POOL = 1 << 14  # bytes of a pool for objects of one size: `Include/internal/pycore_obmalloc.h`
_HEADS = 48  # bytes of the head of such a pool
_BYTES = 33  # size of an empty bytes object


def settle() -> list[Any]:
    """Return free memory to the system, and fill the remaining holes.

    Returns:
        The objects in the holes: as long as they live, new objects are adjacent.
    """
    filling: list[Any] = []
    for size in range(_STEP, _LARGEST + 1, _STEP):
        made = _objects(size, _POOL // size)
        there = Counter(id(item) // _POOL for item in made)
        whole = (_POOL - _HEADS) // size
        filling += [item for item in made if there[id(item) // _POOL] < whole]
    if hasattr(_LIBC, "malloc_trim"):  # the GNU C library
        _LIBC.malloc_trim(0)
    return filling


def _objects(size: int, count: int) -> list[Any]:
    """Return objects of `size` bytes, without making other objects."""
    if size == _STEP:
        return [object() for _ in repeat(None, count)]
    if size == 2 * _STEP:
        return array("d", bytes(8 * count)).tolist()
    return [bytes(size - _BYTES) for _ in repeat(None, count)]
