"""Our side of the process that forks workers; `worker_main` is the other side."""

import os
import socket
import struct
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from grpo_envs.errors import GrpoEnvsError, install
from grpo_envs.sandbox import boot

PROGRAM = Path(__file__).with_name("worker_main.py")
NEEDS = {
    "sympy_equal": ("pip install sympy", ("sympy", "mpmath")),
    "math_verify_equal": (
        install("math-verify"),
        ("math_verify", "latex2sympy2_extended", "antlr4", "sympy", "mpmath"),
    ),
}
"""Modules with `equal(gold, answer, seconds)`: the command that installs their packages, and
these."""
HUNG = 60.0  # seconds without an answer
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_COMMAND = struct.Struct("<cq")  # b"F" 0 forks a worker, b"K" pid kills one
_PID = struct.Struct("<q")
_KEPT = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR")  # variables without effect on verdicts
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(slots=True)
class Worker:
    """A process that waits for one pair."""

    end: socket.socket
    pid: int


@dataclass(slots=True)
class WorkerZygoteHandle:
    """The zygote's process, and its workers that are not used yet."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    answered: bool = False
    """Whether the zygote has reported that it is ready."""
    asked: int = 0
    """Workers that were requested and not sent yet."""
    ready: deque[Worker] = field(default_factory=deque)

    def wait(self) -> None:
        """Wait until the zygote is ready.

        Raises:
            GrpoEnvsError: it does not start; the message says why.
        """
        if self.answered:
            return
        word = self.control.recv(400)
        if word[:1] != b"R":
            raise _no_start(word[1:].decode(errors="replace") or "it ended")
        self.answered = True

    def ask(self) -> None:
        """Request a worker; `receive` gets it."""
        self.control.sendall(_COMMAND.pack(b"F", 0), NO_SIGNAL)
        self.asked += 1

    def receive(self) -> None:
        """Receive a worker.

        Raises:
            EOFError: the zygote is gone.
            GrpoEnvsError: the system refuses a fork.
        """
        space = socket.CMSG_SPACE(4)
        data, ancillary, _, _ = self.control.recvmsg(_PID.size, space, _CLOSE_ON_EXEC)
        if len(data) < _PID.size:
            raise EOFError
        self.asked -= 1
        (pid,) = _PID.unpack(data)
        if pid < 0:
            raise _no_start(os.strerror(-pid))
        (number,) = struct.unpack("i", ancillary[0][2])
        self.ready.append(Worker(socket.socket(fileno=number), pid))

    def kill(self, worker: Worker) -> None:
        """Let the zygote kill a worker: only the parent knows whether the pid is still valid."""
        self.control.sendall(_COMMAND.pack(b"K", worker.pid), NO_SIGNAL)

    def stop(self) -> None:
        """End the zygote and its workers."""
        self.process.kill()
        self.drop()
        self.process.wait()

    def drop(self) -> None:
        """Close our ends of the sockets."""
        self.control.close()
        for worker in self.ready:
            worker.end.close()


def start(
    equal: str, memory: int, deadline: float, opening: list[socket.socket]
) -> WorkerZygoteHandle:
    """Start a zygote by exec, without waiting for it.

    Args:
        equal: The module that decides, one of NEEDS.
        memory: Bytes of address space of a worker.
        deadline: Seconds that a worker may take.
        opening: Holds the sockets until a handle owns them, so that a child that another thread
            forks at this moment can close them.

    Raises:
        GrpoEnvsError: a package is not installed, or the system cannot start a process.
    """
    folders = _folders(equal)
    opening[:] = ours, theirs = socket.socketpair()
    arguments = [equal, str(theirs.fileno()), str(memory), str(deadline), *folders]
    try:
        process = subprocess.Popen(
            # As isolated as -I, but with a fixed hash seed: sympy's steps depend on hash order.
            [sys.executable, "-S", "-s", "-P", boot.__file__, str(PROGRAM), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={k: os.environ[k] for k in _KEPT if k in os.environ} | {"PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C in a terminal reaches only us
        )
    except OSError as error:
        ours.close()
        raise _no_start(str(error)) from error
    finally:
        theirs.close()
        opening.clear()
    ours.settimeout(HUNG)
    return WorkerZygoteHandle(process, ours)


def _no_start(why: str) -> GrpoEnvsError:
    return GrpoEnvsError(f"the math grader's workers cannot be started: {why}.")


def _folders(equal: str) -> list[str]:
    """Return the folders of the packages that `equal` needs, without importing them."""
    remedy, names = NEEDS[equal]
    folders = []
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise GrpoEnvsError(f"{name} is not installed: {remedy}.")
        folders.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(folders))
