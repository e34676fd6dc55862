"""Read the tests of a problem out of a dataset's cell.

An object of one of the kinds (JSON, or text of it):

    {"kind": "stdio", "cases": [{"stdin": "1 2", "stdout": "3"}]}
    {"kind": "call", "cases": [{"args": [1, 2], "expected": 3}]}
    {"kind": "asserts", "code": "def check(candidate): ..."}

with optional `visible` (number of first cases that the policy may see) and `tolerance` (of floats,
relative and absolute); or assertions: a list of them (MBPP), or test code (HumanEval). Literal
assertions become `call`, all others `asserts`: assertions in a module, functions `test_...`,
classes of unittest or pytest. Tests that cannot fail any program are refused.
"""

import ast
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_envs.errors import DatasetError, nearest
from grpo_envs.graders.code.asserts import cases_of
from grpo_envs.graders.code.entry import asserted_function
from grpo_envs.graders.code.survey import refusal
from grpo_envs.graders.code.words import KINDS, Case, CodeTests
from grpo_envs.sandbox.testing import is_check

_KEYS = {
    "stdio": {"kind", "cases", "visible", "tolerance"},
    "call": {"kind", "cases", "visible", "tolerance"},
    "asserts": {"kind", "code"},
    "weak": {"kind", "code"},
}
_CASE_KEYS = {"stdio": ("stdin", "stdout"), "call": ("args", "expected")}


def read_tests(
    cell: Any,
    entry_point: str,
    where: str,
    *,
    trust: str = "sandbox",
    packages: Sequence[str] = (),
) -> CodeTests:
    """Return the tests that `cell` holds.

    Args:
        cell: An object, a list of assertions, or text of either.
        entry_point: The function that is tested; '' takes it from the first assertion.
        where: File and row, for messages.
        trust: `weak` also runs tests whose values cannot be passed to another process.
        packages: Packages that programs and tests may import, besides numpy.

    Raises:
        DatasetError: there are no tests, their form is not documented, they cannot fail any
            program, or the judge cannot run them.
    """
    cell = _parsed(cell, where)
    if isinstance(cell, Mapping):
        tests = _from_object({k: v for k, v in cell.items() if v is not None}, entry_point, where)
    elif isinstance(cell, str) and cell.strip():
        tests = _from_code(cell, entry_point, where)
    else:
        raise DatasetError(f"{where}: tests {str(cell)[:60]!r} are empty.")
    if tests.kind == "weak" and trust != "weak":
        raise DatasetError(f"{where}: tests of kind 'weak' run only with env.trust=weak.")
    if tests.kind != "stdio" and not _is_function(tests.entry_point):
        raise DatasetError(f"{where}: entry_point {tests.entry_point!r} names no function.")
    if tests.code and (why := _refusal(tests, packages)):
        raise DatasetError(f"{where}: {why}")
    return tests


def _is_function(name: str) -> bool:
    """Return whether `name` is a name, or the method of a class: `Solution().name`."""
    owner, dot, method = name.partition("().")
    return owner.isidentifier() and (method.isidentifier() or not dot)


def _refusal(tests: CodeTests, packages: Sequence[str]) -> str:
    tree = ast.parse(tests.code)
    return refusal(tree, tests.entry_point, packages, collected=tests.kind == "asserts")


def _parsed(cell: Any, where: str) -> Any:
    if isinstance(cell, Sequence) and not isinstance(cell, str | bytes):
        if not all(isinstance(line, str) for line in cell):
            raise DatasetError(f"{where}: tests are a list, but not of assertions.")
        return "\n".join(cell)
    if isinstance(cell, str) and cell.lstrip().startswith(("{", "[")):
        try:
            inner = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where}: tests are no JSON ({error}).") from error
        return _parsed(inner, where) if isinstance(inner, list) else inner
    return cell


def _from_code(code: str, entry_point: str, where: str) -> CodeTests:
    name = entry_point or asserted_function(code) or ""
    cases = cases_of(code, name)
    if cases:
        return CodeTests(kind="call", entry_point=name, cases=cases, strict=True)
    return CodeTests(kind="asserts", entry_point=name, code=_as_check(code, name, where))


def _as_check(code: str, entry_point: str, where: str, kind: str = "asserts") -> str:
    """Return test code that defines `check(candidate)`; plain assertions are wrapped into one.

    Code with other functions, classes or imports is unchanged, and runs as a module.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DatasetError(f"{where}: tests are no Python ({error}).") from error
    if any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
        return code
    if not any(isinstance(n, ast.Assert | ast.Raise) or is_check(n) for n in ast.walk(tree)):
        raise DatasetError(f"{where}: tests assert nothing: {code[:60]!r}.")
    if kind == "asserts" and any(map(_is_of_a_module, ast.walk(tree))):
        return code
    if not entry_point.isidentifier():
        return code
    inner = textwrap.indent(ast.unparse(tree), "    ")  # unparsed: no string spans lines
    return f"def check(candidate):\n    {entry_point} = candidate\n{inner}\n"


def _is_of_a_module(node: ast.AST) -> bool:
    """Return whether `node` has another meaning, or none, within a function."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ImportFrom | ast.Global
    names_itself = isinstance(node, ast.Name) and node.id == "__name__"
    return names_itself or isinstance(node, kinds)


def _from_object(cell: Mapping[str, Any], entry_point: str, where: str) -> CodeTests:
    kind = cell.get("kind")
    if kind not in KINDS:
        close = nearest(str(kind), KINDS)
        raise DatasetError(f"{where}: tests of kind {kind!r}. Allowed: {', '.join(KINDS)}.{close}")
    for key in cell:
        if key not in _KEYS[kind]:
            allowed = ", ".join(sorted(_KEYS[kind]))
            raise DatasetError(f"{where}: tests have {key!r}. Allowed: {allowed}.")
    if kind in _CASE_KEYS:
        return _with_cases(cell, entry_point, where)
    code = cell.get("code")
    if not isinstance(code, str) or not code.strip():
        raise DatasetError(f"{where}: tests assert nothing: {str(code)[:60]!r}.")
    name = entry_point or asserted_function(code) or ""
    code = _as_check(code, name, where, kind)
    return CodeTests(kind=kind, entry_point=name, code=code)


def _with_cases(cell: Mapping[str, Any], entry_point: str, where: str) -> CodeTests:
    given = cell.get("cases")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise DatasetError(f"{where}: tests have no cases.")
    tolerance, visible = cell.get("tolerance", 0.0), cell.get("visible", 0)
    if type(tolerance) not in (int, float) or not 0 <= tolerance < 1:
        raise DatasetError(f"{where}: tolerance {tolerance!r}. Allowed: 0 to below 1.")
    if type(visible) is not int or not 0 <= visible <= len(given):
        raise DatasetError(f"{where}: visible {visible!r}. Allowed: 0 to {len(given)}.")
    kind = cell["kind"]
    cases = [
        _case(case, kind, float(tolerance), f"{where}: case {number + 1}")
        for number, case in enumerate(given)
    ]
    name = "" if kind == "stdio" else entry_point
    return CodeTests(kind=kind, entry_point=name, cases=tuple(cases), visible=visible)


def _case(case: Any, kind: str, tolerance: float, where: str) -> Case:
    before, after = _CASE_KEYS[kind]
    if not isinstance(case, Mapping) or set(case) != {before, after}:
        raise DatasetError(f"{where} is not {{{before!r}: ..., {after!r}: ...}}.")
    given, expected = case[before], case[after]
    if kind == "call":
        if not isinstance(given, list | tuple):
            raise DatasetError(f"{where}: args {str(given)[:40]!r} are not a list.")
        given = tuple(given)
    elif not (isinstance(given, str) and isinstance(expected, str)):
        raise DatasetError(f"{where}: stdin and stdout are texts.")
    return Case(given=given, expected=expected, rel_tol=tolerance, abs_tol=tolerance)
