"""The keeper's work for a request: run a program, or judge a program by tests."""

import fcntl
import os
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from grpo_envs.sandbox.session import Absent, Broken, Place, Session
from grpo_envs.sandbox.wire import ABSENT, GONE, JUDGE, OUT_OF_MEMORY, SCRIPT, SERVE, Notice

_SEALS = 0xF  # no more seals, no shrinking, growing or writing
_VERDICT_CAP = 1 << 16
_MOST_OF_IT = 0.75
_GONE = GONE.encode()


Reply = tuple[dict[str, Any], list[bytes]]


def serve(header: dict[str, Any], blobs: Sequence[bytes], places: list[Place]) -> Reply:
    """Carry out a request; return the reply.

    Raises:
        EOFError, OSError: the trainer or the zygote is gone.
    """
    try:
        try:
            return _attempt(header, blobs, places[-1 if header["full"] else 0])
        except Absent:
            return _attempt(header, blobs, places[-1])
    except Broken as error:
        return {"failed": str(error)}, []


def _attempt(header: dict[str, Any], blobs: Sequence[bytes], place: Place) -> Reply:
    session = Session(header["limits"], place)
    opened: list[int] = []
    work = _judge if header["judge"] else _run
    try:
        reply, out = work(session, blobs, opened)
    finally:
        session.close()
        for fd in opened:
            os.close(fd)
    return {"wall_s": time.monotonic() - session.began, **reply}, out


def _run(session: Session, blobs: Sequence[bytes], opened: list[int]) -> Reply:
    limits = session.limits
    task, stdin = blobs
    opened += [_file(stdin), _file(task)]
    ends = [
        session.pipe(limits["stdout_kib"] << 10, fatal=True),
        session.pipe(limits["stderr_kib"] << 10, fatal=False),
        session.pipe(limits["result_kib"] << 10, fatal=True),
    ]
    try:
        child = session.fork(SCRIPT, [opened[0], *ends[:2], opened[1], ends[2]])
    finally:
        for fd in ends:
            os.close(fd)
    session.wait(child)
    out = session.finish()
    assert child.end is not None
    return {"failed": "", "status": _status(session, child.end), "cpu_s": child.end.cpu_s}, out


def _judge(session: Session, blobs: Sequence[bytes], opened: list[int]) -> Reply:
    program, tests = (_file(blob) for blob in blobs)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    opened += [program, tests, null]
    verdict = session.pipe(_VERDICT_CAP, fatal=False)
    theirs, ours = socket.socketpair()
    try:
        candidate = session.fork(SERVE, [null, null, null, program, theirs.fileno()])
        theirs.close()
        judge = session.fork(JUDGE, [null, null, null, tests, ours.fileno(), verdict])
    finally:
        theirs.close()
        ours.close()
        os.close(verdict)
    session.wait(judge)
    if session.read()[0].startswith(_GONE):
        session.linger(candidate)  # its descriptors close before its end is reported
    streams = session.finish()
    assert judge.end is not None
    assert candidate.end is not None
    status = _status(session, judge.end)
    session.light &= streams[0].startswith(_GONE)  # a judged program gets no second try
    _status(session, candidate.end)  # raises if it was killed from outside
    return {"failed": "", "status": status}, streams


def _status(session: Session, end: Notice) -> str:
    """Return how a run ended, from the status that the kernel reports.

    Raises:
        Absent: the program needs a package of the other zygote.
        Broken: it was killed from outside; a confined program cannot send itself SIGKILL.
    """
    if session.why:
        return session.why
    code = os.waitstatus_to_exitcode(end.status)
    if code == -signal.SIGKILL and not end.killed:
        # The limit counts clock ticks, which differ from the reported time.
        if end.cpu_s > _MOST_OF_IT * session.limits["cpu_s"]:
            return "cpu"
        raise Broken("its process was killed from outside (out of memory?)")
    if code == ABSENT and session.light:
        raise Absent
    if code < 0:
        return "cpu" if code == -signal.SIGXCPU else "killed"
    return {0: "ok", OUT_OF_MEMORY: "memory"}.get(code, "error")


def _file(data: bytes) -> int:
    """Return a descriptor of a file with `data` that can only be read."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return os.dup(file.fileno())
    fd = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    written = 0
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], written)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd
