"""The program of the workers: a zygote that forks them, started by `workers`.

It runs as `worker_main.py <module> <socket> <bytes of memory> <deadline> <folder>...`, imports
the module that decides (and sympy) once and serves a stream of commands; each worker decides one
pair and ends. `sandbox.boot` starts it, without the rest of grpo_envs.
"""

import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

_COMMAND = struct.Struct("<cq")  # as in `workers`, which is not imported here
_PR_SET_PDEATHSIG = 1
_ANSWERS = {True: b"T", False: b"F", None: b"?"}

Equal = Callable[[Any, Any, float], bool | None]


def main() -> None:
    """Import, get warm, serve until the socket closes."""
    module, number, memory, deadline, *folders = sys.argv[1:]
    control = socket.socket(fileno=int(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        sys.path.extend(folders)
        decider = import_module(f"grpo_envs.graders.math.{module}")
        decider.warm()
    except Exception as error:  # noqa: BLE001  sent to the parent, which reports it
        control.sendall(f"E{type(error).__name__}: {error}".encode()[:300])
        sys.exit(1)
    gc.collect()
    gc.freeze()  # a collection in a worker would copy many pages
    control.sendall(b"R")
    WorkerZygote(control, decider.equal, int(memory), float(deadline)).serve()


class WorkerZygote:
    """Forks workers, kills them on demand and reaps them. Nothing else runs in this process."""

    def __init__(self, control: socket.socket, equal: Equal, memory: int, deadline: float) -> None:
        """Serve `control`; each worker gets `memory` bytes and `deadline` seconds."""
        self.control = control
        self.equal = equal
        self.memory = memory
        self.deadline = deadline
        self.children: set[int] = set()
        # A pid stays ours until it is reaped, so one loop does both kills and reaping.
        self.woken, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        libc = ctypes.CDLL(None)
        self.prctl = getattr(libc, "prctl", None)

    def serve(self) -> None:
        """Serve commands until the parent closes its end, also by dying."""
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.woken, select.POLLIN)
        while True:
            ready = {number for number, _ in poller.poll()}
            if self.woken in ready:
                os.read(self.woken, 512)
                self._reap()
            if self.control.fileno() in ready:
                message = self.control.recv(_COMMAND.size, socket.MSG_WAITALL)
                if len(message) < _COMMAND.size:
                    for pid in self.children:
                        os.kill(pid, signal.SIGKILL)
                    os._exit(0)
                self._obey(*_COMMAND.unpack(message))

    def _obey(self, command: bytes, pid: int) -> None:
        if command == b"K" and pid in self.children:
            os.kill(pid, signal.SIGKILL)
        elif command == b"F":
            try:
                self._fork()
            except OSError as error:
                self.control.sendall(struct.pack("<q", -(error.errno or 1)))

    def _fork(self) -> None:
        theirs, ours = socket.socketpair()
        with theirs, ours:
            zygote = os.getpid()
            pid = os.fork()
            if pid == 0:
                try:
                    theirs.close()
                    self._become_worker(ours, zygote)
                finally:
                    os._exit(1)
            self.children.add(pid)
            socket.send_fds(self.control, [struct.pack("<q", pid)], [theirs.fileno()])

    def _become_worker(self, end: socket.socket, zygote: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.control.close()
        if self.prctl is not None:
            self.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != zygote:
            return
        self._limit()
        size = end.recv(4, socket.MSG_WAITALL)
        if len(size) == 4:  # else this worker is not needed any more
            pair = end.recv(struct.unpack("<I", size)[0], socket.MSG_WAITALL)
            end.sendall(_ANSWERS[self._verdict(pair)])
        os._exit(0)

    def _verdict(self, pair: bytes) -> bool | None:
        try:
            gold, answer = json.loads(pair)
            return self.equal(gold, answer, self.deadline)
        except Exception:  # noqa: BLE001  sympy may raise anything: undecided
            return None

    def _limit(self) -> None:
        sys.dont_write_bytecode = True
        sys.setrecursionlimit(3000)
        limits = {
            resource.RLIMIT_AS: self.memory,
            resource.RLIMIT_CPU: math.ceil(self.deadline) + 1,  # in case the parent is stopped
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NPROC: 0,
        }
        for which, most in limits.items():
            with suppress(OSError, ValueError):  # not every system has every limit
                resource.setrlimit(which, (most, most))

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self.children.discard(pid)


if __name__ == "__main__":
    main()
