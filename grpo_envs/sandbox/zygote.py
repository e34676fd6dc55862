"""The program that forks a child for each run: `zygote.py <socket> <settings as JSON>`.

The zygote imports the modules that programs need, confines itself, then forks a child for every
command of its keeper. It never reads a program, an input or a result: these pass by descriptors
between the keeper and the child. So the memory that a run starts from has no data of other runs.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

_STDERR = 2
_GLANCE = 5  # milliseconds
_PID_MARK = 0x0BADF00D  # placeholder of the pid in the filter


def main() -> None:
    """Import, confine, serve until the keeper closes its end."""
    number, text = sys.argv[1:]
    control = socket.socket(fileno=int(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    settings = json.loads(text)
    real = os.register_at_fork
    if settings["confined"]:  # programs do not fork, and the hooks take a third of a run
        os.register_at_fork = lambda **_: None
    zygote = ProgramZygote(_moved(control), settings)
    os.register_at_fork = real
    zygote.serve()


def _moved(control: socket.socket) -> socket.socket:
    """Move the socket, and occupy the numbers of a child's descriptors."""
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


class ProgramZygote:
    """Forks children, kills them on demand and reaps them."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        """Do all that needs files, rights or time; an exception is reported to the keeper."""
        import random  # hooks into forks

        from grpo_envs.sandbox import confine, heap, judging, preload, runner, serving, wire

        self.control = control
        self.confine, self.wire = confine, wire
        self.roles = {
            wire.SCRIPT: runner.script,
            wire.SERVE: serving.serve,
            wire.JUDGE: judging.judge,
        }
        self.open_streams = runner.open_streams
        self.rehearsals = runner.rehearse, judging.rehearse
        self.seed, self.settle = random.seed, heap.settle
        self.children: list[_Child] = []
        self.poller = select.poll()
        self.poller.register(control, select.POLLIN)
        self.filter: confine.Filter | None = None
        self.counted = False
        self.pid = os.getpid()
        loaded = preload.load(settings["preload"], settings["folders"])
        if settings["light"]:
            sys.meta_path.append(preload.Elsewhere(settings["folders"]))
        if settings["confined"]:
            self._confine(loaded, settings["uid"] + self.pid)
        else:
            confine.adopt_orphans()
        self.counted |= settings["counted"]
        none = resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK
        confine.limit([confine.bound(which, 0) for which in none])
        confine.die_with_parent()  # after the change of user, which resets it

    def _confine(self, loaded: list[str], uid: int) -> None:
        from grpo_envs.sandbox import readable, seccomp

        machine = self.confine.MACHINE
        assert machine is not None, "an architecture without a table"
        own = seccomp.assemble(seccomp.own(machine, _PID_MARK))
        self.filter = self.confine.Filter(own, struct.pack("<I", _PID_MARK))
        paths = readable.readable(loaded)
        if os.geteuid() == 0:
            needed = [readable.library(), os.__file__, *readable.packages(loaded)]
            there = [path for path in needed if os.path.exists(path)]  # noqa: PTH110  as below
            self.counted = readable.open_to_all(there) and self.confine.become(uid)
            self.confine.drop_capabilities()
        self.confine.hide_memory()
        self.confine.no_new_privileges()
        self.confine.landlock(paths, [readable.library()], readable.WRITABLE)
        self.confine.seccomp(seccomp.assemble(seccomp.inherited(machine)))

    def serve(self) -> None:
        """Serve commands until the keeper is gone."""
        self._open_streams()
        for rehearse in self.rehearsals:
            rehearse()
        self.seed(0)  # random numbers are the same in every run
        gc.collect()
        self.filling = self.settle()
        gc.freeze()  # a collection in a child would copy many pages
        gc.disable()
        handle = _handle(self.pid)
        self.wire.Notice(what=self.wire.READY).send(self.control, [] if handle < 0 else [handle])
        if handle >= 0:
            os.close(handle)
        while True:
            ready = self.poller.poll(self._patience())
            for child in self.children[:]:
                self._reap(child)
            if any(number == self.control.fileno() for number, _ in ready):
                try:
                    command, fds = self.wire.Command.receive(self.control)
                except (EOFError, OSError):
                    os._exit(0)  # the children die with us
                self._obey(command, fds)

    def _patience(self) -> int | None:
        """Return the milliseconds until the next check of children without a pidfd; else None."""
        return _GLANCE if any(child.handle < 0 for child in self.children) else None

    def _open_streams(self) -> None:
        """Set descriptors 0, 1 and 2 as in a child, and make the streams on them."""
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.dup2(writer, _STDERR)  # this process's own output is not read any more
        os.close(reader)
        os.close(writer)
        self.open_streams()

    def _obey(self, command: Any, fds: list[int]) -> None:
        if command.what == self.wire.FORK:
            self._fork(command, fds)
            return
        for child in self.children:
            if child.number == command.child and command.what == self.wire.KILL:
                os.kill(child.pid, signal.SIGKILL)
                child.killed = True
            elif child.number == command.child and child.handle >= 0:
                notice = self.wire.Notice(what=self.wire.SHOWN, child=child.number)
                notice.send(self.control, [child.handle])

    def _fork(self, command: Any, fds: list[int]) -> None:
        bounds = self._bounds(command)  # before the fork, so that children copy less memory
        try:
            pid = os.fork()
        except OSError as error:
            notice = self.wire.Notice(self.wire.FAILED, command.child, error.errno or 1)
            notice.send(self.control)
            return
        if pid == 0:
            try:
                self._become(command, bounds, fds)
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)
        child = _Child(command.child, pid, _handle(pid))
        self.children.append(child)
        if child.handle >= 0:
            self.poller.register(child.handle, select.POLLIN)

    def _become(self, command: Any, bounds: list[Any], fds: list[int]) -> None:
        """Set up the child: descriptors, limits, the filter; then run its role."""
        for place, fd in enumerate(fds):
            os.dup2(fd, place)
        os.closerange(len(fds), 1 << 16)
        if not self.filter:
            os.setpgid(0, 0)
        self.confine.die_with_parent()
        if os.getppid() != self.pid:
            return
        self.confine.limit(bounds)
        if self.filter:
            self.filter.install(os.getpid())
        else:
            self.seed(0)  # again: a fork hook of `random` reseeds
        gc.enable()
        self.roles[command.role](len(fds))

    def _bounds(self, command: Any) -> list[Any]:
        """Return the limits of a child, as `confine.limit` takes them."""
        bound = self.confine.bound
        bounds = [
            bound(resource.RLIMIT_CPU, command.cpu_s, 1),  # SIGXCPU, then SIGKILL
            bound(resource.RLIMIT_AS, command.memory),
            bound(resource.RLIMIT_NOFILE, command.open_files),
        ]
        if self.counted:  # only if the user id is the worker's own
            threads = command.threads + len(self.children) + 1
            bounds.append(bound(resource.RLIMIT_NPROC, threads))
        return bounds

    def _reap(self, child: "_Child") -> None:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if not pid:
            return
        self.children.remove(child)
        if child.handle >= 0:
            self.poller.unregister(child.handle)
            os.close(child.handle)
        if not self.filter:  # it may have forked
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            self._sweep()
        cpu_s = usage.ru_utime + usage.ru_stime
        notice = self.wire.Notice(self.wire.ENDED, child.number, status, cpu_s, child.killed)
        notice.send(self.control)

    def _sweep(self) -> None:
        """End orphans that became our children; only needed if programs may fork."""
        mine = {child.pid for child in self.children}
        own = f"/proc/self/task/{self.pid}/children"
        with suppress(OSError):
            while strays := set(map(int, _read(own).split())) - mine:
                for pid in strays:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


class _Child:
    """A process. Not a dataclass, whose module would be in every fork."""

    __slots__ = ("handle", "killed", "number", "pid")

    def __init__(self, number: int, pid: int, handle: int) -> None:
        """Take the keeper's number of the child, its pid, and its pidfd (-1 if there is none)."""
        self.number, self.pid, self.handle = number, pid, handle
        self.killed = False


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  pathlib would be in every fork
        return file.read()


def _handle(pid: int) -> int:
    return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1


if __name__ == "__main__":
    main()
