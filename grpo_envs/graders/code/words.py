"""What a program is tested with, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_envs.graders.code.checkers import Checker

KINDS = ("stdio", "call", "asserts", "weak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input and what it must lead to."""

    given: Any
    """`call`: a tuple of arguments; `stdio`: the text of standard input."""
    expected: Any
    """`call`: the value, of plain builtins; `stdio`: the text of standard output."""
    through: str = ""
    """What the value goes through before it is compared: a key of compare.THROUGH."""
    rel_tol: float = 0.0
    """Relative and absolute difference that a float may have."""
    abs_tol: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTests:
    """What a program is tested with: the gold of a problem."""

    kind: str
    """`stdio` and `call` have cases; `asserts` and `weak` have code that defines
    `check(candidate)`, which `asserts` runs in a process of its own and `weak` in the program's."""
    entry_point: str = ""
    """The function that is tested; '' for `stdio`."""
    cases: tuple[Case, ...] = ()
    code: str = ""
    visible: int = 0
    """So many of the cases, the first, may be shown to the policy; all others stay hidden."""
    preamble: str = ""
    """Imports and helpers that the prompt shows; they stand before the program."""
    checker: Checker | None = None
    """Decides on the outputs of `stdio` and the values of `call` in place of the comparison."""
    strict: bool = False
    """Whether a list and a tuple differ, as they do for `==`. JSON knows lists only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVerdict:
    """What a program did on its tests."""

    kind: str
    passed: float = 0.0
    """Share of the cases that passed; of `asserts` and `weak`, 0 or 1."""
    ran: bool = False
    """Whether it ended by itself and no call raised, whatever it answered."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """What happened in each case that failed, by position: `3 instead of 4`, `ValueError: ...`."""
    error: str = ""
    """What ended the program before its first case, or the failing assertion: for people."""

    @property
    def weak(self) -> bool:
        """Whether the program shared a process with its tests, and so could have cheated."""
        return self.kind == "weak"
