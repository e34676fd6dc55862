"""Checkers: they decide whether an output is right if several outputs can be right.

| `env.checker`, or a row's `checker` | right outputs |
|---|---|
| `unordered_lines` | the expected lines, in any order |
| `unordered_words` | the expected words, in any order and on any lines |
| `ignore_case` | the expected words on the expected lines, in either case |
| `{tolerance: 1e-6}` | numbers within a relative or absolute difference |
| Python code with `def check(stdin, stdout, expected)` | outputs for which it returns True |
| `package.module:function` | the same, of an installed package |

Code runs in the sandbox, in a separate process, which gets the program's output as a value. A
function of a package runs in this process, so only the configuration may name one, not a row. For
tests of a function, a checker gets the list of arguments and the value. Any result but True means
wrong.
"""

import ast
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_envs.errors import ConfigError, nearest
from grpo_envs.graders.code.compare import same_output
from grpo_envs.sandbox.types import Backend, Calls, Limits, Raised, Returned

Check = Callable[[Any, Any, Any], bool]
Triple = tuple[Any, Any, Any]
"""The input, the program's answer and the expected answer."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_BATCH = 2**21
"""Characters of input for one run of checker code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """A checker: exactly one of a name, the code of `check`, a function, or a tolerance."""

    name: str = ""
    code: str = ""
    function: Check | None = None
    tolerance: float = 0.0


def _lines(text: Any) -> list[tuple[str, ...]]:
    return [words for line in str(text).split("\n") if (words := tuple(line.split()))]


BUILT_IN: Mapping[str, Check] = {
    "unordered_lines": lambda _, ours, theirs: Counter(_lines(ours)) == Counter(_lines(theirs)),
    "unordered_words": lambda _, ours, theirs: (
        Counter(str(ours).split()) == Counter(str(theirs).split())
    ),
    "ignore_case": lambda _, ours, theirs: same_output(
        str(ours).casefold(), str(theirs).casefold()
    ),
}


def checker_from(given: Any, *, trusted: bool, key: str = "checker") -> Checker | None:
    """Return the checker that a configuration or a row declares; None if there is none.

    Args:
        given: The value of `env.checker`, or the cell of a row.
        trusted: Whether a function of a package may be named.
        key: Name of the key in messages.

    Raises:
        ConfigError: `given` is not one of the documented checkers.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if isinstance(given, Mapping) and set(given) == {"tolerance"}:
        tolerance = given["tolerance"]
        if type(tolerance) not in (int, float) or not 0 < tolerance < 1:
            raise ConfigError(f"{key}={{tolerance: {tolerance}}}. Allowed: above 0 to below 1")
        return Checker(tolerance=float(tolerance))
    if not isinstance(given, str):
        raise ConfigError(f"{key}={str(given)[:60]}. Allowed: {_allowed(trusted)}")
    text = given.strip()
    if text in BUILT_IN:
        return Checker(name=text)
    if "def check" in text:
        return Checker(code=_code(text, key))
    if _FUNCTION.fullmatch(text) and trusted:
        return Checker(name=text, function=_function(text, key))
    close = nearest(text, BUILT_IN)
    raise ConfigError(f"{key}={text.splitlines()[0][:60]}. Allowed: {_allowed(trusted)}{close}")


def _allowed(trusted: bool) -> str:
    functions = ", package.module:function" if trusted else ""
    names = ", ".join(BUILT_IN)
    return f"{names}, {{tolerance: ...}}, code of check(stdin, stdout, expected){functions}"


def _code(text: str, key: str) -> str:
    """Return code that defines `check` with three parameters."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{key} is no Python ({error})") from error
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            arguments = [*node.args.posonlyargs, *node.args.args]
            least = len(arguments) - len(node.args.defaults)
            if least <= 3 and (len(arguments) >= 3 or node.args.vararg):
                return text
    raise ConfigError(f"{key} defines no check(stdin, stdout, expected)")


def _function(text: str, key: str) -> Check:
    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}={text}: cannot be imported ({error}).") from error
    if not callable(found):
        raise ConfigError(f"{key}={text}: is no function.")
    check: Check = found
    return check


def decisions(
    checker: Checker, triples: Sequence[Triple], backend: Backend, limits: Limits | None = None
) -> list[str]:
    """Return '' for each right answer, and the reason for each wrong one.

    Raises:
        SandboxError: the sandbox failed.
    """
    if checker.code:
        return [why for batch in _batches(triples) for why in _run(checker, batch, backend, limits)]
    check = checker.function or BUILT_IN[checker.name]
    return [_ask(check, triple) for triple in triples]


def _ask(check: Check, triple: Triple) -> str:
    try:
        return "" if check(*triple) is True else "the checker says no"
    except Exception as error:  # noqa: BLE001  a package's checker may raise anything
        return f"the checker raised {type(error).__name__}"


def _batches(triples: Sequence[Triple]) -> Iterator[Sequence[Triple]]:
    size, batch = 0, list[Triple]()
    for triple in triples:
        length = len(repr(triple))
        if batch and size + length > _BATCH:
            yield batch
            size, batch = 0, []
        size += length
        batch.append(triple)
    if batch:
        yield batch


def _run(
    checker: Checker, triples: Sequence[Triple], backend: Backend, limits: Limits | None
) -> list[str]:
    calls = Calls(entry_point="check", args=triples)
    values = backend.run(checker.code, calls=calls, limits=limits).values
    answers = [*values, *[Raised(error="no value")] * (len(triples) - len(values))]
    return [_decision(answer) for answer in answers]


def _decision(answer: Returned | Raised) -> str:
    if isinstance(answer, Raised):
        return f"the checker: {answer.error}"
    return "" if answer.value is True else "the checker says no"
