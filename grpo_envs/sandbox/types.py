"""What goes into a sandbox and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

STATUSES = ("ok", "error", "wall", "cpu", "memory", "output", "killed", "refused")
"""How a run ended: by itself well, by itself badly (an exception, an exit code), at a limit (wall
clock, processor time, memory, output), by a signal, or not begun (program or input too large)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use."""

    wall_s: float = 6.0
    """Seconds from its start, whatever it does."""
    cpu_s: int = 5
    """Seconds of processor time."""
    memory_mib: int = 1024
    stdout_kib: int = 8192
    stderr_kib: int = 64
    result_kib: int = 8192
    """All returned values together, as JSON."""
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
    """A call returned: what the program claims, as plain builtins."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """A call raised, or returned what does not pass by value."""

    error: str
    """`TypeError: ...`, at most a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a program did. Everything in it is the program's claim; none of it is a verdict."""

    status: str
    """One of STATUSES."""
    stdout: str = ""
    stderr: str = ""
    values: tuple[Returned | Raised, ...] = ()
    """One for each call that came to an end; fewer than calls where the run was cut short."""
    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the judge process found when it ran test code against the program's process."""

    passed: bool
    error: str = ""
    """The failing assertion or the exception, for people: never shown to the policy as is."""
    wall_s: float = 0.0


class Backend(Protocol):
    """Where untrusted programs run. Calls may come from several threads at once.

    A backend that fails raises SandboxError, which makes a reward invalid; it never returns a
    result that could be taken for a wrong answer.
    """

    @property
    def level(self) -> str:
        """What confines the programs, for the log and for `info`."""
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
        """Run `tests`, which define `check(candidate)`, in a process that `program` is not in."""
        ...

    def close(self) -> None:
        """End every process of the backend; a second call does nothing."""
        ...
