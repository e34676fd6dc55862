"""Grading in the background: answers that are finished, while others are still being sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from grpo_envs.types import Reply, Turn

Grade = Callable[[Sequence[int], Mapping[int, Turn]], list[Reply]]
"""From members and their answers to replies, in the order of the members."""


@dataclass(slots=True)
class Ahead:
    """Answers that one thread grades in turn, and what came of them."""

    grade: Grade
    hidden: float = 0.0
    """Seconds of the last `take`'s grading that nobody had to wait for."""
    _begun: list[tuple[Mapping[int, Turn], Future[tuple[list[Reply], float]]]] = field(
        default_factory=list
    )
    _thread: ThreadPoolExecutor | None = None

    def begin(self, actions: Mapping[int, Turn]) -> None:
        """Grade the answers of these members soon."""
        self._thread = self._thread or ThreadPoolExecutor(1)
        self._begun.append((actions, self._thread.submit(self._timed, actions)))

    def take(self, actions: Mapping[int, Turn]) -> dict[int, Reply]:
        """Wait for all that was begun; return the replies to those that are among `actions`."""
        all_begun, self._begun = self._begun, []
        start = time.perf_counter()
        done = [(begun, *future.result()) for begun, future in all_begun]
        waited = time.perf_counter() - start
        self.hidden = max(0.0, sum(seconds for _, _, seconds in done) - waited)
        return {
            i: reply
            for begun, replies, _ in done
            for (i, action), reply in zip(begun.items(), replies, strict=True)
            if actions.get(i) == action
        }

    def close(self) -> None:
        """Wait for what is being graded, and end the thread."""
        self._begun.clear()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _timed(self, actions: Mapping[int, Turn]) -> tuple[list[Reply], float]:
        start = time.perf_counter()
        replies = self.grade(list(actions), actions)
        return replies, time.perf_counter() - start
