"""Comparing the arguments of a tool call with the tool's JSON Schema."""

from __future__ import annotations

import math

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import best_match
from referencing import Registry

from grpo_envs.errors import nearest
from grpo_envs.types import Call, Tool

LONGEST_MISTAKE = 300
"""Characters of an error that quotes what the policy wrote."""


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: object, value: object) -> bool:
    return _is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


_Validator = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)
"""JSON Schema's types as Python's: 2.0 is no integer, and 1e999, which is read as infinity, is no
number. A function with the type hint `int` would fail on them."""


def wrong_arguments(call: Call, tool: Tool) -> str:
    """Return what is wrong with the arguments of a call; '' if the tool accepts them."""
    known = tool.parameters.get("properties", {})
    unknown = [name for name in call.arguments if name not in known]
    if unknown and not tool.parameters.get("additionalProperties"):
        close = nearest(unknown[0], known)
        names = ", ".join(known) or "none"
        return f"{tool.name} has no parameter {unknown[0][:80]!r}. Parameters: {names}.{close}"
    validator = _Validator(tool.parameters, registry=Registry())
    try:
        worst = best_match(validator.iter_errors(dict(call.arguments)))
    except RecursionError:
        return f"{tool.name}: the arguments are nested too deeply."
    if worst is None:
        return ""
    where = ".".join(map(str, worst.absolute_path))
    return f"{tool.name}: {where and where + ': '}{worst.message}"[:LONGEST_MISTAKE]
