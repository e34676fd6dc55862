"""Answers that a JSON Schema allows. Keywords that could hang or fetch data are replaced.

Patterns are matched by RE2. `$ref` stays within the schema and is followed a limited number of
times. `uniqueItems` takes linear time. `format` is an annotation, as in the standard.
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
from grpo_envs.graders.format.base import Constraint, TooMuch
from grpo_envs.graders.format.ecma import for_re2
from grpo_envs.graders.format.json_text import parse_json
from grpo_envs.graders.format.schema_parts import parts_of_schema
from grpo_envs.graders.format.structure import compiled, matches

_MOST_REFERENCES = 2_000
_MOST_VALUES = 2_000  # some keywords take quadratic time
_LEFT: ContextVar[int] = ContextVar("references left to follow")
_TRIED: tuple[Any, ...] = ({}, [], "", 0, None)
_NO_FORMATS = jsonschema.FormatChecker(formats=())  # RE2 decides which patterns are valid
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema(Constraint):
    """JSON that is valid under a JSON Schema (2020-12) without external references."""

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
            value = parse_json(text)
            return _size(value) <= _MOST_VALUES and bool(validator.is_valid(value))
        except (ValueError, RecursionError):
            return 0.0
        finally:
            _LEFT.reset(token)

    def _text(self) -> str:
        return json.dumps(self.schema)


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """Return a validator.

    Raises:
        ConfigError: the text is not a schema, has an external reference, or a pattern that RE2
            refuses.
    """
    schema = json.loads(text)
    try:
        Draft202012Validator.check_schema(schema, format_checker=_NO_FORMATS)
        parts = list(parts_of_schema(schema))
    except (jsonschema.SchemaError, RecursionError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"json_schema.schema is not a JSON Schema: {why}") from error
    for part in parts:
        dialect = part.get("$schema", _DIALECT)
        require(dialect.rstrip("#") == _DIALECT, "json_schema.schema $schema", dialect, _DIALECT)
        if "pattern" in part:
            _compiled(part["pattern"])
        for pattern in part.get("patternProperties", ()):
            _compiled(pattern, "patternProperties")
    validator = _Validator(schema, registry=Registry())
    _try_out(validator)
    return validator


def _try_out(validator: Any) -> None:
    """Refuse a schema with a reference to nothing, or with endless references."""
    token = _LEFT.set(_MOST_REFERENCES)
    try:
        for value in _TRIED:
            validator.is_valid(value)
    except (Unresolvable, RecursionError, TooMuch) as error:
        why = str(error) if isinstance(error, Unresolvable) else "its references never end"
        raise ConfigError(f"json_schema.schema cannot be followed: {why}") from error
    finally:
        _LEFT.reset(token)


def _size(value: Any) -> int:
    """Return the number of values, including nested ones."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, inner))


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


def _unevaluated_properties(validator: Any, below: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, dict):
        evaluated = _evaluated(validator, instance, schema)
        for key, value in instance.items():
            if key not in evaluated:
                yield from validator.descend(value, below)


def _evaluated(validator: Any, instance: dict[str, Any], schema: Any) -> set[str]:
    """Return the keys of an object that a schema's keywords evaluate."""
    if not isinstance(schema, dict):
        return set()
    found: set[str] = {*schema.get("properties", ())} & {*instance}
    patterns = schema.get("patternProperties", ())
    found |= {key for key in instance if any(_found(pattern, key) for pattern in patterns)}
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            found |= {
                key for key, value in instance.items() if _holds(validator, value, schema[keyword])
            }
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            _count_reference()
            place = validator._resolver.lookup(schema[keyword])
            there = validator.evolve(schema=place.contents, _resolver=place.resolver)
            found |= _evaluated(there, instance, place.contents)
    for below in _applied(validator, instance, schema):
        found |= _evaluated(validator, instance, below)
    return found


def _applied(validator: Any, instance: dict[str, Any], schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the subschemas that apply to an object in place."""
    dependent = schema.get("dependentSchemas", {})
    yield from (below for key, below in dependent.items() if key in instance)
    for keyword in ("allOf", "oneOf", "anyOf"):
        for below in schema.get(keyword, ()):
            if _holds(validator, instance, below):
                yield below
    if "if" in schema:
        holds = _holds(validator, instance, schema["if"])
        yield from (schema["if"], schema.get("then")) if holds else (schema.get("else"),)


def _holds(validator: Any, value: Any, schema: Any) -> bool:
    return next(validator.descend(value, schema), None) is None


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Errors:
    if unique and isinstance(instance, list):
        seen = {json.dumps(_canonical(item), sort_keys=True) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("an item stands there twice")


def _reference(keyword: str) -> Any:
    original = Draft202012Validator.VALIDATORS[keyword]

    def follow(validator: Any, ref: Any, instance: Any, schema: Any) -> Errors:
        _count_reference()
        yield from original(validator, ref, instance, schema) or ()

    return follow


def _count_reference() -> None:
    left = _LEFT.get()
    if left <= 0:
        raise TooMuch
    _LEFT.set(left - 1)


def _canonical(value: Any) -> Any:
    """Return a value in which 1.0 is 1, as in JSON Schema."""
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _found(pattern: str, text: str) -> bool:
    return matches(_compiled(pattern).search, text)


def _compiled(pattern: str, keyword: str = "pattern") -> Any:
    return compiled(f"json_schema.schema {keyword}", for_re2(pattern))


_extend: Any = extend
_Validator: Any = _extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "unevaluatedProperties": _unevaluated_properties,
        "uniqueItems": _unique_items,
        "$ref": _reference("$ref"),
        "$dynamicRef": _reference("$dynamicRef"),
    },
)

KINDS = (JsonSchema,)
