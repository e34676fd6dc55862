"""Grading in the background: finished answers are graded while others are still sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from grpo_envs.runtime.daemons import Daemons
from grpo_envs.types import Reply, Reward, Turn

Grade = Callable[[Sequence[int], Mapping[int, Turn]], list[Reply]]
"""Returns the replies to the answers of these members, in the order of the members."""
Finish = Callable[[Mapping[int, Turn], Mapping[int, Reply]], Mapping[int, Reward]]
"""Returns the rewards of the episodes that these answers and replies end, by member."""
Span = tuple[float, float]
"""When the work on a batch began and ended [s]."""
_FINISHING = 32
"""Batches whose episodes are scored at the same time: most of that time an endpoint or a lock is
awaited."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch of answers."""

    actions: Mapping[int, Turn]
    replies: Future[tuple[list[Reply], Span]]
    earned: Future[tuple[Mapping[int, Reward], Span]]


@dataclass(slots=True)
class Ahead:
    """Grades answers batch by batch in threads, and keeps the replies until they are taken."""

    grade: Grade
    at_once: int = 1
    """Batches that are graded at the same time, each in a thread."""
    finish: Finish | None = None
    """Called with each batch that is graded, in a thread beside the grading; None where no function
    waits for the end of an episode."""
    hidden: float = 0.0
    """Seconds of grading before the last `take` that overlapped with other work."""
    _begun: list[Begun] = field(default_factory=list)
    _threads: ThreadPoolExecutor | None = None
    _finishing: Daemons = field(default_factory=lambda: Daemons(_FINISHING))

    def begin(self, actions: Mapping[int, Turn]) -> None:
        """Start to grade the answers of these members."""
        self._threads = self._threads or ThreadPoolExecutor(self.at_once)
        begun = Begun(actions, self._threads.submit(self._timed, actions), Future())
        self._begun.append(begun)
        begun.replies.add_done_callback(lambda _: self._finish(begun))

    def take(self, actions: Mapping[int, Turn]) -> tuple[dict[int, Reply], dict[int, Reward]]:
        """Wait for all batches.

        Returns:
            The replies to the answers that are among `actions`, and the rewards of those whose
            episodes are over.
        """
        all_begun, self._begun = self._begun, []
        start = time.perf_counter()
        done = [(each.actions, *each.replies.result(), *each.earned.result()) for each in all_begun]
        waited = time.perf_counter() - start
        spans = [span for _, _, graded, _, finished in done for span in (graded, finished)]
        self.hidden = max(0.0, _covered(spans) - waited)
        replies: dict[int, Reply] = {}
        earned: dict[int, Reward] = {}
        for begun, found, _, more, _ in done:
            pairs = zip(begun.items(), found, strict=True)
            own = {i: reply for (i, action), reply in pairs if actions.get(i) == action}
            replies |= own
            earned |= {i: reward for i, reward in more.items() if i in own}
        return replies, earned

    def close(self) -> None:
        """Wait for the batches that are being graded, not for endpoints, and end the threads."""
        self._begun.clear()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        self._finishing.close()

    def _timed(self, actions: Mapping[int, Turn]) -> tuple[list[Reply], Span]:
        start = time.perf_counter()
        replies = self.grade(list(actions), actions)
        return replies, (start, time.perf_counter())

    def _finish(self, begun: Begun) -> None:
        """Let the episodes of a batch that is graded be finished, if anything is to be asked."""
        if self.finish is None or begun.replies.cancelled() or begun.replies.exception():
            now = time.perf_counter()
            begun.earned.set_result(({}, (now, now)))
            return
        try:
            self._finishing.begin(begun.earned, partial(self._finished, self.finish, begun))
        except BaseException as error:  # noqa: BLE001  no thread can be begun: raised by `take`
            begun.earned.set_exception(error)

    @staticmethod
    def _finished(finish: Finish, begun: Begun) -> tuple[Mapping[int, Reward], Span]:
        start = time.perf_counter()
        replies = dict(zip(begun.actions, begun.replies.result()[0], strict=True))
        return finish(begun.actions, replies), (start, time.perf_counter())


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
