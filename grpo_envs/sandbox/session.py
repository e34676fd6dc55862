"""The keeper's children of one request: starting, reading and ending them in time."""

import os
import resource
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from grpo_envs.sandbox.wire import FAILED, FORK, KILL, SHOW, SHOWN, Command, Notice

_SHORT = 0.005  # seconds until a program's output is read while it runs
_FIRST_LOOK, _NEXT_LOOK = 0.02, 0.03  # seconds until the threads are counted
_CHUNK = 1 << 16
_FULL = 16  # most chunks in a pipe
_LINGER = 0.3  # seconds until a program without an answer is killed
_DYING = 5.0  # seconds until a killed child must have ended


class Broken(Exception):
    """The worker failed, not the program; the request runs again."""


class Absent(Exception):
    """A program needs a package that this zygote does not have; it runs again in the other."""


@dataclass(slots=True, kw_only=True)
class Sink:
    """The data from a pipe, up to a limit."""

    cap: int
    fatal: bool
    """Whether data beyond the cap ends the run; else it is dropped."""
    data: bytearray = field(default_factory=bytearray)

    def take(self, chunk: bytes) -> bool:
        """Keep the data that fits; return whether the run must end."""
        room = self.cap - len(self.data)
        self.data += chunk[:room]
        return self.fatal and len(chunk) > room


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The zygote and trainer of a request."""

    trainer: socket.socket
    zygote: socket.socket
    base: int
    """Bytes of the zygote's address space, which do not count against a program's limit."""
    light: bool
    """Whether another zygote has more packages."""


@dataclass(slots=True)
class Child:
    """A process of the zygote."""

    number: int
    seen: str = ""
    """The child's folder in our /proc; '' while unknown."""
    end: Notice | None = None


class Session:
    """The children of one request, their time, and their output."""

    def __init__(self, limits: dict[str, Any], place: Place) -> None:
        """Begin without children."""
        self.limits = limits
        self.trainer = place.trainer
        self.zygote = place.zygote
        self.base = place.base
        self.light = place.light
        self.children: list[Child] = []
        self.sinks: dict[int, Sink] = {}
        self.poller = select.poll()
        self.poller.register(self.trainer, select.POLLIN)
        self.poller.register(self.zygote, select.POLLIN)
        self.began = time.monotonic()
        self.deadline = self.began + limits["wall_s"]
        self.why = ""

    def fork(self, role: bytes, fds: Sequence[int]) -> Child:
        """Start a child whose descriptors 0, 1, 2, ... are `fds`."""
        limits = self.limits
        command = Command(
            what=FORK,
            child=len(self.children),
            role=role,
            cpu_s=limits["cpu_s"],
            memory=self.base + (limits["memory_mib"] << 20),
            open_files=limits["open_files"],
            threads=limits["threads"],
        )
        command.send(self.zygote, fds)
        self.children.append(Child(command.child))
        return self.children[-1]

    def pipe(self, cap: int, *, fatal: bool) -> int:
        """Open a pipe that is read here; return the other end, for a child."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self.sinks[ours] = Sink(cap=cap, fatal=fatal)
        return theirs

    def wait(self, awaited: Child) -> None:
        """Read, and watch the time, until `awaited` has ended."""
        self._step(_SHORT)  # most have ended by then, and their output is read at once
        if awaited.end is not None:
            return
        for fd in self.sinks:
            self.poller.register(fd, select.POLLIN)
        look = self.began + _FIRST_LOOK
        while awaited.end is None:
            now = time.monotonic()
            if now >= look:
                look = now + _NEXT_LOOK
                self._look()
            if now >= self.deadline:
                self._end("wall")
            self._step(min(self.deadline, look) - now)

    def linger(self, child: Child) -> None:
        """Give a process that seems to be ending the time to end by itself."""
        until = time.monotonic() + _LINGER
        while child.end is None and time.monotonic() < until:
            self._step(until - time.monotonic())

    def finish(self) -> list[bytes]:
        """End all children; return the data from the pipes."""
        for child in self.children:
            self._kill(child)
        self.deadline = max(self.deadline, time.monotonic() + _DYING)
        while any(child.end is None for child in self.children):
            if time.monotonic() >= self.deadline:
                raise Broken("a killed process does not end")
            self._step(self.deadline - time.monotonic())
        return self.read()

    def read(self) -> list[bytes]:
        """Return the data from the pipes so far."""
        for fd in self.sinks:
            self._read(fd, last=True)
        return [bytes(sink.data) for sink in self.sinks.values()]

    def close(self) -> None:
        """Close our ends."""
        for fd in self.sinks:
            os.close(fd)

    def _step(self, patience: float) -> None:
        events = self.poller.poll(max(0.0, patience) * 1000)
        for fd, _ in events:
            if fd == self.trainer.fileno():
                raise EOFError  # the trainer sends nothing now: it is gone
            if fd == self.zygote.fileno():
                self._note(*Notice.receive(self.zygote))
            else:
                self._read(fd)

    def _note(self, notice: Notice, handles: list[int]) -> None:
        if notice.what == FAILED:
            raise Broken(f"the system lets it fork no more: {os.strerror(notice.status)}")
        child = self.children[notice.child]
        if notice.what == SHOWN:
            child.seen = _seen(handles)
            self._count_threads(child)
        else:
            child.end = notice

    def _read(self, fd: int, *, last: bool = False) -> None:
        sink = self.sinks[fd]
        with suppress(BlockingIOError):
            for _ in range(_FULL if last else 1):
                chunk = os.read(fd, _CHUNK)
                if sink.take(chunk) and not self.why:
                    self._end("output")
                if not chunk and not last:
                    self.poller.unregister(fd)
                if not chunk:
                    return

    def _end(self, why: str) -> None:
        """End the run; if a process then does not end, the worker has failed."""
        if self.why:
            raise Broken("a killed process does not end")
        self.why = why
        self.deadline = time.monotonic() + _DYING
        for child in self.children:
            self._kill(child)

    def _kill(self, child: Child) -> None:
        if child.end is None:
            Command(what=KILL, child=child.number).send(self.zygote)

    def _look(self) -> None:
        """Count the threads of children whose folders in /proc are known; ask for the others."""
        for child in self.children:
            if child.seen:
                self._count_threads(child)
            elif child.end is None:
                Command(what=SHOW, child=child.number).send(self.zygote)

    def _count_threads(self, child: Child) -> None:
        if not self.why and child.end is None and _threads(child.seen) > self.limits["threads"]:
            self._end("killed")


def address_space(handles: list[int]) -> int:
    """Return the bytes that a process has mapped; a default if that is unknown."""
    try:
        with open(f"{_seen(handles)}/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, IndexError):
        return 1 << 28


def _seen(handles: list[int]) -> str:
    """Return a process's folder in our /proc, independent of its number in its own namespace."""
    number = 0
    for handle in handles:
        with suppress(OSError), open(f"/proc/self/fdinfo/{handle}", "rb") as info:  # noqa: PTH123
            number = int(next((line[4:] for line in info if line[:4] == b"Pid:"), b"0"))
        os.close(handle)
    return f"/proc/{number}" if number > 0 else ""


def _threads(seen: str) -> int:
    try:
        with open(f"{seen}/stat", "rb") as file:  # noqa: PTH123  pathlib costs a start
            return int(file.read().rpartition(b")")[2].split()[17])
    except (OSError, IndexError, ValueError):  # it has ended
        return 0
