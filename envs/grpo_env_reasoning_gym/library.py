"""reasoning-gym from outside: every call runs in the sandbox, see `inside`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_env_reasoning_gym.refused import NEIGHBOURS, REFUSED
from grpo_envs import seeding
from grpo_envs.errors import (
    ConfigError,
    SandboxError,
    require_extra,
    require_one_of,
    unknown,
)
from grpo_envs.sandbox import Backend, Calls, Limits, Raised, Returned, RunResult
from grpo_envs.sandbox.shared import shared_pool

_PREFACE = """
import sys, types
_module = sys.modules["grpo_envs.seeding"] = types.ModuleType("grpo_envs.seeding")
exec({seeding!r}, vars(_module))
"""
_PROGRAM = _PREFACE.format(seeding=Path(seeding.__file__).read_text("utf-8")) + Path(
    __file__
).with_name("inside.py").read_text("utf-8")
_DRAW = Limits(cpu_s=30, wall_s=120.0, memory_mib=2048)
_NAN = re.compile(r"(?<![a-z])nan(?![a-ik-z])", re.IGNORECASE)
"""The word nan, also as in nan+2j. A negated comparison of a distance accepts it for any number."""
_NEARLY = 0.99
_BUSY = 0.5
"""Share of the allowed processor time. An answer that ran out of wall-clock time with less than
this share was waiting for the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question of reasoning-gym and the data for its grader."""

    question: str = field(compare=False)
    answer: str
    """The best known answer; '' if there is none."""
    best: float | None = field(compare=False)
    """The grade of this answer; None if the grader raises."""
    number: int = field(compare=False)
    """The seed of the item's data set."""
    entry: bytes = field(compare=False)
    """The item, pickled in the sandbox; it is unpickled only there."""
    lonely: bool = True
    """Whether answers that look very similar to the answer are wrong."""

    def __str__(self) -> str:
        return self.answer if self.answer and self.lonely else "(not shown)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The grade of an answer by a task's grader."""

    value: float
    note: str = ""
    """Why the value is 0, if the grader gave none."""


class Library:
    """One generator of reasoning-gym with its options."""

    def __init__(self, task: str, options: Mapping[str, Any], backend: Backend) -> None:
        """Check the task and the options; `backend` is the result of `shared`.

        Raises:
            ConfigError: there is no such task, the task is refused, or it does not accept an
                option.
        """
        self.task = task
        self.options = {str(name): value for name, value in options.items()}
        self.backend = backend
        require_one_of("env.task", task, self._value(backend_call(backend, "tasks")))
        if task in REFUSED:
            raise ConfigError(f"env.task={task} is refused: {REFUSED[task]}.")
        known = self._value(backend_call(backend, "options", task))
        for name in self.options:
            if name not in known:
                raise unknown(f"option of env.task={task}", name, known)
        self._check_values()

    def draw(self, split: str, key: int) -> Item:
        """Return the question that `key` determines.

        Raises:
            ConfigError: there are too few questions, or a draw takes too long.
        """
        result = backend_call(
            self.backend, "draw", self.task, self.options, split, key, limits=_DRAW
        )
        if not result.values and result.status in ("cpu", "wall"):
            raise ConfigError(f"{self._named}: a question takes more than {_DRAW.cpu_s} s to draw.")
        if result.values and isinstance(failure := result.values[0], Raised):
            raise ConfigError(f"{self._named}: no question can be drawn: {failure.error}.")
        drawn = self._value(result)
        if "question" in drawn:
            return Item(**drawn, lonely=self.task not in NEIGHBOURS)
        many = drawn["draws"] == drawn["questions"]
        why = "drawing one takes too long" if many else "too few for two splits"
        counts = f"{drawn['questions']} questions in {drawn['draws']} draws"
        raise ConfigError(f"{self._named}: {counts}, none of {split}: {why}.")

    def grade(self, item: Item, answer: str, limits: Limits) -> Grade:
        """Return the grade of an answer; 0 if the grader raises or does not end.

        Raises:
            SandboxError: the sandbox failed, or the grader raises for the known answer, too.
        """
        if _NAN.search(answer) and not _NAN.search(item.answer):
            return Grade(value=0.0, note="it is not a number")
        given = (self.task, self.options, (item.number, item.entry), answer)
        result = backend_call(self.backend, "grade", *given, limits=limits)
        outcome = result.values[0] if result.values else None
        if isinstance(outcome, Returned):
            return Grade(value=_share(outcome.value))
        if outcome is None and result.status == "wall" and result.cpu_s < _BUSY * limits.cpu_s:
            raise SandboxError(f"the machine was too busy to grade in {limits.wall_s:g} s.")
        note = f"the grader ended by {result.status}" if outcome is None else outcome.error
        if item.best is None:
            raise SandboxError(f"the grader fails for its own answer, too: {note}.")
        return Grade(value=0.0, note=note)

    @property
    def _named(self) -> str:
        options = f" env.options={self.options}" if self.options else ""
        return f"env.task={self.task}{options}"

    def _check_values(self) -> None:
        """Raise if the generator does not accept the values of the options."""
        values = backend_call(self.backend, "configured", self.task, self.options).values
        outcome = values[0] if values else None
        if isinstance(outcome, Returned):
            return
        why = outcome.error if outcome else "it does not end"
        kind, _, message = why.partition(": ")
        allowed = message if kind in ("AssertionError", "TypeError", "ValueError") else why
        raise ConfigError(f"{self._named}. Allowed: {allowed or why}.")

    def _value(self, result: RunResult) -> Any:
        outcome = result.values[0] if result.values else None
        if isinstance(outcome, Returned):
            return outcome.value
        ended = f"ended by {result.status}: {result.stderr[-200:]}"
        why = ended if outcome is None else outcome.error
        raise SandboxError(f"env.task={self.task}: reasoning-gym {' '.join(why.split())}.")


def _share(value: float) -> float:
    """Return a grader's value in [0, 1]. A value above 1 is a sum of parts, never a match."""
    return _NEARLY if value > 1 else value if value > 0 else 0.0


def backend_call(
    backend: Backend, function: str, *arguments: Any, limits: Limits = _DRAW
) -> RunResult:
    """Call a function of `inside` in the sandbox."""
    return backend.run(_PROGRAM, calls=Calls(entry_point=function, args=[arguments]), limits=limits)


def tasks() -> list[str]:
    """Return the names of all tasks, including refused ones."""
    names = backend_call(shared("auto", None), "tasks").values[0]
    assert isinstance(names, Returned)
    return list(names.value)


def shared(level: str, workers: int | None) -> Backend:
    """Return the sandbox with reasoning-gym imported.

    Raises:
        ConfigError: reasoning-gym is not installed, there is no such level, or there are no
            workers.
        SandboxUnavailable: this machine has no isolation of that level.
    """
    require_extra("reasoning-gym", "env=reasoning_gym", ["reasoning_gym"])
    return shared_pool(level, workers, ("reasoning_gym",))
