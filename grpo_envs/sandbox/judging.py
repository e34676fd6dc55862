"""What the judge's child does: dataset test code against a program in another process.

The program is behind CHANNEL and answers calls by value; whatever it answers is a value to the
test code. The verdict goes out on VERDICT, which the program's process never had.
"""

import builtins
import os
from typing import Any

from grpo_envs.sandbox.runner import CHANNEL, Lines, payload, send
from grpo_envs.sandbox.values import Opaque, dump, load
from grpo_envs.sandbox.wire import BROKEN, GONE, MISSED, PASSED

VERDICT = 5
_FILE = "<tests>"


class _Gone(BaseException):
    """The program's process answers no more, or not by the rules."""


def judge(_: int) -> None:
    """Run the tests and tell the verdict; does not return."""
    task = payload()
    stub = _Stub(task["longest"])
    try:
        code = compile(task["tests"], _FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        _tell(BROKEN, f"the tests do not compile: {error}")
        return
    entry_point = task["entry_point"]
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins, entry_point: stub}
    try:
        stub.wait()
        exec(code, names)  # noqa: S102  the sandbox
        names[entry_point] = stub  # where the tests repeat the prompt's headers
        if "check" in names:
            names["check"](stub)
            stub.be_there()
            _tell(PASSED, "")
        _tell(BROKEN, "the tests define no check(candidate)")
    except Opaque as error:
        _tell(BROKEN, str(error))
    except BaseException as error:  # noqa: BLE001  whatever the tests raise
        if stub.gone:  # also where the tests caught that and went on
            _tell(GONE, "the program ended, or did not answer by the rules")
        _tell(MISSED, _described(error, task["tests"]))


class _Stub:
    """Stands for the program's function."""

    def __init__(self, longest: int) -> None:
        self.answers = iter(Lines(CHANNEL, longest))
        self.gone = False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function over there; what it does to its arguments happens to ours."""
        question = dump([list(arguments), keywords])
        try:
            send(CHANNEL, question)
        except OSError:
            self.gone = True
            raise _Gone from None
        line = self._answer()
        value = load(line[1:])
        if line[0] == "&":
            value, after = value
            for ours, theirs in zip(arguments, after, strict=True):
                _mutate(ours, theirs)
        return value

    def wait(self) -> None:
        """Wait until the program is loaded."""
        self._answer()

    def be_there(self) -> None:
        """Raise unless the program has answered everything so far."""
        if self.gone:
            raise _Gone

    def _answer(self) -> str:
        line = next(self.answers, "")
        if line[:1] == "!":
            name, _, message = str(load(line[1:])).partition(": ")
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                raise kind(message)
            raise RuntimeError(f"{name}: {message}")
        if line[:1] not in ("=", "&"):
            self.gone = True
            raise _Gone
        return line


def _mutate(ours: Any, theirs: Any) -> None:
    if type(ours) is not type(theirs):
        return
    if isinstance(ours, list):
        ours[:] = theirs
    elif isinstance(ours, (dict, set)):
        ours.clear()
        ours.update(theirs)


def _described(error: BaseException, tests: str) -> str:
    """Return the error and the line of the tests where it came up."""
    text = f"{type(error).__name__}: {error}"[:300]
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = tests.splitlines()
    where = f" in line {number}: {lines[number - 1].strip()[:200]}" if number else ""
    return text + where


def _tell(verdict: str, error: str) -> None:
    send(VERDICT, dump([verdict, error]))
    os._exit(0)
