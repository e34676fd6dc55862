"""The program that forks what runs: `zygote.py <socket> <settings as JSON>`.

It imports what programs import, confines itself, then forks a child for every command of its
keeper. It never reads a program, an input or a result: those pass by descriptors between the
keeper and the child, so nothing of one run is in the memory that the next run starts from.
"""

import gc
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_STDERR = 2
_PID_MARK = 0x0BADF00D  # stands for the pid in the filter that is assembled once
_COMMON = (
    *("abc", "array", "bisect", "collections", "contextlib", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "heapq", "hashlib", "inspect", "io"),
    *("itertools", "linecache", "math", "operator", "queue", "re", "statistics", "string"),
    *("textwrap", "threading", "time", "traceback", "types", "typing", "unicodedata"),
)


def main() -> None:
    """Import, confine, serve until the keeper closes its end."""
    number, text = sys.argv[1:]
    control = socket.socket(fileno=int(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    zygote = Zygote(_moved(control), json.loads(text))
    zygote.serve()


def _moved(control: socket.socket) -> socket.socket:
    """Occupy the numbers that a child's own descriptors will have."""
    from grpo_envs.sandbox.wire import FIRST_FREE

    number = os.dup(control.fileno())
    while number < FIRST_FREE:
        number = os.dup(control.fileno())
    moved = socket.socket(fileno=os.dup(number))
    control.detach()
    null = os.open("/dev/null", os.O_RDWR)
    for place in range(FIRST_FREE):
        if place != _STDERR:
            os.dup2(null, place)
    for surplus in {null, number} - set(range(FIRST_FREE)):
        os.close(surplus)
    return moved


class Zygote:
    """Forks children, kills them on demand and reaps them."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        """Take all steps that need files, rights or time; what fails is told to the keeper."""
        from grpo_envs.sandbox import confine, judging, runner, seccomp, wire

        self.control = control
        self.confine, self.wire = confine, wire
        self.roles = {
            wire.SCRIPT: runner.script,
            wire.SERVE: runner.serve,
            wire.JUDGE: judging.judge,
        }
        self.open_streams = runner.open_streams
        self.children: set[int] = set()
        self.killed: set[int] = set()
        self.filter = b""
        self.counted = False
        self.pid = os.getpid()
        self.woken, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        loaded = self._preload(settings["folders"], settings["preload"])
        if settings["confined"]:
            assert confine.MACHINE is not None, "an architecture without a table"
            self.filter = seccomp.assemble(seccomp.program(confine.MACHINE, _PID_MARK))
            self._confine(loaded, settings["uid"] + self.pid)
        else:
            confine.adopt_orphans()
        self.counted |= settings["counted"]
        confine.die_with_parent()  # a change of user would undo it

    def _preload(self, folders: list[str], names: list[str]) -> list[str]:
        """Import what programs import; return the packages that came from `folders`."""
        for name in _COMMON:
            importlib.import_module(name)
        before = set(sys.modules)
        usual = list(sys.path)
        sys.path += folders
        for name in names:
            importlib.import_module(name)
        sys.path[:] = usual  # modules that load late are found by their package's own path
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        return [name for name in sorted(new) if _is_foreign(sys.modules.get(name), folders)]

    def _confine(self, loaded: list[str], uid: int) -> None:
        from grpo_envs.sandbox import readable

        paths = readable.readable(loaded)
        if os.geteuid() == 0:
            needed = [readable.library(), os.__file__, *readable.packages(loaded)]
            there = [path for path in needed if Path(path).exists()]
            self.counted = readable.open_to_all(there) and self.confine.become(uid)
            self.confine.drop_capabilities()
        self.confine.hide_memory()
        self.confine.no_new_privileges()
        self.confine.landlock(paths, [readable.library()], readable.WRITABLE)

    def serve(self) -> None:
        """Obey commands until the keeper is gone."""
        self._open_streams()
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.collect()
        gc.freeze()  # a collection in a child would copy the pages that it looks through
        gc.disable()
        handles = (os.pidfd_open(self.pid),) if hasattr(os, "pidfd_open") else ()
        self.wire.Notice(what=self.wire.READY).send(self.control, handles)
        for handle in handles:
            os.close(handle)
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.woken, select.POLLIN)
        while True:
            ready = {number for number, _ in poller.poll()}
            if self.woken in ready:
                os.read(self.woken, 512)
                self._reap()
            if self.control.fileno() in ready:
                try:
                    command, fds = self.wire.Command.receive(self.control)
                except (EOFError, OSError):
                    os._exit(0)  # the children die with us
                self._obey(command, fds)

    def _open_streams(self) -> None:
        """Make what is at 0, 1 and 2 what it will be in a child, and the streams on it."""
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.dup2(writer, _STDERR)  # nobody listens to this process any more
        os.close(reader)
        os.close(writer)
        self.open_streams()

    def _obey(self, command: Any, fds: list[int]) -> None:
        if command.what == self.wire.KILL:
            if command.pid in self.children:
                os.kill(command.pid, signal.SIGKILL)
                self.killed.add(command.pid)
            return
        try:
            pid = os.fork()
        except OSError as error:
            notice = self.wire.Notice(what=self.wire.FAILED, status=error.errno or 1)
            notice.send(self.control)
            return
        if pid == 0:
            try:
                self._become(command, fds)
            finally:
                os._exit(1)
        self.children.add(pid)
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        notice = self.wire.Notice(what=self.wire.FORKED, pid=pid)
        notice.send(self.control, () if handle is None else (handle,))
        for fd in fds if handle is None else (*fds, handle):
            os.close(fd)

    def _become(self, command: Any, fds: list[int]) -> None:
        """Be the child: own descriptors, limits, the filter, then the role."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for place, fd in enumerate(fds):
            os.dup2(fd, place)
        os.closerange(len(fds), 1 << 16)
        if not self.filter:
            os.setpgid(0, 0)
        self.confine.die_with_parent()
        if os.getppid() != self.pid:
            return
        self._limit(command)
        if self.filter:
            pid = struct.pack("<I", os.getpid())
            self.confine.seccomp(self.filter.replace(struct.pack("<I", _PID_MARK), pid))
        gc.enable()
        random.seed(0)  # a program that draws numbers draws the same ones in every run
        self.roles[command.role](len(fds))

    def _limit(self, command: Any) -> None:
        limit = self.confine.limit
        limit(resource.RLIMIT_CPU, command.cpu_s, 1)  # SIGXCPU, then SIGKILL
        limit(resource.RLIMIT_AS, command.memory)
        limit(resource.RLIMIT_NOFILE, command.open_files)
        limit(resource.RLIMIT_FSIZE, 0)
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_MEMLOCK, 0)
        if self.counted:  # else it would count every thread of the user on this machine
            limit(resource.RLIMIT_NPROC, command.threads + len(self.children) + 1)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return
                if pid not in self.children:
                    continue
                self.children.discard(pid)
                if not self.filter:  # it may have forked
                    with suppress(OSError):
                        os.killpg(pid, signal.SIGKILL)
                    self._sweep()
                notice = self.wire.Notice(
                    what=self.wire.ENDED,
                    pid=pid,
                    status=status,
                    cpu_s=usage.ru_utime + usage.ru_stime,
                    killed=pid in self.killed,
                )
                self.killed.discard(pid)
                notice.send(self.control)

    def _sweep(self) -> None:
        """End orphans, which became ours: only where programs may fork at all."""
        own = Path(f"/proc/self/task/{self.pid}/children")
        with suppress(OSError):
            while strays := set(map(int, own.read_text("ascii").split())) - self.children:
                for pid in strays:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _is_foreign(module: Any, folders: list[str]) -> bool:
    path = getattr(module, "__file__", None) or ""
    return any(path.startswith(f"{folder}/") for folder in folders)


if __name__ == "__main__":
    main()
