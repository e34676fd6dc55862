"""Comparison of a program's claimed values with expected ones, on plain builtins, in this process.

A bool equals only a bool: True is not 1. An int and a float are equal if their values are. NaN
equals NaN. Sets have no order and may be frozen. A list and a tuple differ if `strict`, as for
`==`; otherwise they are equal, because JSON has only lists. Other types, such as a subclass that
overrides `__eq__`, equal nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_DEEPEST = 100
_MOST_COLLISIONS = 64
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rules of the comparison."""

    strict: bool = False
    """Whether a list and a tuple differ."""
    rel_tol: float = 0.0
    abs_tol: float = 0.0


EXACT = Rule()


def same(claimed: Any, expected: Any, rule: Rule = EXACT) -> bool:
    """Return whether the claimed value is the expected one.

    >>> same(2.0, 2), same(True, 1), same((1, [2]), [1, [2]]), same({2, 1}, {1, 2})
    (True, False, True, True)
    """
    return _same(claimed, expected, rule, 0)


def _same(claimed: Any, expected: Any, rule: Rule, depth: int) -> bool:
    kinds = type(claimed), type(expected)
    if depth > _DEEPEST:
        return False
    if kinds[0] in (int, float) and kinds[1] in (int, float):
        return _same_number(claimed, expected, rule)
    if kinds[0] in (set, frozenset) and kinds[1] in (set, frozenset):
        return _same_keys(claimed, expected, rule, depth)
    if kinds == (dict, dict):
        return _same_keys(claimed, expected, rule, depth) and all(
            _same(claimed[key], value, rule, depth + 1) for key, value in expected.items()
        )
    if set(kinds) <= {list, tuple} and (kinds[0] is kinds[1] or not rule.strict):
        return len(claimed) == len(expected) and all(
            _same(one, other, rule, depth + 1) for one, other in zip(claimed, expected, strict=True)
        )
    plain = kinds[0] in (bool, str, bytes, complex, type(None))
    return plain and kinds[0] is kinds[1] and bool(claimed == expected)


def _same_number(claimed: float, expected: float, rule: Rule) -> bool:
    if claimed == expected or (claimed != claimed and expected != expected):
        return True
    if type(claimed) is type(expected) is int or not (rule.rel_tol or rule.abs_tol):
        return False
    try:
        return math.isclose(claimed, expected, rel_tol=rule.rel_tol, abs_tol=rule.abs_tol)
    except OverflowError:  # an int too large for a float
        return False


def _same_keys(claimed: Any, expected: Any, rule: Rule, depth: int) -> bool:
    """Compare members of sets or keys of dictionaries, by hash and then by our own rules."""
    own = {key: key for key in claimed}
    return len(own) == len(expected) and all(
        key in own and _same(own[key], key, rule, depth + 1) for key in expected
    )


def _set(items: Any) -> set[Any]:
    """Return the set of `items`; refuse keys that were chosen to collide, which take minutes."""
    first: dict[int, Any] = {}
    others = Counter(hash(item) for item in items if first.setdefault(hash(item), item) != item)
    if others and max(others.values()) > _MOST_COLLISIONS:
        raise ValueError("too many items with one hash")
    return set(items)


def same_output(claimed: str, expected: str, rule: Rule = EXACT) -> bool:
    r"""Return whether two standard outputs have the same words on the same lines.

    White space around and between words, and empty lines at the end, do not matter.

    >>> same_output("1  2 \n3\n\n", "1 2\n3"), same_output("1 2 3", "1 2\n3")
    (True, False)
    """
    ours, theirs = _lines(claimed), _lines(expected)
    return len(ours) == len(theirs) and all(
        len(one) == len(other)
        and all(_same_word(a, b, rule) for a, b in zip(one, other, strict=True))
        for one, other in zip(ours, theirs, strict=True)
    )


def _lines(text: str) -> Sequence[Sequence[str]]:
    lines = [line.split() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_word(claimed: str, expected: str, rule: Rule) -> bool:
    if claimed == expected:
        return True
    if not (rule.rel_tol or rule.abs_tol):
        return False
    if not (_NUMBER.fullmatch(claimed) and _NUMBER.fullmatch(expected)):
        return False
    pair = float(claimed), float(expected)
    return math.isclose(*pair, rel_tol=rule.rel_tol, abs_tol=rule.abs_tol)


def compare(claimed: Any, expected: Any, through: str, rule: Rule) -> str:
    """Return '' if the value is the expected one, else a description of the value, for people."""
    try:
        value = THROUGH[through](claimed)
    except (TypeError, ValueError, OverflowError) as error:  # len(3), sorted([1, "a"]), round(nan)
        return f"{through} of {short(claimed)}: {type(error).__name__}"
    return "" if same(value, expected, rule) else f"{short(value)} instead of {short(expected)}"


THROUGH: dict[str, Callable[[Any], Any]] = {
    "": lambda value: value,
    "bool": bool,
    "len": len,
    "list": list,
    "round": round,
    "set": _set,
    "sorted": sorted,
    "tuple": tuple,
}
"""Functions that an assertion may apply before the comparison: `assert sorted(f(x)) == [1, 2]`."""


def short(value: Any, most: int = 80) -> str:
    """Return the `repr` of `value`, cut to `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # an int with too many digits to print
        text = "a very long number"
    return text if len(text) <= most else f"{text[: most - 3]}..."
