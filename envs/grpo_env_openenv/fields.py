"""The field of a server's action for an answer, and the fields of an observation that are shown."""

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
"""Instead of a field: each tool call of an answer is an action."""
_USUAL = ("prompt", "question", "text", "message", "messages", "observation")
"""Fields that are shown by default."""
_OWN = ("metadata", "done", "reward")
_NO_CALL = "error: "


class Action:
    """Converts answers to actions, by the server's schema."""

    def __init__(self, schema: Mapping[str, Any], asked: str | None) -> None:
        """Choose the field.

        Args:
            schema: JSON Schema of the server's actions.
            asked: The field for the answer, or `call_tool`; None for the only field.

        Raises:
            ConfigError: there is no such field, or there are several and none is named.
        """
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            why = str(error).splitlines()[0]
            raise ConfigError(f"the schema of the server's actions is invalid: {why}.") from error
        self._validator = Draft202012Validator(schema, registry=Registry())
        self.field = _action_field(schema, asked)

    @property
    def calls(self) -> bool:
        """Whether answers are tool calls."""
        return self.field == CALL

    def of(self, answer: str) -> str | None:
        """Return an answer as an action in JSON; None if the schema does not allow it.

        If the field is not a string, the answer is read as a JSON value.
        """
        for value in (answer, *_json_in(answer)):
            action = {self.field: value}
            if self._validator.is_valid(action):
                return json.dumps(action)
        return None


def called(answer: str) -> list[tuple[str, str]]:
    """Return the tool calls of an answer, each as an action in JSON or as an error for the reply.

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
    """Return the result of a tool call as text.

    A result of MCP is a list of contents, of which the texts are shown.
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
    """Return a tool from its description in the form of MCP or of OpenAI's `tools`."""
    about = about.get("function", about)
    schema = about.get("input_schema", about.get("parameters")) or {"type": "object"}
    return Tool(
        name=str(about.get("name")),
        description=str(about.get("description") or ""),
        parameters=schema,
    )


class Shown:
    """Converts observations to text."""

    def __init__(self, schemas: Sequence[Mapping[str, Any]], asked: Any) -> None:
        """Choose the fields.

        Args:
            schemas: JSON Schemas of the server's observations.
            asked: A field, `metadata.name` for a field of the metadata, or a list of fields; None
                for the default.

        Raises:
            ConfigError: there is no such field, or no default field.
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
        """Return the text that is shown: one field, or a line for each of several fields."""
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
    raise ValueError(f"{name} is not a number of JSON")


def _inside(observation: Mapping[str, Any], name: str) -> Any:
    value: Any = observation
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    """Return a value as text: of a list of messages the contents, of other values the JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    messages = isinstance(value, list) and all(
        isinstance(item, Mapping) and isinstance(item.get("content"), str) for item in value
    )
    if messages:
        return "\n".join(item["content"] for item in value)
    return json.dumps(value, ensure_ascii=False)
