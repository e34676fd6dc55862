"""Threads that do not keep a process alive, for calls that may take long."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


class Daemons:
    """Threads that do not keep a process alive, begun as they are needed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._tasks = queue.SimpleQueue()

    def begin(self, future: Future[Any], call: Callable[[], Any]) -> None:
        """Make a call soon, and give the future its result or its exception."""
        self._tasks.put((future, call))
        if len(self._threads) < self._most:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def close(self) -> None:
        """Let the threads end once they have made the calls that are begun."""
        for _ in self._threads:
            self._tasks.put(None)
        self._threads.clear()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call = task
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  raised where the result is read
                future.set_exception(error)


def side_by_side(call: Callable[..., _T], *columns: Iterable[Any], most: int) -> list[_T]:
    """Return the results of calls, in order, once all of them are made.

    A process that ends meanwhile does not wait for the calls, as it does for an executor of
    `concurrent.futures`: programs of the sandbox end with their pool, which is closed after that.

    Args:
        call: Called with one element of each column.
        columns: The arguments, of equal length.
        most: The most calls at the same time.

    Raises:
        Exception: the first that a call raises.
    """
    threads = Daemons(most)
    futures: list[Future[_T]] = []
    for row in zip(*columns, strict=True):
        futures.append(Future())
        threads.begin(futures[-1], partial(call, *row))
    threads.close()
    wait(futures)
    return [future.result() for future in futures]
