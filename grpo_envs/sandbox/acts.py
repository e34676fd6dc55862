"""Ten programs that test an isolation level: eight forbidden acts and two honest programs."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grpo_envs.errors import SandboxError
from grpo_envs.sandbox.types import Limits
from grpo_envs.sandbox.values import dump
from grpo_envs.sandbox.worker import Setting, Worker, WorkerDied, payload

_REFUSED = ("PermissionError", "FileNotFoundError", "ProcessLookupError")  # the last two: bwrap
_LIMITS = Limits(wall_s=10.0, cpu_s=5, memory_mib=256)
_ACTS = {
    "write a file": "open({new!r}, 'w').write('x')",
    "read a secret": "open({secret!r}).read()",
    "open a socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "fork": "import os; os.fork()",
    "exec": "import os; os.execv('/bin/true', ['true'])",
    "kill": "import os; os.kill({victim}, 0)",
    "chmod": "import os; os.chmod({secret!r}, 0o777)",
    "ptrace": "import ctypes\nif ctypes.CDLL(None).ptrace(0, 0, 0, 0): raise PermissionError",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActResult:
    """The result of one program of the self-test."""

    act: str
    expected: str
    problem: str
    """Empty if the program did what was expected."""


def trial(setting: Setting) -> list[ActResult]:
    """Run the self-test on a separate worker, which is stopped afterwards.

    Raises:
        SandboxError: the worker does not start.
    """
    worker = Worker(setting, set())
    try:
        worker.wait()
    except WorkerDied as error:
        worker.stop()
        raise SandboxError(f"{error}.") from error
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = [
                [*_forbidden(worker, Path(folder), full), *_honest(worker, full)]
                for full in worker.kinds
            ]
        return [next((f for f in same if f.problem), same[0]) for same in zip(*found, strict=True)]
    finally:
        worker.stop()


def _forbidden(worker: Worker, folder: Path, full: bool) -> list[ActResult]:
    secret, new = folder / "secret", folder / "new"
    secret.write_text("secret", encoding="ascii")
    folder.chmod(0o777)  # so that only the sandbox protects the file
    secret.chmod(0o666)
    results = []
    for act, program in _ACTS.items():
        text = program.format(new=str(new), secret=str(secret), victim=os.getpid())
        status, _, stderr = _ran(worker, text, full=full)
        held = status == "error" and stderr.rpartition("\n")[2].startswith(_REFUSED)
        problem = "" if held else f"{status}: {stderr[-200:] or 'it was done'}"
        results.append(ActResult(act=act, expected="refused", problem=problem))
    return results


def _honest(worker: Worker, full: bool) -> list[ActResult]:
    adder = "print(sum(map(int, input().split())), end='')"
    status, out, stderr = _ran(worker, adder, full=full)
    script = "" if (status, out) == ("ok", "6") else f"{status}: {out} {stderr}"
    doubler = "def f(x):\n    print(end=str([x, 2 * x]))\n    return x"
    status, out, stderr = _ran(worker, doubler, full=full, calls=[dump([21])])
    call = "" if (status, out) == ("ok", "[21, 42]") else f"{status}: {out} {stderr}"
    return [
        ActResult(act="read and print", expected="done", problem=script),
        ActResult(act="call by value", expected="done", problem=call),
    ]


def _ran(
    worker: Worker, program: str, *, full: bool, calls: list[str] | None = None
) -> tuple[str, str, str]:
    task = payload(program=program, entry_point="f", calls=calls)
    try:
        header, out = worker.ask(_LIMITS, [task, b"1 2 3\n"], judge=False, full=full)
    except WorkerDied as error:
        return "sandbox", "", str(error)
    return header["status"], out[0].decode(), out[1].decode().strip()
