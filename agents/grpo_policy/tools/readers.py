"""Reading the text between the marks of a tool call as name and arguments. Without torch."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_envs.env.calls import no_constant
from grpo_envs.types import Call

Tools = Sequence[Mapping[str, Any]]
"""Tools as chat templates take them, see `grpo_envs.types.Tool.schema`."""
_SPELLED = {"True": True, "False": False, "None": None}
"""Values as Jinja prints them, for templates that do not convert them to JSON."""
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class Unreadable(ValueError):
    """A text is not a call in the expected form."""


def typed(text: str, schema: Any) -> Any:
    """Return the value of an argument that a model writes as plain text, by its JSON schema.

    A text that has none of the types is returned unchanged; the environment reports the error.

    >>> typed("7", {"type": "integer"}), typed("7", {"type": "string"}), typed("x", {})
    (7, '7', 'x')
    """
    types = _types_of(schema)
    if types == {"string"}:
        return text
    try:
        value = _SPELLED[text] if text in _SPELLED else read_json(text)
    except ValueError:
        return text
    fits = not types or any(_TYPES[name](value) for name in types if name in _TYPES)
    return value if fits else text


def _types_of(schema: Any) -> set[str]:
    """Return the types that a schema names; an empty set if it names none."""
    if not isinstance(schema, Mapping):  # `true` allows anything
        return set()
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else {*named}
    for kind in ("anyOf", "oneOf"):
        types |= {name for each in schema.get(kind, ()) for name in _types_of(each)}
    return types


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        Unreadable: the text is not JSON of a usable depth.
    """
    try:
        return json.loads(text, parse_constant=no_constant)
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error


def call_of(body: Any, *keys: str) -> Call:
    """Return a JSON object as a call, with its arguments under one of the keys.

    Raises:
        Unreadable: the object is not a call.
    """
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise Unreadable("no object with a name")
    arguments: Any = next((body[key] for key in keys if key in body), {})
    if isinstance(arguments, str):
        arguments = read_json(arguments)
    if not isinstance(arguments, dict):
        raise Unreadable("its arguments are not an object")
    return Call(name=body["name"], arguments=arguments)


def _parameters(name: str, tools: Tools) -> Mapping[str, Any]:
    """Return the schemas of a tool's parameters by name; {} for an unknown tool."""
    for tool in tools:
        if tool["function"]["name"] == name:
            parameters = tool["function"].get("parameters", {})
            schemas: Mapping[str, Any] = parameters.get("properties", {})
            return schemas
    return {}


def tagged(head: str, pair: str) -> Callable[[str, Tools], Sequence[Call]]:
    """Return a reader of calls with a name and tagged values; the tool's schema gives their types.

    Args:
        head: Pattern of the beginning, with the group `name`.
        pair: Pattern of an argument, with the groups `key` and `value`.
    """
    start, argument = re.compile(head), re.compile(pair, re.DOTALL)

    def read(body: str, tools: Tools) -> list[Call]:
        begun = start.match(body)
        if begun is None or argument.sub("", body[begun.end() :]).strip():
            raise Unreadable("a part is neither the name nor an argument")
        schemas = _parameters(begun["name"], tools)
        found = argument.finditer(body, begun.end())
        values = {each["key"]: typed(each["value"], schemas.get(each["key"], {})) for each in found}
        return [Call(name=begun["name"], arguments=values)]

    return read


def json_calls(body: str, _: Tools) -> list[Call]:
    """Read `{"name": ..., "arguments": {...}}`, or a list of such."""
    found = read_json(body)
    return [call_of(each, "arguments") for each in (found if isinstance(found, list) else [found])]


def gemma_call(body: str, _: Tools) -> list[Call]:
    """Read `call:price{item:<|"|>tea<|"|>,count:2}`."""
    begun = re.match(r"\s*call:(?P<name>[\w.-]+)(?=\{)", body)
    if begun is None:
        raise Unreadable("no name")
    parts = body[begun.end() :].split('<|"|>')  # every second one is a string
    parts[::2] = [re.sub(r"([{,]\s*)([\w.-]+)\s*:", r'\1"\2":', part) for part in parts[::2]]
    parts[1::2] = map(json.dumps, parts[1::2])
    return [call_of({"name": begun["name"], "arguments": read_json("".join(parts))}, "arguments")]


def named(pattern: str) -> Callable[[str, Tools], Sequence[Call]]:
    """Return a reader of a name and a JSON object, the pattern's groups `name` and `arguments`."""
    compiled = re.compile(pattern, re.DOTALL)

    def read(body: str, _: Tools) -> list[Call]:
        found = compiled.fullmatch(body)
        if found is None:
            raise Unreadable("no name with arguments")
        arguments = read_json(found["arguments"])
        return [call_of({"name": found["name"], "arguments": arguments}, "arguments")]

    return read


_mistral_named = named(r"\s*(?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\](?P<arguments>.*)")


def mistral_calls(body: str, tools: Tools) -> Sequence[Call]:
    """Read `[{"name": ..., "arguments": {...}}]`, or `price[ARGS]{...}` of later models."""
    return json_calls(body, tools) if body.lstrip()[:1] == "[" else _mistral_named(body, tools)


_CONSTANTS = {"true": True, "false": False, "null": None}


class _Literals(ast.NodeTransformer):
    """Turns the names of JSON's constants into constants."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node


def python_calls(body: str, _: Tools) -> list[Call]:
    """Read `[price(item='tea', count=2), stock(item='tea')]`.

    Strings may have line breaks, as templates write them.
    """
    try:
        try:
            found = _expression(body.strip())
        except SyntaxError:
            found = _expression(body.strip().replace("\n", "\\n"))
        calls = found.elts if isinstance(found, ast.List) else [found]
        return [_python_call(call) for call in calls]
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise Unreadable("not a list of calls") from error


def _expression(text: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the model's text do not concern us
        return ast.parse(text, mode="eval").body


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise Unreadable("not a call with named arguments")
    values = {}
    for keyword in node.keywords:
        value = ast.literal_eval(_Literals().visit(keyword.value))
        if keyword.arg is None:
            raise Unreadable("an argument has no name")
        values[keyword.arg] = read_json(json.dumps(value))
    return Call(name=ast.unparse(node.func), arguments=values)
