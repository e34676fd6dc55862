"""The messages between the processes of a worker: trainer, keeper and zygote.

The trainer sends the keeper a request and gets a reply: a header and blobs of bytes, marshalled.
The keeper sends the zygote commands of fixed size, with file descriptors, and gets notices.
"""

import marshal
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 16
_COMMAND = struct.Struct("<cqc4q")
_NOTICE = struct.Struct("<cqqd?")
_RIGHTS_SPACE = socket.CMSG_SPACE(8 * struct.calcsize("i"))
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

FORK, KILL, SHOW = b"F", b"K", b"P"
SCRIPT, SERVE, JUDGE = b"S", b"C", b"J"
"""The roles of a child: a program that runs, a program that serves calls, test code."""
READY, SHOWN, ENDED, FAILED = b"R", b"P", b"X", b"E"
OUT_OF_MEMORY = 86
"""Exit code of a program that ended with MemoryError."""
ABSENT = 87
"""Exit code of a program that needs a package which the light zygote lacks, see `preload`."""
PASSED, MISSED, BROKEN, GONE = "passed", "missed", "broken", "gone"
"""The verdicts of a judge: right, wrong, tests that cannot run, a program that does not answer."""
FIRST_FREE = 10
"""The zygote's first descriptor; the numbers below are for a child's descriptors."""


class Command(NamedTuple):
    """A command of the keeper to the zygote."""

    what: bytes
    child: int
    """The keeper's number of the child."""
    role: bytes = SCRIPT
    cpu_s: int = 0
    memory: int = 0
    open_files: int = 0
    threads: int = 0

    def send(self, to: socket.socket, fds: Sequence[int] = ()) -> None:
        """Send the command, with the descriptors that become a child's 0, 1, 2, ..."""
        _send_fixed(to, _COMMAND.pack(*self), fds)

    @classmethod
    def receive(cls, at: socket.socket) -> tuple["Command", list[int]]:
        """Return the next command; EOFError once the keeper is gone."""
        data, fds = _receive_fixed(at, _COMMAND.size)
        return cls(*_COMMAND.unpack(data)), fds


class Notice(NamedTuple):
    """A report of the zygote to the keeper."""

    what: bytes
    child: int = 0
    status: int = 0
    """The status of wait4, or an error number."""
    cpu_s: float = 0.0
    killed: bool = False
    """Whether the keeper requested the kill."""

    def send(self, to: socket.socket, fds: Sequence[int] = ()) -> None:
        """Send the notice, with a pidfd if it has one."""
        _send_fixed(to, _NOTICE.pack(*self), fds)

    @classmethod
    def receive(cls, at: socket.socket) -> tuple["Notice", list[int]]:
        """Return the next notice; EOFError once the zygote is gone."""
        data, fds = _receive_fixed(at, _NOTICE.size)
        return cls(*_NOTICE.unpack(data)), fds


def send_message(to: socket.socket, header: dict[str, Any], *blobs: bytes) -> None:
    """Send a header and blobs."""
    data = marshal.dumps((header, blobs))
    to.sendall(_LENGTH.pack(len(data)) + data, _NO_SIGNAL)


def receive_message(at: socket.socket) -> tuple[dict[str, Any], Sequence[bytes]]:
    """Return a header and its blobs; EOFError once the other side is gone.

    Neither side sends before the other has answered, so the data is one message.
    """
    data = at.recv(_CHUNK)
    while len(data) < _LENGTH.size:
        more = at.recv(_CHUNK)
        if not more:
            raise EOFError
        data += more
    size = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    whole = data if len(data) == size else _completed(at, data, size)
    header, blobs = marshal.loads(memoryview(whole)[_LENGTH.size :])
    return header, blobs


def _completed(at: socket.socket, begun: bytes, size: int) -> bytearray:
    data = bytearray(size)
    data[: len(begun)] = begun
    view = memoryview(data)[len(begun) :]
    while view:
        count = at.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _send_fixed(to: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    if fds:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
        to.sendmsg([data], [rights], _NO_SIGNAL)
    else:
        to.send(data, _NO_SIGNAL)


def _receive_fixed(at: socket.socket, size: int) -> tuple[bytes, list[int]]:
    data, rights, _, _ = at.recvmsg(size, _RIGHTS_SPACE, socket.MSG_WAITALL | _CLOSE_ON_EXEC)
    fds = [fd for _, _, packed in rights for fd in memoryview(packed).cast("i")]
    if len(data) < size:
        for fd in fds:
            os.close(fd)
        raise EOFError
    return data, fds
