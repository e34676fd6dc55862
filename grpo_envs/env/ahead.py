"""Grading in the background: finished answers are graded while others are still sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from grpo_envs.types import Reply, Turn

Grade = Callable[[Sequence[int], Mapping[int, Turn]], list[Reply]]
"""Returns the replies to the answers of these members, in the order of the members."""
Span = tuple[float, float]
"""When the grading of a batch began and ended [s]."""


@dataclass(slots=True)
class Ahead:
    """Grades answers batch by batch in threads, and keeps the replies until they are taken."""

    grade: Grade
    at_once: int = 1
    """Batches that are graded at the same time, each in a thread."""
    hidden: float = 0.0
    """Seconds of grading before the last `take` that overlapped with other work."""
    _begun: list[tuple[Mapping[int, Turn], Future[tuple[list[Reply], Span]]]] = field(
        default_factory=list
    )
    _threads: ThreadPoolExecutor | None = None

    def begin(self, actions: Mapping[int, Turn]) -> None:
        """Start to grade the answers of these members."""
        self._threads = self._threads or ThreadPoolExecutor(self.at_once)
        self._begun.append((actions, self._threads.submit(self._timed, actions)))

    def take(self, actions: Mapping[int, Turn]) -> dict[int, Reply]:
        """Wait for all batches; return the replies to the answers that are among `actions`."""
        all_begun, self._begun = self._begun, []
        start = time.perf_counter()
        done = [(begun, *future.result()) for begun, future in all_begun]
        waited = time.perf_counter() - start
        self.hidden = max(0.0, _covered([span for _, _, span in done]) - waited)
        return {
            i: reply
            for begun, replies, _ in done
            for (i, action), reply in zip(begun.items(), replies, strict=True)
            if actions.get(i) == action
        }

    def close(self) -> None:
        """Wait for the batches that are being graded, and end the threads."""
        self._begun.clear()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    def _timed(self, actions: Mapping[int, Turn]) -> tuple[list[Reply], Span]:
        start = time.perf_counter()
        replies = self.grade(list(actions), actions)
        return replies, (start, time.perf_counter())


def _covered(spans: Sequence[Span]) -> float:
    """Return the seconds that at least one span covers.

    >>> _covered([(0, 2), (1, 4), (6, 7)])
    5.0
    """
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
