"""Decimals as rounded values, if the grading rules allow it."""

from fractions import Fraction

from grpo_envs.graders.math.identity import approximate, value_of
from grpo_envs.graders.math.nodes import Node


def rounds_to(left: Node, right: Node, digits: int) -> bool:
    """Return whether one side is a decimal of at least `digits` digits that the other rounds to."""
    return _rounds(left, right, digits) or _rounds(right, left, digits)


def _rounds(decimal: Node, value: Node, digits: int) -> bool:
    number = decimal[1] if decimal[0] in ("neg", "pct") else decimal
    if number[0] != "num" or "." not in number[1] or _significant(number[1]) < digits:
        return False
    near, far = value_of(decimal), value_of(value)
    if far is None:
        about = approximate(value)
        far = None if about is None or abs(about) == float("inf") else Fraction(about)
    if near is None or far is None:
        return False
    places = len(number[1].partition(".")[2]) + 2 * (decimal[0] == "pct")
    return abs(near - far) <= Fraction(1, 2 * 10**places)


def _significant(digits: str) -> int:
    return len(digits.replace(".", "").lstrip("0"))
