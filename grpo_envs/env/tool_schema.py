"""From a Python function to a tool: type hints and docstring become its JSON Schema."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import jsonschema
from jsonschema import Draft202012Validator

from grpo_envs.errors import ConfigError, nearest, require
from grpo_envs.types import Tool

STATE = "state"
"""A first parameter of this name gets the value that the environment's `session` yields. The policy
neither sees nor sets it."""
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_TYPES = (
    "str, int, float, bool, None, list, dict, Literal, Any, and unions of them; any JSON Schema as "
    "(schema, function)"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def tool_from(function: Callable[..., Any]) -> Tool:
    """Return the tool that a function describes.

    The text before the sections of the docstring is the description of the tool. The section
    `Args:` (Google style), the section `Parameters` (NumPy style) or the lines `:param x:` (reST)
    describe the parameters.

    Args:
        function: Every parameter needs a type hint and a description; a parameter with a default
            value is optional. A first parameter `state` is left out.

    Raises:
        ConfigError: a type hint or a description is missing, or a type hint is not supported.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, functools.partial):
        raise ConfigError(f"tools: {function} has no docstring of its own. Allowed: a `def`.")
    about, described = _docstring(function)
    if not about:
        raise ConfigError(f"tool {name}: no docstring that tells the model what the tool does.")
    properties: dict[str, Any] = {}
    required = []
    hints = _hints(name, function)
    for parameter in inspect.signature(function).parameters.values():
        key = parameter.name
        if key == STATE and takes_state(function):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(f"tool {name}: *{key}. Allowed: parameters with a name and a type.")
        if key not in hints:
            raise ConfigError(f"tool {name}: parameter {key} has no type hint. Allowed: {_TYPES}.")
        if not described.get(key):
            raise ConfigError(
                f"tool {name}: the docstring does not describe parameter {key}. Allowed: a line "
                f"`{key}: ...` under `Args:`, or `:param {key}: ...`."
                f"{nearest(key, described.keys() - hints.keys())}"
            )
        schema = _schema(hints[key], f"tool {name}: parameter {key}")
        properties[key] = schema | {"description": described[key]}
        if parameter.default is parameter.empty:
            required.append(key)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    return checked(Tool(name=name, description=about, parameters=parameters))


def tool_of_schema(given: Mapping[str, Any] | Tool) -> Tool:
    """Return the tool of a schema in OpenAI's form, with or without its outer `function`.

    Raises:
        ConfigError: the name is missing, or the parameters are not a JSON Schema of an object.
    """
    if isinstance(given, Tool):
        return checked(given)
    about = given.get("function", given) if isinstance(given, Mapping) else {}
    if not isinstance(about, Mapping) or not isinstance(about.get("name"), str):
        raise ConfigError(
            f'tool schema {given}. Allowed: {{"name": ..., "description": ..., "parameters": ...}}.'
        )
    empty = {"type": "object", "properties": {}}
    description, parameters = about.get("description", ""), about.get("parameters", empty)
    require(isinstance(description, str), f"tool {about['name']}: description", description, "text")
    return checked(Tool(name=about["name"], description=description, parameters=parameters))


def checked(tool: Tool) -> Tool:
    """Return the tool, after a check of its name and schema.

    Raises:
        ConfigError: the name or the schema is not allowed.
    """
    if not _NAME.fullmatch(tool.name):
        allowed = "letters, digits, _ and -, at most 64, a letter first"
        raise ConfigError(f"tool {tool.name}: not a name for a tool. Allowed: {allowed}.")
    try:
        Draft202012Validator.check_schema(tool.parameters)
    except (jsonschema.SchemaError, RecursionError) as error:
        cause = getattr(error, "message", str(error))
        message = f"tool {tool.name}: its parameters are not a JSON Schema: {cause}"
        raise ConfigError(message) from None
    if tool.parameters.get("type") != "object":
        raise ConfigError(f"tool {tool.name}: its parameters are not a schema of type object.")
    return tool


def takes_state(function: Callable[..., Any]) -> bool:
    """Return whether the first parameter of a function is `state`."""
    signature = _signature(function)
    return signature is not None and next(iter(signature.parameters), "") == STATE


def require_parameters(tool: Tool, function: Callable[..., Any]) -> None:
    """Require that a function takes all parameters of its schema, and the required ones alone.

    Raises:
        ConfigError: it does not.
    """
    signature = _signature(function)
    state = [None] if takes_state(function) else []
    for key, which in (("properties", "parameters"), ("required", "required parameters alone")):
        names = tool.parameters.get(key, ())
        try:
            if signature is not None:
                signature.bind(*state, **dict.fromkeys(names))
        except TypeError as error:
            given = f"{which} ({', '.join(names) or 'none'})"
            raise ConfigError(
                f"tool {tool.name}: its function cannot be called with the schema's {given}: "
                f"{error}."
            ) from None


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a function; None for one of C that has none."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None


def _hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(_routine(function))
    except NameError as error:
        raise ConfigError(f"tool {name}: a type hint cannot be read: {error}.") from error


def _routine(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function; of a callable object its method `__call__`."""
    return function if inspect.isroutine(function) else type(function).__call__


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """Return the JSON Schema of a type hint."""
    origin, given = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _schema(given[0], where)
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal and all(type(value) in _PLAIN for value in given):
        kinds = {_PLAIN[type(value)] for value in given}
        return {"type": kinds.pop(), "enum": [*given]} if len(kinds) == 1 else {"enum": [*given]}
    if origin in (Union, types.UnionType):
        return _union([_schema(each, where) for each in given])
    if (origin or hint) in (list, Sequence):
        return {"type": "array", **({"items": _schema(given[0], where)} if given else {})}
    if (origin or hint) in (dict, Mapping) and (not given or given[0] is str):
        values = {"additionalProperties": _schema(given[1], where)} if given else {}
        return {"type": "object", **values}
    shown = hint.__name__ if isinstance(hint, type) and not given else hint
    raise ConfigError(f"{where} has the type hint {shown}. Allowed: {_TYPES}.")


def _union(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if all([*schema] == ["type"] for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


_SECTION = re.compile(
    r"^((?:Keyword )?Arg(?:ument)?s|(?:Other )?Param(?:eter)?s|Returns?|Raises|Yields?|Examples?"
    r"|Notes?|Warnings?|Warns|See Also|References|Attributes):\s*$"
)
_ENTRY = re.compile(r"(\*{0,2}\w+)\s*(?:\(.*?\))?:\s*(.*)")
_FIELD = re.compile(r"^:(\w+)\s*([^:]*):\s*(.*)$")
_UNDERLINE = re.compile(r"-{3,}\s*")


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return the text before the sections of a docstring, and the descriptions of parameters."""
    about: list[str] = []
    described: dict[str, str] = {}
    section, depth, current = "", 0, ""
    text = inspect.getdoc(_routine(function)) or inspect.getdoc(function) or ""
    for line in _google_style(text.splitlines()):
        indent = len(line) - len(line.lstrip())
        if (found := _SECTION.match(line)) or (field := _FIELD.match(line)):
            section, depth, current = (found[1] if found else "field"), 0, ""
            if not found and field and field[1] == "param":
                current = field[2].split()[-1] if field[2].split() else ""
                described[current] = field[3]
        elif section == "field" or (current and indent > depth > 0):
            if current and line.strip():
                described[current] = f"{described[current]} {line.strip()}".strip()
        elif ("Arg" in section or "Param" in section) and line.strip():
            depth, current = depth or indent, ""
            if indent == depth and (entry := _ENTRY.fullmatch(line.strip())):
                current = entry[1].lstrip("*")
                described[current] = entry[2]
        elif not section:
            about.append(line.strip())
    return " ".join(" ".join(about).split()), described


def _google_style(lines: Sequence[str]) -> list[str]:
    """Return a docstring whose sections in NumPy's style, if it has any, are in Google's."""
    found: list[str] = []
    in_section = False
    for line, below in pairwise([*lines, ""]):
        if line.strip() and _UNDERLINE.fullmatch(below):
            found.append(f"{line.strip()}:")
            in_section = True
        elif in_section and line.strip() and not _UNDERLINE.fullmatch(line):
            of_entry = line[0].isspace()
            found.append(f"    {line if of_entry else line.partition(':')[0].strip() + ':'}")
        elif not in_section:
            found.append(line)
    return found
