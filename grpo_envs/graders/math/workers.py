"""Ask sympy or math-verify, in processes that can be killed: `decide([(gold, answer), ...])`.

sympy may compute for hours or take all memory, and cannot be stopped from inside. So one process,
the zygote, imports sympy and forks workers. Each worker decides one pair and ends, so that no
verdict depends on earlier ones. A worker that exceeds its deadline is killed; a new one costs a
fork (5 ms), not an import (1 s). The zygote is started by exec on first use: this process, which
may have threads, never forks. See `worker_main` for the other side.
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

DEADLINE = 1.0  # seconds of wall time for a pair, once a worker has it
MEMORY = 1 << 30  # bytes of address space of a worker
_LONGEST = 1 << 16  # bytes of a pair; less than a socket buffer, so that sending never blocks
_PATIENCE = 1.4  # deadlines for a pair, including its retry
_STARTS = 3  # starts of the zygote within one call
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
    """Time limit of this try (time.monotonic)."""
    last: float = _NEVER
    """Time limit of a second try."""


class Pool:
    """Workers of one zygote. Any thread may call the pool; calls wait for each other."""

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
            equal: The module in this folder that decides a pair (see `zygote.NEEDS`).
            size: Largest number of concurrent pairs; None: one per core, at most 4.
            deadline: Seconds of wall time for a pair, once a worker has it.
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
        """Return for each pair whether its sides are equal; None if undecided.

        Raises:
            GrpoEnvsError: the workers cannot start; the pairs are not the cause.
        """
        verdicts: list[bool | None] = [None] * len(pairs)
        messages = map(_encode, pairs)
        waiting = deque(_Job(place, data) for place, data in enumerate(messages) if data)
        with self._lock:
            try:
                self._work(waiting, verdicts)
            except BaseException:
                self._stop()  # Ctrl-C: the next call starts new processes
                raise
        return verdicts

    def prepare(self) -> None:
        """Start the zygote without waiting, so that the first pair does not have to wait."""
        with self._lock:
            self._zygote = self._zygote or self._started()

    def close(self, *, patience: float = 60.0) -> None:
        """End all processes; the next call starts new ones.

        Args:
            patience: Seconds to wait for a working thread; after that its workers are not stopped.
        """
        if self._lock.acquire(timeout=patience):
            self._stop()
            self._lock.release()

    def forget(self) -> None:
        """Drop the parent's processes; called in a forked child, which starts its own."""
        zygote, self._zygote = self._zygote, None
        # The parent keeps its copies. Open copies here would hide the parent's end.
        for end in (*self._opening, *(worker.end for _, worker in self._running.values())):
            end.close()
        if zygote is not None:
            zygote.drop()
            zygote.process.returncode = 0  # not our child: no warning about a running process
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
            ):  # the zygote and its workers are gone: not a job's fault
                waiting.extendleft(job for job, _ in self._running.values())
                for job in waiting:
                    job.tries, job.last = 0, _NEVER
                self._stop()

    def _started(self) -> WorkerZygoteHandle:
        return start(self.equal, self.memory, self.deadline, self._opening)

    def _fill(self, zygote: WorkerZygoteHandle, waiting: int) -> None:
        """Request workers until there is one for each pair that can run now, and a spare one."""
        zygote.wait()
        wanted = 1 + min(self.size, waiting + len(self._running))
        while len(zygote.ready) + zygote.asked + len(self._running) < wanted:
            zygote.ask()

    def _hand_out(self, ready: deque[Worker], waiting: deque[_Job]) -> None:
        while waiting and ready and len(self._running) < self.size:
            worker, job = ready.popleft(), waiting[0]
            try:
                worker.end.sendall(job.message, NO_SIGNAL)
            except OSError:  # killed while idle: does not count as a try
                worker.end.close()
                continue
            now = time.monotonic()
            job.tries += 1
            job.until = min(now + self.deadline, job.last)
            job.last = min(now + _PATIENCE * self.deadline, job.last)
            self._running[worker.end.fileno()] = (waiting.popleft(), worker)

    def _poll(self, control: socket.socket) -> set[int]:
        """Wait for a verdict, a death, a new worker or the next deadline; return what is ready."""
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
        if zygote.control.fileno() in events:  # first: its death causes those of its workers
            zygote.receive()
        for number, (job, worker) in list(self._running.items()):
            if number in events:
                answer = _receive(worker.end)
                if not answer and job.tries == 1:  # killed or dead: try once more
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
    """Return for each pair whether sympy (or another module `equal`) finds its sides equal.

    None means undecided, also because of time or memory. Safe in any thread, in coroutines (it
    blocks for at most the deadline per round of workers) and in forked children.

    Raises:
        GrpoEnvsError: the workers cannot start.
    """
    return _POOLS[equal].decide(pairs)


def prepare(equal: str = "sympy_equal") -> None:
    """Start the zygote in the background; otherwise the first pair waits for it (a second).

    Raises:
        GrpoEnvsError: a required package is not installed.
    """
    _POOLS[equal].prepare()


def _encode(pair: Pair) -> bytes:
    """Return the message for a worker; b"" if the pair is beyond the limits."""
    try:
        data = json.dumps(pair).encode()
    except (RecursionError, TypeError, ValueError):
        return b""
    return struct.pack("<I", len(data)) + data if len(data) <= _LONGEST else b""


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1)
    except OSError:  # it died before it read our message
        return b""


def _forget_all() -> None:
    for pool in list(_EVERY_POOL):
        pool.forget()


def _close_all() -> None:
    for pool in list(_EVERY_POOL):
        pool.close(patience=0.1)  # workers of a daemon thread end with this process


_EVERY_POOL: WeakSet[Pool] = WeakSet()
_POOLS = {equal: Pool(equal) for equal in NEEDS}
os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
