"""Calls with a time limit each: plain functions in a thread, async ones in one event loop.

A thread cannot be killed. A call that does not end is left behind in a daemon thread, which does
not keep the process alive.
"""

import asyncio
import contextlib
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context, ContextVar
from functools import partial
from time import monotonic
from typing import Any, TypeVarTuple

_Ts = TypeVarTuple("_Ts")
_MOST_LATE = 3
_GRACE_S = 1.0
"""Seconds that cancelled coroutines may clean up before the caller continues."""
_PRECISION_S = 0.01
"""Least time between two checks of the clock."""


def in_time(calls: Sequence[Callable[[], Any]], seconds: float) -> list[Any]:
    """Make the calls one after the other; return each result, or the exception that was raised.

    A call that takes longer than `seconds` gives a TimeoutError; after a few of these, the
    remaining calls are not made. An awaitable that a call returns is awaited.
    """
    results: list[Any] = []
    late = 0
    while len(results) < len(calls) and late < _MOST_LATE:
        answered: queue.SimpleQueue[Any] = queue.SimpleQueue()
        left = threading.Event()
        rest = calls[len(results) :]
        threading.Thread(target=_call, args=(rest, answered, left), daemon=True).start()
        try:
            for _ in rest:
                results.append(answered.get(timeout=seconds))  # noqa: PERF401  those before stay
        except queue.Empty:
            left.set()
            late += 1
            results.append(_late(seconds))
    return [*results, *[_not_made(seconds)] * (len(calls) - len(results))]


def _call(
    calls: Sequence[Callable[[], Any]], answered: queue.SimpleQueue[Any], left: threading.Event
) -> None:
    for call in calls:
        if left.is_set():
            return
        try:
            value = call()
            answered.put(asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value)
        except BaseException as error:  # noqa: BLE001  returned; SystemExit would end the thread
            answered.put(error)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def in_time_together(calls: Sequence[Callable[[], Awaitable[Any]]], seconds: float) -> list[Any]:
    """Await all calls concurrently; return each result, or the exception that was raised.

    The time of a call is the time in which the event loop is idle plus the time in which the call
    itself computes; computation of other calls does not count. A call that takes longer than
    `seconds` gives a TimeoutError and is cancelled. A call that blocks the loop for that long
    cannot be cancelled: the loop is abandoned, and the calls without a result are made again in a
    new loop. After a few blocked loops, the remaining calls are not made.
    """
    results: dict[int, Any] = {}
    for _ in range(_MOST_LATE):
        rest = {i: call for i, call in enumerate(calls) if i not in results}
        if rest:
            results |= _Together(rest, seconds).results()
    return [results.get(i, _not_made(seconds)) for i in range(len(calls))]


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"took longer than {seconds:g} s")


def _not_made(seconds: float) -> TimeoutError:
    return TimeoutError(f"not asked: {_MOST_LATE} others took longer than {seconds:g} s")


class _Clock:
    """Measures how long each call holds the event loop. Another thread reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = monotonic()
        self._held: dict[int, float] = {}
        """Seconds that each call has held the loop, without the running step."""
        self._step: tuple[int, float] | None = None
        """The call of the running step, and the time when the step began."""

    def begin(self, call: int) -> bool:
        """Begin a step; return False inside another step (if a package nests event loops)."""
        with self._lock:
            if self._step is not None:
                return False
            self._step = call, monotonic()
            return True

    def end(self) -> None:
        """End the step that runs."""
        with self._lock:
            assert self._step is not None
            call, began = self._step
            self._held[call] = self._held.get(call, 0.0) + monotonic() - began
            self._step = None

    def read(self) -> tuple[float, dict[int, float], tuple[int, float] | None]:
        """Return how long the loop was idle, how long each call held it, and the running step.

        The step is a pair: the call, and the seconds that the step has run.
        """
        with self._lock:
            now, held, step = monotonic(), dict(self._held), self._step
        if step is not None:
            step = step[0], now - step[1]
            held[step[0]] = held.get(step[0], 0.0) + step[1]
        return now - self._start - sum(held.values()), held, step


_CALL: ContextVar[int | None] = ContextVar("_CALL", default=None)
"""The call that a task belongs to; tasks that it creates inherit it."""


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that measures the steps of tasks."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback; every step of a task is a callback in the task's context."""
        call = _CALL.get() if context is None else context.get(_CALL)
        if call is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(self._step, call, partial(callback, *args), context=context)

    def _step(self, call: int, callback: Callable[[], object]) -> None:
        outermost = self._clock.begin(call)
        try:
            callback()
        finally:
            if outermost:
                self._clock.end()


class _Together:
    """Calls as tasks of an event loop in a separate thread; the caller's thread measures time."""

    def __init__(self, calls: Mapping[int, Callable[[], Awaitable[Any]]], seconds: float) -> None:
        self._calls, self._seconds = calls, seconds
        self._clock = _Clock()
        self._loop = _Loop(self._clock)
        self._over = asyncio.Event()
        self._left = threading.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def results(self) -> dict[int, Any]:
        """Return the result of each call; calls are missing if the loop had to be abandoned."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        found: dict[int, Any] = {}
        try:
            wait: float | None = 0.0
            while wait is not None and len(found) < len(self._calls):
                try:
                    call, value = self._ended.get(timeout=wait)
                    found.setdefault(call, value)  # a call that was late stays late
                    wait = 0.0
                except queue.Empty:
                    wait = self._look(found)
        finally:
            self._left.set()
            self._soon(self._over.set)
        if wait is not None:
            thread.join(_GRACE_S)
        return found

    def _look(self, found: dict[int, Any]) -> float | None:
        """Mark late calls; return the seconds until the next check, or None for a blocked loop."""
        free, held, step = self._clock.read()
        wait = self._seconds
        for call in self._calls.keys() - found:
            left = self._seconds - free - held.get(call, 0.0)
            if left > 0:
                wait = min(wait, left)
            else:
                found[call] = _late(self._seconds)
                self._soon(self._cancel, call)
        if step is not None and step[0] in found:
            if step[1] >= self._seconds:
                return None
            wait = min(wait, self._seconds - step[1])
        return max(wait, _PRECISION_S)

    def _soon(self, callback: Callable[..., Any], *values: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *values)

    # In the thread of the loop.

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._all())
            except BaseException as error:  # noqa: BLE001  returned: what ended the loop
                for call in self._calls:
                    self._ended.put((call, error))

    async def _all(self) -> None:
        for call in self._calls:
            _CALL.set(call)
            self._tasks[call] = self._loop.create_task(self._one(call))
        _CALL.set(None)
        await self._over.wait()

    async def _one(self, call: int) -> None:
        if self._left.is_set():  # another call blocked the loop before this one began
            return
        try:
            value = await self._calls[call]()
        except BaseException as error:  # noqa: BLE001  returned; SystemExit would end the loop
            value = error
        self._ended.put((call, value))

    def _cancel(self, call: int) -> None:
        self._tasks[call].cancel()
