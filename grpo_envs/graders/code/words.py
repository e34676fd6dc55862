"""The tests of a program, and their result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_envs.graders.code.checkers import Checker

KINDS = ("stdio", "call", "asserts", "weak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input and its expected result."""

    given: Any
    """`call`: a tuple of arguments; `stdio`: the text of standard input."""
    expected: Any
    """`call`: the value, of plain builtins; `stdio`: the text of standard output."""
    through: str = ""
    """The function applied to the value before the comparison: a key of compare.THROUGH."""
    rel_tol: float = 0.0
    """Allowed relative and absolute difference of a float."""
    abs_tol: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTests:
    """The tests of a program: the gold of a problem."""

    kind: str
    """`stdio` and `call` have cases; `asserts` and `weak` have code that defines
    `check(candidate)`. It runs in a separate process (`asserts`) or in the program's (`weak`)."""
    entry_point: str = ""
    """The function that is tested; '' for `stdio`."""
    cases: tuple[Case, ...] = ()
    code: str = ""
    visible: int = 0
    """Number of first cases that may be shown to the policy; all others stay hidden."""
    preamble: str = ""
    """Imports and helpers of the prompt, which are put before the program."""
    checker: Checker | None = None
    """Decides about the outputs of `stdio` or the values of `call`, in place of the comparison."""
    strict: bool = False
    """Whether a list and a tuple differ, as for `==`. JSON has only lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVerdict:
    """The result of a program on its tests."""

    kind: str
    passed: float = 0.0
    """Share of the cases that passed; for `asserts` and `weak`, 0 or 1."""
    ran: bool = False
    """Whether the program ended by itself and no call raised, whether or not it was right."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """What happened in each case that failed, by position: `3 instead of 4`, `ValueError: ...`."""
    error: str = ""
    """The error that ended the program before its first case, or the failing assertion; for
    people."""

    @property
    def weak(self) -> bool:
        """Whether the program shared a process with its tests, and so could have cheated."""
        return self.kind == "weak"
