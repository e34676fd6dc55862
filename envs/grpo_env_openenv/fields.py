"""Which field of a server's action takes an answer, and which of its observation is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry

from grpo_envs.env.calls import join_results, read_calls
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.types import Tool

CALL = "call_tool"
"""In the place of a field: answers hold tool calls, and each is an action."""
_USUAL = ("prompt", "question", "text", "message", "messages", "observation")
"""Fields that are shown where none is named."""
_OWN = ("metadata", "done", "reward")
_NO_CALL = "error: "


class Action:
    """Makes actions of answers, by the server's schema."""

    def __init__(self, schema: Mapping[str, Any], asked: str | None) -> None:
        """Choose the field.

        Args:
            schema: JSON Schema of the server's actions.
            asked: The field that the answer goes to, or `call_tool`; None for the only one.

        Raises:
            ConfigError: it has no such field, or several and none is asked for.
        """
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            why = str(error).splitlines()[0]
            raise ConfigError(f"the schema of the server's actions is none: {why}.") from error
        self._validator = Draft202012Validator(schema, registry=Registry())
        self.field = _action_field(schema, asked)

    @property
    def calls(self) -> bool:
        """Whether answers are tool calls."""
        return self.field == CALL

    def of(self, answer: str) -> str | None:
        """Return an answer as an action in JSON, None where the schema allows none.

        A field that is no text takes the JSON value that the answer is.
        """
        for value in (answer, *_json_in(answer)):
            action = {self.field: value}
            if self._validator.is_valid(action):
                return json.dumps(action)
        return None


def called(answer: str) -> list[tuple[str, str]]:
    """Return the tool calls of an answer: each as an action in JSON, or the error that answers it.

    >>> called('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    [('{"type": "call_tool", "tool_name": "add", "arguments": {"a": 1}}', '')]
    """
    return [
        ("", f"{_NO_CALL}{call.error}")
        if call.error
        else (
            json.dumps({"type": CALL, "tool_name": call.name, "arguments": dict(call.arguments)}),
            "",
        )
        for call in read_calls(answer)[1]
    ]


def result_of(observation: Mapping[str, Any]) -> str:
    """Return what a tool call returned, as text.

    MCP's results are lists of contents, of which texts are shown.
    """
    error = observation.get("error")
    if isinstance(error, Mapping):
        return f"{_NO_CALL}{error.get('message')}"
    result = observation.get("result")
    content = result.get("content") if isinstance(result, Mapping) else None
    if isinstance(content, list):
        return join_results([_text(item.get("text", item)) for item in content if item])
    return _text(result)


def tool_of(about: Mapping[str, Any]) -> Tool:
    """Return a tool as MCP describes it, or as OpenAI's `tools` do."""
    about = about.get("function", about)
    schema = about.get("input_schema", about.get("parameters")) or {"type": "object"}
    return Tool(
        name=str(about.get("name")),
        description=str(about.get("description") or ""),
        parameters=schema,
    )


class Shown:
    """Makes texts of observations."""

    def __init__(self, schemas: Sequence[Mapping[str, Any]], asked: Any) -> None:
        """Choose the fields.

        Args:
            schemas: JSON Schemas of the server's observations.
            asked: A field, `metadata.name` for one inside, or a list of them; None for the usual.

        Raises:
            ConfigError: there is no such field, or no usual one.
        """
        known = {name: None for schema in schemas for name in schema.get("properties", ())}
        fields = [name for name in known if name not in _OWN]
        if asked is None:
            usual = [name for name in _USUAL if name in fields][:1] or fields
            allowed = f"a field or a list of them: {', '.join(fields) or 'metadata.NAME'}"
            require(len(usual) == 1, "env.observation", None, allowed)
            asked = usual[0]
        self.names = [asked] if isinstance(asked, str) else asked
        texts = isinstance(self.names, list) and all(isinstance(x, str) for x in self.names)
        require(texts and bool(self.names), "env.observation", asked, "a field, or a list of them")
        for name in self.names:
            require_one_of("env.observation", name.partition(".")[0], [*fields, "metadata"])

    def of(self, told: Mapping[str, Any]) -> str:
        """Return the text that is shown: a field's, or a line for each of several."""
        texts = [_text(_inside(told["observation"], name)) for name in self.names]
        if len(texts) == 1:
            return texts[0]
        return "\n".join(f"{name}: {x}" for name, x in zip(self.names, texts, strict=True) if x)


def _action_field(schema: Mapping[str, Any], asked: str | None) -> str:
    properties = [name for name in schema.get("properties", ()) if name not in _OWN]
    needed = [name for name in schema.get("required", ()) if name not in _OWN]
    if {"tool_name", "arguments"} <= set(properties) and asked in (None, CALL):
        return CALL
    if asked is None:
        usual = needed or properties
        allowed = f"the field that an answer goes to: {', '.join(properties) or 'it has none'}"
        require(len(usual) == 1, "env.action", None, allowed)
        return str(usual[0])
    require_one_of("env.action", asked, properties)
    rest = ", ".join(name for name in needed if name != asked)
    require(not rest, "env.action", asked, f"an action of one field; this one needs {rest}, too")
    return asked


def _json_in(answer: str) -> list[Any]:
    try:
        return [json.loads(answer, parse_constant=_no_number)]
    except (ValueError, RecursionError):
        return []


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _inside(observation: Mapping[str, Any], name: str) -> Any:
    value: Any = observation
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    """Return a value as text: a list of messages as their contents, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    messages = isinstance(value, list) and all(
        isinstance(item, Mapping) and isinstance(item.get("content"), str) for item in value
    )
    if messages:
        return "\n".join(item["content"] for item in value)
    return json.dumps(value, ensure_ascii=False)
