"""A bounded mapping that drops the least recently used entry; any thread may use it."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """A least-recently-used cache like `functools.lru_cache`, for results of batches.

    >>> cache = Cache(2)
    >>> for key in "aba" "c": cache.put(key, key.upper())
    >>> cache.get("a"), cache.get("b")
    ('A', None)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value of `key`, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Store `value` under `key`."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._size:
                self._values.popitem(last=False)

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._values.clear()
