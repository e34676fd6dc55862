"""Answers that a JSON Schema allows, with the keywords replaced that could hang or fetch.

`pattern` is matched by RE2, `$ref` stays within the schema and is followed so many times only,
`uniqueItems` takes linear time. `format` is an annotation, as the standard has it.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import jsonschema
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from grpo_envs.errors import ConfigError, require
from grpo_envs.graders.format.base import Constraint
from grpo_envs.graders.format.json_text import parse_json
from grpo_envs.graders.format.structure import compiled, matches

_MOST_REFERENCES = 2_000
_LEFT: ContextVar[int] = ContextVar("references left to follow")
_TRIED: tuple[Any, ...] = ({}, [], "", 0, None)
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _TooMany(Exception):
    """More references were followed than an answer may need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema(Constraint):
    """JSON that is valid under a JSON Schema (2020-12), without references to elsewhere."""

    name: ClassVar[str] = "json_schema"
    schema: Mapping[str, Any]

    def _require(self) -> None:
        given = isinstance(self.schema, Mapping) and bool(self.schema)
        require(given, "json_schema.schema", repr(self.schema)[:80], "a JSON Schema, an object")
        _validator(self._text())

    def _said(self) -> str:
        return f"write JSON that is valid under this JSON Schema: {self._text()}"

    def _measure(self, text: str) -> float:
        validator = _validator(self._text())
        token = _LEFT.set(_MOST_REFERENCES)
        try:
            return bool(validator.is_valid(parse_json(text)))
        except (ValueError, RecursionError, _TooMany):
            return 0.0
        finally:
            _LEFT.reset(token)

    def _text(self) -> str:
        return json.dumps(self.schema)


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """Return a validator.

    Raises:
        ConfigError: it is no schema, refers to elsewhere, or has a pattern that RE2 refuses.
    """
    schema = json.loads(text)
    for keyword, value in _keywords(schema):
        if keyword in ("$ref", "$dynamicRef"):
            inside = isinstance(value, str) and value.startswith("#")
            require(inside, f"json_schema.schema {keyword}", value, "a place in the schema, #/...")
        if keyword == "$schema":
            require(value == _DIALECT, "json_schema.schema $schema", value, _DIALECT)
        if keyword == "pattern" and isinstance(value, str):
            compiled("json_schema.schema pattern", value)
        if keyword == "patternProperties" and isinstance(value, Mapping):
            for pattern in value:
                compiled("json_schema.schema patternProperties", pattern)
    try:
        Draft202012Validator.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"json_schema.schema is no JSON Schema: {why}") from error
    validator = _Validator(schema, registry=Registry())
    _try_out(validator)
    return validator


def _try_out(validator: Any) -> None:
    """Refuse a schema that refers to nothing, or to itself for ever."""
    token = _LEFT.set(_MOST_REFERENCES)
    try:
        for value in _TRIED:
            validator.is_valid(value)
    except (Unresolvable, RecursionError, _TooMany) as error:
        why = str(error) or "its references never end"
        raise ConfigError(f"json_schema.schema cannot be followed: {why}") from error
    finally:
        _LEFT.reset(token)


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of every object in the schema, those that are no keywords included."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield from part.items()
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


Errors = Iterator[ValidationError]


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError("no match")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, dict):
        for pattern, below in patterns.items():
            for key, value in instance.items():
                if _found(pattern, key):
                    yield from validator.descend(value, below)


def _additional_properties(validator: Any, below: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, dict):
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for key, value in instance.items():
            if key not in named and not any(_found(pattern, key) for pattern in patterns):
                yield from validator.descend(value, below)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Errors:
    if unique and isinstance(instance, list):
        seen = {json.dumps(_canonical(item), sort_keys=True) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("an item stands there twice")


def _reference(keyword: str) -> Any:
    original = Draft202012Validator.VALIDATORS[keyword]

    def follow(validator: Any, ref: Any, instance: Any, schema: Any) -> Errors:
        left = _LEFT.get()
        if left <= 0:
            raise _TooMany
        _LEFT.set(left - 1)
        yield from original(validator, ref, instance, schema) or ()

    return follow


def _canonical(value: Any) -> Any:
    """Return a value in which 1.0 is 1, as JSON Schema has it."""
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _found(pattern: str, text: str) -> bool:
    return matches(compiled("json_schema.schema pattern", pattern).search, text)


_extend: Any = extend
_Validator: Any = _extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "$ref": _reference("$ref"),
        "$dynamicRef": _reference("$dynamicRef"),
    },
)

KINDS = (JsonSchema,)
