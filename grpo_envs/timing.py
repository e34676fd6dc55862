"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timer:
    """Adds up seconds by name: `with timer("sample"): ...`, then `timer.seconds`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
