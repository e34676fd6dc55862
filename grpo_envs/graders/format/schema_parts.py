"""The subschemas of a JSON Schema; a property named `$ref` or a value of `enum` is not one."""

from collections.abc import Iterator, Mapping
from typing import Any

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from grpo_envs.errors import ConfigError, require

_ONE = (
    *("additionalProperties", "propertyNames", "unevaluatedProperties", "items", "contains"),
    *("unevaluatedItems", "contentSchema", "not", "if", "then", "else"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPPINGS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_REFERENCES = ("$ref", "$dynamicRef")


def parts_of_schema(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all schemas within it, including those that only references reach.

    Args:
        schema: A schema that its meta-schema has accepted.

    Raises:
        ConfigError: a reference leads out of the schema, or to nothing.
    """
    registry: Registry[Any] = Registry()
    root = registry.resolver_with_root(DRAFT202012.create_resource(schema))
    waiting: list[tuple[Any, Any]] = [(schema, root)]
    visited: set[int] = set()
    while waiting:
        part, resolver = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in visited:
            continue
        visited.add(id(part))
        if isinstance(part.get("$id"), str):
            resolver = resolver.in_subresource(DRAFT202012.create_resource(part))
        yield part
        waiting += [(below, resolver) for below in _below(part)]
        waiting += [_place(part[name], name, resolver) for name in _REFERENCES if name in part]


def _below(part: Mapping[str, Any]) -> Iterator[Any]:
    for name in _ONE:
        yield part.get(name)
    for name in _LISTS:
        yield from part.get(name, ())
    for name in _MAPPINGS:
        below = part.get(name, {})
        yield from below.values() if isinstance(below, Mapping) else ()


def _place(reference: str, keyword: str, resolver: Any) -> tuple[Any, Any]:
    """Return the target of a reference, and a resolver for it."""
    inside = reference.startswith("#")
    require(inside, f"json_schema.schema {keyword}", reference, "a place in the schema, #/...")
    try:
        found = resolver.lookup(reference)
    except (Unresolvable, ValueError, LookupError, TypeError) as error:
        problem = f"{keyword}={reference} leads to nothing in it"
        raise ConfigError(f"json_schema.schema cannot be followed: {problem}.") from error
    return found.contents, found.resolver
