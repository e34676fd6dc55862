"""One call of `sample`: threads request its completions from all servers at once.

Each thread takes the next completion that is not requested yet. The unfinished completions of a
lost server go back to the queue, and other servers sample them with the same seeds.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue

from grpo_policy.samplers.vllm.client import Server, ServerLost
from grpo_policy.samplers.vllm.requests import Asked, Dialect, Written

_LOOK = 0.05
"""Seconds between two checks whether the run should end."""


class Round:
    """The completions of one call, and the threads that request them."""

    def __init__(self, dialect: Dialect, asked: Sequence[Asked], in_flight: int) -> None:
        """Queue the completions; nothing is requested yet.

        Args:
            dialect: Requests completions from servers.
            asked: The completions.
            in_flight: The most completions that are requested from a server at once.
        """
        self.dialect, self.asked, self.in_flight = dialect, asked, in_flight
        self._waiting = deque(range(len(asked)))
        self._done: SimpleQueue[tuple[Server, int | None, Written | Exception | None]]
        self._done = SimpleQueue()
        self._at_work: Counter[Server] = Counter()
        """The number of threads of each server that have not reported their end."""
        self._ended = threading.Event()

    def written(
        self, servers: Callable[[], Sequence[Server]], lose: Callable[[Server, ServerLost], None]
    ) -> Generator[tuple[int, Written] | None]:
        """Yield the number of a completion and its tokens; None if there is no news.

        Args:
            servers: Returns the servers to use; raises if there is none.
            lose: Called with a lost server; `servers` must not return it afterwards.
        """
        left, short = len(self.asked), True
        lost: set[Server] = set()
        try:
            while left:
                self._abort(lost)
                if short:
                    self._hire(servers())
                short = False
                for server, number, news in self._news():
                    if isinstance(news, ServerLost):
                        lose(server, news)
                        lost.add(server)
                        short = True
                    elif isinstance(news, Exception):
                        raise news
                    elif number is not None and news is not None:
                        left -= 1
                        yield number, news
                yield None
        finally:
            self._end()

    def _abort(self, servers: Iterable[Server]) -> None:
        """Abort the calls to those of these servers that have threads.

        It is called repeatedly: a thread may connect after the last abort.
        """
        for server in servers:
            if self._at_work[server]:
                server.abort()

    def _news(self) -> Iterator[tuple[Server, int | None, Written | Exception | None]]:
        """Yield the reports of threads; wait up to `_LOOK` seconds for the first."""
        timeout = _LOOK
        while True:
            try:
                server, number, news = self._done.get(timeout=timeout)
            except Empty:
                return
            timeout = 0.0
            if number is None:  # the last report of a thread
                self._at_work[server] -= 1
            yield server, number, news

    def _hire(self, servers: Sequence[Server]) -> None:
        """Start a thread for each waiting completion, up to `in_flight` per server."""
        for _ in range(len(self._waiting)):
            server = min(servers, key=lambda server: self._at_work[server])
            if self._at_work[server] >= self.in_flight:
                return
            self._at_work[server] += 1
            threading.Thread(target=self._work, args=(server,), daemon=True).start()

    def _work(self, server: Server) -> None:
        last: Exception | None = None
        try:
            while not self._ended.is_set():
                try:
                    number = self._waiting.popleft()
                except IndexError:
                    break
                try:
                    self._done.put((server, number, self.dialect.ask(server, self.asked[number])))
                except ServerLost:
                    self._waiting.appendleft(number)
                    raise
        except Exception as error:  # noqa: BLE001 - the thread that iterates raises it
            last = error
        self._done.put((server, None, last))

    def _end(self) -> None:
        """End the threads; running calls are aborted."""
        self._ended.set()
        while any(self._at_work.values()):
            self._abort(self._at_work)
            for _ in self._news():
                pass
