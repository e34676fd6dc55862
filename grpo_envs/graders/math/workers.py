"""Ask sympy or math-verify, in processes that can be killed: `decide([(gold, answer), ...])`.

sympy may think for hours or take all memory, and nothing stops it from inside. So one process, the
zygote, imports sympy and forks workers that are ready to start; each worker decides one pair and
ends, so that no verdict depends on what was decided before. A worker that passes its deadline is
killed and costs a fork (5 ms), not an import (1 s). The zygote is started by exec on first use:
nothing is ever forked here, where there may be threads. See `worker_main` for the other side.
"""

import atexit
import json
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.zygote import HUNG, NEEDS, NO_SIGNAL, Worker, WorkerZygoteHandle, start
from grpo_envs.runtime.launch import cores

DEADLINE = 1.0  # seconds of wall clock for a pair, from when a worker gets it
MEMORY = 1 << 30  # bytes of address space of a worker
_LONGEST = 1 << 16  # bytes of a pair; less than a socket buffers, so that sending never blocks
_PATIENCE = 1.4  # deadlines that a pair may take with its retry
_STARTS = 3  # of the zygote, within one call
_NEVER = float("inf")
_VERDICT = {b"T": True, b"F": False}

Pair = tuple[Node, Node] | tuple[str, str]
"""Two trees for sympy, two texts for math-verify."""


@dataclass(slots=True)
class _Job:
    place: int
    message: bytes
    tries: int = 0
    until: float = 0.0
    """When this try is given up (time.monotonic)."""
    last: float = _NEVER
    """When a second try is given up."""


class Pool:
    """Workers of one zygote. Any thread may call it; calls take turns."""

    def __init__(
        self,
        equal: str = "sympy_equal",
        *,
        size: int | None = None,
        deadline: float = DEADLINE,
        memory: int = MEMORY,
    ) -> None:
        """Prepare a pool; no process is started yet.

        Args:
            equal: The module beside this one that decides a pair (see `zygote.NEEDS`).
            size: Most pairs that are decided at once; None for one a core, 4 at most.
            deadline: Seconds of wall clock for a pair, from when a worker gets it.
            memory: Bytes of address space that a worker may use.
        """
        self.equal = equal
        self.size = size or min(4, cores())
        self.deadline = deadline
        self.memory = memory
        self._zygote: WorkerZygoteHandle | None = None
        self._running: dict[int, tuple[_Job, Worker]] = {}
        self._opening: list[socket.socket] = []
        self._lock = threading.Lock()
        _EVERY_POOL.add(self)

    def decide(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Return for each pair whether its sides are equal, None where that stays open.

        Raises:
            GrpoEnvsError: the workers cannot be started, which is no pair's fault.
        """
        verdicts: list[bool | None] = [None] * len(pairs)
        messages = map(_encode, pairs)
        waiting = deque(_Job(place, data) for place, data in enumerate(messages) if data)
        with self._lock:
            try:
                self._work(waiting, verdicts)
            except BaseException:
                self._stop()  # Ctrl-C in the middle: the next call starts afresh
                raise
        return verdicts

    def prepare(self) -> None:
        """Start the zygote without waiting for it, so that the first pair need not wait either."""
        with self._lock:
            self._zygote = self._zygote or self._started()

    def close(self, *, patience: float = 60.0) -> None:
        """End all processes; the next call starts new ones.

        Args:
            patience: Seconds to wait for a thread that is at work; its workers are then let be.
        """
        if self._lock.acquire(timeout=patience):
            self._stop()
            self._lock.release()

    def forget(self) -> None:
        """Drop what belongs to the parent: called in a forked child, which starts its own."""
        zygote, self._zygote = self._zygote, None
        # Closed here they stay open in the parent; kept open here, nobody would notice its end.
        for end in (*self._opening, *(worker.end for _, worker in self._running.values())):
            end.close()
        if zygote is not None:
            zygote.drop()
            zygote.process.returncode = 0  # not our child: no warning that it still runs
        self._lock, self._running, self._opening = threading.Lock(), {}, []

    def _work(self, waiting: deque[_Job], verdicts: list[bool | None]) -> None:
        starts = 0
        while waiting or self._running:
            if self._zygote is None:
                if starts == _STARTS:
                    raise GrpoEnvsError(f"the workers of {self.equal} died {starts} times.")
                self._zygote = self._started()
                starts += 1
            try:
                self._fill(self._zygote, len(waiting))
                self._hand_out(self._zygote.ready, waiting)
                self._collect(self._zygote, waiting, verdicts)
            except (
                OSError,
                EOFError,
            ):  # the zygote is gone and its workers with it: no job's fault
                waiting.extendleft(job for job, _ in self._running.values())
                for job in waiting:
                    job.tries, job.last = 0, _NEVER
                self._stop()

    def _started(self) -> WorkerZygoteHandle:
        return start(self.equal, self.memory, self.deadline, self._opening)

    def _fill(self, zygote: WorkerZygoteHandle, waiting: int) -> None:
        """Ask for workers until there is one for each pair that can run now, and one to spare."""
        zygote.wait()
        wanted = 1 + min(self.size, waiting + len(self._running))
        while len(zygote.ready) + zygote.asked + len(self._running) < wanted:
            zygote.ask()

    def _hand_out(self, ready: deque[Worker], waiting: deque[_Job]) -> None:
        while waiting and ready and len(self._running) < self.size:
            worker, job = ready.popleft(), waiting[0]
            try:
                worker.end.sendall(job.message, NO_SIGNAL)
            except OSError:  # killed while it was idle: that is no try
                worker.end.close()
                continue
            now = time.monotonic()
            job.tries += 1
            job.until = min(now + self.deadline, job.last)
            job.last = min(now + _PATIENCE * self.deadline, job.last)
            self._running[worker.end.fileno()] = (waiting.popleft(), worker)

    def _poll(self, control: socket.socket) -> set[int]:
        """Wait for a verdict, a death, a new worker or the next deadline; return who is ready."""
        poller = select.poll()
        for number in (control.fileno(), *self._running):
            poller.register(number, select.POLLIN)
        ends = [job.until for job, _ in self._running.values()]
        wait = max(0.0, min(ends) - time.monotonic()) if ends else HUNG
        events = {number for number, _ in poller.poll(1000 * wait)}
        if not events and not ends:
            raise TimeoutError
        return events

    def _collect(
        self, zygote: WorkerZygoteHandle, waiting: deque[_Job], verdicts: list[bool | None]
    ) -> None:
        events = self._poll(zygote.control)
        now = time.monotonic()
        if zygote.control.fileno() in events:  # first: its death explains those of its workers
            zygote.receive()
        for number, (job, worker) in list(self._running.items()):
            if number in events:
                answer = _receive(worker.end)
                if not answer and job.tries == 1:  # killed, or it died: once more
                    waiting.appendleft(job)
                verdicts[job.place] = _VERDICT.get(answer)
            elif job.until <= now:
                zygote.kill(worker)
            else:
                continue
            del self._running[number]
            worker.end.close()

    def _stop(self) -> None:
        for _, worker in self._running.values():
            worker.end.close()
        zygote, self._zygote, self._running = self._zygote, None, {}
        if zygote is not None:
            zygote.stop()


def decide(pairs: Sequence[Pair], equal: str = "sympy_equal") -> list[bool | None]:
    """Return for each pair whether sympy (or what else `equal` names) finds its sides equal.

    None stays open: out of time or memory, or nothing that can be decided. Safe in any thread, in
    coroutines (it blocks for the deadline at most, per round of workers) and in forked children.

    Raises:
        GrpoEnvsError: the workers cannot be started.
    """
    return _POOLS[equal].decide(pairs)


def prepare(equal: str = "sympy_equal") -> None:
    """Start the zygote in the background; the first pair otherwise waits for it (a second).

    Raises:
        GrpoEnvsError: what it needs is not installed.
    """
    _POOLS[equal].prepare()


def _encode(pair: Pair) -> bytes:
    """Return what is sent to a worker, b"" where the pair is beyond the limits."""
    try:
        data = json.dumps(pair).encode()
    except (RecursionError, TypeError, ValueError):
        return b""
    return struct.pack("<I", len(data)) + data if len(data) <= _LONGEST else b""


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1)
    except OSError:  # it died with our message unread
        return b""


def _forget_all() -> None:
    for pool in list(_EVERY_POOL):
        pool.forget()


def _close_all() -> None:
    for pool in list(_EVERY_POOL):
        pool.close(patience=0.1)  # what a daemon thread uses ends with this process


_EVERY_POOL: WeakSet[Pool] = WeakSet()
_POOLS = {equal: Pool(equal) for equal in NEEDS}
os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
