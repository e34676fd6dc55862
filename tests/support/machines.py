"""Machines with addresses of their own on this one: network namespaces of Linux behind a switch.

Files and processors are shared, the network is not: a machine's link is cut as a cable is, without
a word to either side.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from shutil import which
from typing import Any

_NETWORK = "10.213.7"
"""Of the namespaces alone: nothing outside can be reached from them."""
_NAMES = (f"grpo{os.getpid()}n{number}" for number in count())


class NoMachines(Exception):
    """Namespaces cannot be made here: why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace with one link."""

    name: str
    address: str
    switch: str
    """The namespace that the other end of its link is in."""
    port: str
    """That end."""

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program on it; `options` are those of `Popen`."""
        inside = ("ip", "netns", "exec", self.name, *command)
        return subprocess.Popen(inside, text=True, **options)

    def cut(self) -> None:
        """Take its link away: what is sent to it is lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.port, "nomaster")

    def join(self) -> None:
        """Bring its link back."""
        _ip("-n", self.switch, "link", "set", self.port, "master", "bridge")


@contextmanager
def machines(number: int) -> Iterator[list[Machine]]:
    """Make so many machines on one network; their processes must have ended by the end.

    Raises:
        NoMachines: this user may not, or the program `ip` is not here.
    """
    if which("ip") is None:
        raise NoMachines("no program ip (iproute2)")
    names = [next(_NAMES) for _ in range(number + 1)]
    try:
        yield _made(*names)
    finally:
        for name in names:
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)


def _made(switch: str, *names: str) -> list[Machine]:
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge", "up")
    made = []
    for number, name in enumerate(names, 1):
        found = Machine(name, f"{_NETWORK}.{number}", switch, f"port{number}")
        _ip("netns", "add", name)
        end = ("type", "veth", "peer", "name", found.port, "netns", switch)
        _ip("-n", name, "link", "add", "name", "eth0", *end)
        _ip("-n", name, "address", "add", f"{found.address}/24", "dev", "eth0")
        for each in ("lo", "eth0"):
            _ip("-n", name, "link", "set", each, "up")
        _ip("-n", switch, "link", "set", found.port, "up", "master", "bridge")
        made.append(found)
    return made


def _ip(*words: str) -> None:
    done = subprocess.run(("ip", *words), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoMachines(f"ip {' '.join(words)}: {said[-1]}")
