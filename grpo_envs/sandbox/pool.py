"""The built-in backend: workers on this machine.

Each worker is a keeper and a zygote, started by exec with a clean environment on first use; the
zygote forks a confined child for every run. This process itself never forks, because it may have
threads, CUDA and secrets.
"""

import atexit
import logging
import os
import socket
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet

from grpo_envs.errors import DatasetError, SandboxError, require
from grpo_envs.runtime.launch import cores
from grpo_envs.runtime.progress import phase
from grpo_envs.sandbox.levels import check, choose
from grpo_envs.sandbox.preload import RARE, names_any
from grpo_envs.sandbox.testing import prepared
from grpo_envs.sandbox.types import Calls, Limits, Raised, Returned, RunResult, Verdict
from grpo_envs.sandbox.values import Unreadable, dump, load
from grpo_envs.sandbox.wire import BROKEN, PASSED
from grpo_envs.sandbox.worker import Setting, Worker, WorkerDied, payload

log = logging.getLogger(__name__)
_TRIES = 2
_CLOSED = "the sandbox is closed."


class LocalPool:
    """Processes on this machine that run untrusted programs. Any thread may call it."""

    def __init__(
        self,
        workers: int | None = None,
        level: str = "auto",
        preload: Sequence[str] | None = None,
    ) -> None:
        """Prepare a pool; no process is started yet.

        Args:
            workers: Largest number of concurrent programs; None: one per core.
            level: The isolation level, one of `levels.LEVELS`.
            preload: Packages that programs may import besides the standard library. They are
                imported in advance, so they cost no time in a run. None: numpy if it is installed.

        Raises:
            ConfigError: the level is unknown, or `workers` is not positive.
        """
        check(level)
        require(workers is None or workers > 0, "workers", workers, "a positive number")
        if preload is None:
            preload = ("numpy",) if find_spec("numpy") else ()
        self._asked, self._workers_asked = level, workers
        self._preload = tuple(preload)
        self._size = workers or cores()
        self._setting: Setting | None = None
        self._closed = False
        self._reset()
        _POOLS.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle as the shared pool of the process that receives an environment."""
        from grpo_envs.sandbox.shared import shared_pool  # it imports this module

        return shared_pool, (self._asked, self._workers_asked, self._preload)

    @property
    def level(self) -> str:
        """The isolation level: `bubblewrap`, `confined`, `degraded` or `unsafe`.

        Raises:
            SandboxUnavailable: no allowed level works on this machine.
        """
        return self.setting.level

    @property
    def setting(self) -> Setting:
        """How the workers start."""
        if self._setting is None:
            self._setting = choose(self._asked, self._preload)
        return self._setting

    def run(
        self,
        program: str,
        *,
        stdin: str | None = None,
        calls: Calls | None = None,
        limits: Limits | None = None,
    ) -> RunResult:
        """Run `program` as a script, then make `calls` of one of its functions.

        Blocks until a worker is free and the program has ended; the wait for a worker does not
        count against the limits. `random` is seeded, so that a program draws the same numbers in
        every run.

        Raises:
            SandboxError: the sandbox failed twice; the program is not the cause.
            ConfigError: an argument of a call does not pass by value.
        """
        limits = limits or Limits()
        given = None if calls is None else [_argument(list(args)) for args in calls.args]
        entry_point = "" if calls is None else calls.entry_point
        task = payload(program=program, entry_point=entry_point, calls=given)
        entered = (stdin or "").encode("utf-8", "surrogatepass")
        if _too_large(program, limits) or len(entered) > limits.stdin_mib << 20:
            return RunResult(status="refused")
        header, (out, err, values) = self._ask(limits, [task, entered], program, judge=False)
        return RunResult(
            status=header["status"],
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
            values=tuple(_values(values, len(given or ()))),
            cpu_s=header["cpu_s"],
            wall_s=header["wall_s"],
        )

    def judge(
        self, program: str, *, tests: str, entry_point: str, limits: Limits | None = None
    ) -> Verdict:
        """Run `tests` in another process than `program`.

        The tests assert in the module, in `check(candidate)`, in functions `test...`, or in classes
        of unittest or pytest. In the tests, `entry_point` names the program's function; other names
        of the program can be used, too, unless the tests define them. Arguments and results pass by
        value; changes of an argument in place happen to the tests' object.

        Raises:
            SandboxError: the sandbox failed twice; the program is not the cause.
            DatasetError: the tests do not compile, have nothing to run, or pass unsupported values.
        """
        limits = limits or Limits()
        longest = limits.result_kib << 10
        if _too_large(program, limits):
            return Verdict(passed=False, error="refused: the program is too large")
        try:
            ready = prepared(tests, entry_point)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as broken:
            text = f"tests of {entry_point}: they do not compile: {broken}."
            raise DatasetError(text) from broken
        printed = limits.stdout_kib << 10
        served = payload(program=program, entry_point=entry_point, longest=longest, printed=printed)
        judged = payload(tests=tests, entry_point=entry_point, longest=longest, **ready)
        header, (outcome,) = self._ask(limits, [served, judged], program + tests, judge=True)
        wall_s = header["wall_s"]
        if header["status"] != "ok" or not outcome:  # `os._exit(0)` in the tests
            error = "the tests ended early" if header["status"] == "ok" else header["status"]
            return Verdict(passed=False, error=error, wall_s=wall_s)
        verdict, _, error = outcome.decode(errors="replace").rstrip("\n").partition("\n")
        if verdict == BROKEN:
            raise DatasetError(f"tests of {entry_point}: {error}.")
        return Verdict(passed=verdict == PASSED, error=error, wall_s=wall_s)

    def close(self) -> None:
        """End every process of the pool; a second call does nothing."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            self._discard(worker)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self._size)
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._opening: set[socket.socket] = set()

    def _ask(
        self, limits: Limits, blobs: list[bytes], code: str, *, judge: bool
    ) -> tuple[dict[str, Any], Sequence[bytes]]:
        """Let a free worker do it; if it fails, a new one, as all idle workers may be dead."""
        setting, why = self.setting, ""
        full = names_any(code, (*RARE, *self._preload))
        with self._free:
            for attempt in range(_TRIES):
                worker = self._taken(setting, new=attempt > 0)
                try:
                    if not worker.answered:
                        with phase("starting the sandbox"):
                            worker.wait()
                    reply = worker.ask(limits, blobs, judge=judge, full=full)
                except WorkerDied as error:
                    if self._closed:  # that is why
                        raise SandboxError(_CLOSED) from error
                    self._discard(worker)
                    why = str(error)
                    if attempt == 0:
                        log.warning("sandbox: %s; a new worker runs the program again", why)
                except BaseException:  # Ctrl-C: the next request would get its reply
                    self._discard(worker)
                    raise
                else:
                    self._idle.append(worker)
                    return reply
        raise SandboxError(f"a program could not be run, twice: {why}.")

    def _taken(self, setting: Setting, *, new: bool) -> Worker:
        with self._lock:
            if self._closed:
                raise SandboxError(_CLOSED)
            if self._idle and not new:
                return self._idle.pop()
            worker = Worker(setting, self._opening)
            self._workers.add(worker)
            self._opening.discard(worker.socket)
            return worker

    def _discard(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._workers.discard(worker)
                worker.stop()

    def _forget(self) -> None:
        """Forget the parent's workers; called in a forked child, which starts its own."""
        for worker in self._workers:
            worker.forget()
        for end in self._opening:
            end.close()
        self._reset()


def _argument(arguments: list[Any]) -> str:
    try:
        return dump(arguments)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"calls: {error}.") from error


def _values(lines: bytes, count: int) -> list[Returned | Raised]:
    """Read the results that a program wrote; the text is untrusted."""
    read: list[Returned | Raised] = []
    for line in lines.split(b"\n")[:-1][:count]:
        try:
            value = load(line[1:])
        except Unreadable as error:
            read.append(Raised(error=f"{error}"[:300]))
        else:
            read.append(Returned(value=value) if line[:1] == b"=" else Raised(error=str(value)))
    return read


def _too_large(program: str, limits: Limits) -> bool:
    return len(program.encode("utf-8", "surrogatepass")) > limits.program_kib << 10


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool._forget()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


_POOLS: WeakSet[LocalPool] = WeakSet()
os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
