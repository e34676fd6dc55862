"""Answers in JSON, YAML and XML with given texts as values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from grpo_envs.graders.format.json_text import Json, JsonKeys
from grpo_envs.graders.format.schema import JsonSchema
from grpo_envs.graders.format.structure import Xml, Yaml

_MOST_DEPTH = 8
_GIVEN = ("const", "default", "examples", "enum")


def json_text(asked: Json | JsonKeys, blocks: list[str]) -> str:
    """Return JSON with the blocks as its values."""
    if isinstance(asked, JsonKeys):
        return json.dumps(dict(zip(asked.keys, blocks, strict=False)), ensure_ascii=False)
    if asked.type == "array":
        return json.dumps(blocks, ensure_ascii=False)
    numbered = {f"part{number}": block for number, block in enumerate(blocks, 1)}
    return json.dumps(numbered, ensure_ascii=False)


def schema_text(asked: JsonSchema, blocks: list[str]) -> str:
    """Return JSON that should be valid under a schema, with the blocks as its strings."""
    value = _example(asked.schema, asked.schema, iter(blocks * 50), 0)
    return json.dumps(value, ensure_ascii=False)


def yaml_text(asked: Yaml, blocks: list[str]) -> str:
    """Return YAML: a mapping of the keys to the blocks, or a list of them."""
    if not asked.keys:
        return "\n".join(f"- {_scalar(block)}" for block in blocks)
    pairs = zip(asked.keys, blocks, strict=False)
    return "\n".join(f"{_scalar(key)}: {_scalar(block)}" for key, block in pairs)


def xml_text(asked: Xml, blocks: list[str]) -> str:
    """Return XML: elements that contain the blocks, in the root element."""
    escaped = [b.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for b in blocks]
    root = asked.root or "text"
    pairs = zip(asked.elements, escaped, strict=False)
    inner = "".join(f"<{name}>{block}</{name}>" for name, block in pairs) or "".join(escaped)
    return f"<{root}>{inner}</{root}>"


def _scalar(text: str) -> str:
    plain = text.replace(" ", "").replace(".", "").replace("-", "").isalpha()
    reserved = text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    return text if plain and text[0].isalpha() and not reserved else json.dumps(text)


def _example(schema: Any, root: Any, texts: Iterator[str], depth: int) -> Any:
    """Return a value for a schema: its example, or a value of its type."""
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH:
        return None
    for keyword in _GIVEN:
        if keyword in schema:
            several = keyword in ("examples", "enum")
            return schema[keyword][0] if several and schema[keyword] else schema[keyword]
    if "$ref" in schema:
        return _example(_place(schema["$ref"], root), root, texts, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            below = {**schema, keyword: [], **schema[keyword][0]}
            return _example(below, root, texts, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list | tuple) else kind
    if kind == "object":
        names = {**schema.get("properties", {})}
        names |= {name: names.get(name, {}) for name in schema.get("required", ())}
        return {n: _example(below, root, texts, depth + 1) for n, below in names.items()}
    if kind == "array":
        usual = min(depth < 3, schema.get("maxItems", 1))  # ends the recursion of such schemas
        count = max(schema.get("minItems", 0), usual)
        below = schema.get("items", {})
        return [_example(below, root, texts, depth + 1) for _ in range(min(count, 1_000))]
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": True, "null": None}.get(kind, _text(schema, texts))


def _number(schema: Mapping[str, Any]) -> Any:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    if low is None:
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        low = 0 if high is None else min(0, high - step)
    value = -(-low // step) * step
    return value + step if value == schema.get("exclusiveMinimum") else value


def _text(schema: Mapping[str, Any], texts: Iterator[str]) -> str:
    text = next(texts, "")
    text = text[: schema["maxLength"]] if "maxLength" in schema else text
    return text.ljust(min(schema.get("minLength", 0), 10_000), "a")


def _place(ref: str, root: Any) -> Any:
    """Return the schema that `#/a/b` refers to; None if there is none."""
    part = root
    for name in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
        key = name.replace("~1", "/").replace("~0", "~")
        part = part.get(key) if isinstance(part, Mapping) else None
    return part
