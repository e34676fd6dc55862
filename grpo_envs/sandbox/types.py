"""Inputs and results of a sandbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

STATUSES = ("ok", "error", "wall", "cpu", "memory", "output", "killed", "refused")
"""How a run ended: `ok`; `error` (an exception or an exit code); at a limit (`wall` clock, `cpu`
time, `memory`, `output`); `killed` by a signal; `refused` (program or input too large, not
started)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The resources that a program may use."""

    wall_s: float = 6.0
    """Seconds of wall time from the start."""
    cpu_s: int = 5
    """Seconds of processor time."""
    memory_mib: int = 1024
    stdout_kib: int = 8192
    stderr_kib: int = 64
    result_kib: int = 8192
    """Size of all returned values together, as JSON."""
    open_files: int = 32
    threads: int = 64
    program_kib: int = 256
    stdin_mib: int = 16
    total_s: float = 120.0
    """Seconds for all inputs of one problem, which run one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of one function of the program, made in order in one process."""

    entry_point: str
    args: Sequence[Sequence[Any]]
    """Positional arguments of each call: plain builtins, passed by value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A call returned: the claimed value, as plain builtins."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """A call raised, or returned something that does not pass by value."""

    error: str
    """The error in at most one line: `TypeError: ...`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The result of a run. All of it is the program's claim, none of it a verdict."""

    status: str
    """One of STATUSES."""
    stdout: str = ""
    stderr: str = ""
    values: tuple[Returned | Raised, ...] = ()
    """One for each finished call; fewer than calls if the run ended early."""
    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judge's result of running test code against the program's process."""

    passed: bool
    error: str = ""
    """The failing assertion or the exception, for people; never shown to the policy unchanged."""
    wall_s: float = 0.0


class Backend(Protocol):
    """A place where untrusted programs run. Several threads may call it at once.

    A backend that fails raises SandboxError, which makes a reward invalid. It never returns a
    result that could be mistaken for a wrong answer.
    """

    @property
    def level(self) -> str:
        """The isolation level, for the log and for `info`."""
        ...

    def run(
        self,
        program: str,
        *,
        stdin: str | None = None,
        calls: Calls | None = None,
        limits: Limits | None = None,
    ) -> RunResult:
        """Run `program` as a script, then make `calls` of one of its functions."""
        ...

    def judge(
        self, program: str, *, tests: str, entry_point: str, limits: Limits | None = None
    ) -> Verdict:
        """Run `tests`, which define `check(candidate)`, in another process than `program`."""
        ...

    def close(self) -> None:
        """End every process of the backend; a second call does nothing."""
        ...
