"""Forms of tests in datasets, each converted to the documented form.

    {"inputs": ["1 2"], "outputs": ["3"], "fn_name": "f"}      APPS, TACO, Eurus-2
    [{"input": "1 2", "output": "3", "testtype": "stdin"}]     LiveCodeBench, DeepCoder
    {"test_cases": [{"type": "stdin_stdout", ...}]}            SYNTHETIC-1
    {"input": ["1 2"], "output": ["3"]}                        CodeContests
    {"functional": "assert f(1) == 2"}                         test code

Each may be JSON text. Tests of a function have lists of arguments, or a line of JSON for each
argument. If every output is a list of one value, this value is expected (APPS).
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CALLS = ("functional", "function_call", "call", "call_based", "function")
_READS = ("stdin", "stdin_stdout", "stdio", "standard_input", "io")
_KNOWN = 'inputs and outputs, a list of {"input", "output"}, test_cases, or assertions'


class UnknownForm(Exception):
    """Tests have an unknown form; the message says what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests in the documented form, and the name of the tested function."""

    cell: Any
    name: str = ""


def opened(cell: Any) -> Any:
    """Return the object or list that a text contains; any other cell is returned unchanged.

    The text is JSON or a Python literal, as lists are in many CSV files.
    """
    if not (isinstance(cell, str) and cell.lstrip()[:1] in ("{", "[")):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, dict | list) else cell
    return cell


def documented(cell: Any, name: str = "") -> Tests:
    """Return tests of any known form in the documented form.

    Args:
        cell: The tests of a row.
        name: The tested function that the row names; '' if only the tests name it.

    Raises:
        UnknownForm: the tests have an unknown form.
    """
    cell = opened(cell)
    if isinstance(cell, Mapping):
        return _of_object({key: value for key, value in cell.items() if value is not None}, name)
    if isinstance(cell, list | tuple) and cell and all(isinstance(x, Mapping) for x in cell):
        return _of_cases(cell, name)
    return Tests(cell, name)  # assertions; read_tests refuses anything else


def _of_object(cell: Mapping[str, Any], name: str) -> Tests:
    if "kind" in cell or not cell:
        return Tests(cell, name)
    language = str(cell.get("language") or "python").lower()
    if not language.startswith("py"):
        raise UnknownForm(f"tests are of the language {language[:20]!r}. Allowed: python")
    for key in ("test_cases", "tests", "cases"):
        if key in cell:
            return documented(cell[key], name or str(cell.get("fn_name") or ""))
    if isinstance(cell.get("functional"), str):
        return Tests(cell["functional"], name)
    for given, expected in (("inputs", "outputs"), ("input", "output")):
        if given in cell and expected in cell:
            name = name or str(cell.get("fn_name") or cell.get("func_name") or "")
            kind = str(cell.get("type") or cell.get("testtype") or "").lower()
            return _of_lists(cell[given], cell[expected], name, kind)
    found = ", ".join(map(str, cell))[:80]
    raise UnknownForm(f"tests are an object with {found}. Allowed: {_KNOWN}")


def _of_cases(cases: Sequence[Mapping[str, Any]], name: str) -> Tests:
    """Read a list of cases, each with an input and an output."""
    kinds = {_kind_of(case) for case in cases}
    if len(kinds) > 1:
        raise UnknownForm(f"tests are of several types: {', '.join(sorted(kinds))}")
    for case in cases:
        name = name or _name_in(case)
        if "input" not in case or "output" not in case:
            found = ", ".join(map(str, case))[:80]
            raise UnknownForm(f'a test has {found}. Allowed: {{"input": ..., "output": ...}}')
    inputs, outputs = [case["input"] for case in cases], [case["output"] for case in cases]
    return _of_lists(inputs, outputs, name, kinds.pop())


def _kind_of(case: Mapping[str, Any]) -> str:
    kind = str(case.get("type") or case.get("testtype") or "").lower()
    return kind or ("functional" if _name_in(case) else "")


def _name_in(case: Mapping[str, Any]) -> str:
    """Return the function that a case names."""
    metadata = opened(case.get("metadata"))
    inner = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    return str(case.get("fn_name") or case.get("func_name") or inner or "")


def _of_lists(inputs: Any, outputs: Any, name: str, kind: str) -> Tests:
    inputs, outputs = listed(inputs), listed(outputs)
    if len(inputs) != len(outputs):
        raise UnknownForm(f"tests have {len(inputs)} inputs and {len(outputs)} outputs")
    if not inputs:
        raise UnknownForm("tests are empty")
    if kind and kind not in (*_CALLS, *_READS):
        raise UnknownForm(f"tests of type {kind[:30]!r}. Allowed: {', '.join((*_READS, *_CALLS))}")
    if kind in _CALLS or (not kind and name):
        return Tests(_calls(inputs, outputs), name)
    cases = [
        {"stdin": _text(given), "stdout": _text(expected)}
        for given, expected in zip(inputs, outputs, strict=True)
    ]
    if not any(case["stdout"].strip() for case in cases):
        raise UnknownForm("tests expect no output at all, which every program gives")
    return Tests({"kind": "stdio", "cases": cases}, "")


def listed(cells: Any) -> list[Any]:
    """Return a list unchanged, and any other value as a list of one."""
    return list(cells) if isinstance(cells, list | tuple) else [cells]


def _text(cell: Any) -> str:
    """Return standard input or output, which may be a list of lines."""
    if isinstance(cell, list | tuple):
        return "\n".join(map(_text, cell))
    if isinstance(cell, str | int | float):
        return str(cell)
    raise UnknownForm(f"standard input or output {str(cell)[:40]!r} is no text")


def _calls(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    wrapped = all(isinstance(value, list | tuple) and len(value) == 1 for value in outputs)
    values = [value[0] for value in outputs] if wrapped else [_value(value) for value in outputs]
    cases = [
        {"args": _arguments(given), "expected": value}
        for given, value in zip(inputs, values, strict=True)
    ]
    return {"kind": "call", "cases": cases}


def _arguments(given: Any) -> list[Any]:
    """Return the arguments of a call: a list, or a line of JSON for each."""
    if isinstance(given, str):
        lines = [line for line in given.split("\n") if line.strip()]
        return [_value(line) for line in lines]
    if isinstance(given, Mapping):
        raise UnknownForm("arguments by name cannot be read. Allowed: a list, or lines of JSON")
    return list(given) if isinstance(given, list | tuple) else [given]


def _value(cell: Any) -> Any:
    """Return the value of a text in JSON or of a Python literal; else the text."""
    if not isinstance(cell, str):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return cell
