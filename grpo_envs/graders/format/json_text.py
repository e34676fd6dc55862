"""Answers in JSON: any JSON, or an object with given keys."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from grpo_envs.graders.format.base import MOST_DEPTH, Constraint, need_one_of, need_texts

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_MOST_DIGITS = 300


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, has a key twice or a number beyond
            1e300.
    """
    if _depth(_STRING.sub("", text)) > MOST_DEPTH:
        raise ValueError("nested too deeply")
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_constant=_constant,
        parse_float=_float,
        parse_int=_int,
    )


def _depth(text: str) -> int:
    """Return how deeply brackets are nested."""
    deepest = depth = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number that is too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("a number that is too large")
    return int(digits)


_TYPES = {
    "any": (dict, list, str, int, float, bool, type(None)),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Json(Constraint):
    """The text is valid JSON: an object, an array, or with `type: any` any value."""

    name: ClassVar[str] = "json"
    type: str = "object"

    def _require(self) -> None:
        need_one_of(self.name, "type", self.type, _TYPES)

    def _said(self) -> str:
        return f"write valid JSON{'' if self.type == 'any' else f': one {self.type}'}"

    def _measure(self, text: str) -> float:
        try:
            return isinstance(parse_json(text), _TYPES[self.type])
        except ValueError:
            return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonKeys(Constraint):
    """The text is a JSON object with exactly these keys, in any order, with any values."""

    name: ClassVar[str] = "json_keys"
    keys: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "keys", self.keys)

    def _said(self) -> str:
        noun = "key" if len(self.keys) == 1 else "keys"
        return f"write a json object with the {noun} {' '.join(self.keys)}"

    def _measure(self, text: str) -> float:
        try:
            found = parse_json(text)
        except ValueError:
            return 0.0
        return isinstance(found, dict) and set(found) == set(self.keys)


KINDS = (Json, JsonKeys)
