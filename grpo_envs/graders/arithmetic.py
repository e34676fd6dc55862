"""Arithmetic on whole numbers, parsed and computed exactly: `work_out("3*4+5")`.

Python evaluates nothing. Length and depth are bounded, and so are all intermediate numbers. Powers,
decimals, digits other than ASCII and 1e9 are refused.
"""

import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction

MOST_CHARACTERS = 1000
DEEPEST = 50
_TOKEN = re.compile(r"[ \t\r\n]*(0|[1-9][0-9]*|[-+*/()])")
_SIGNS = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"})
_POWER = {"+": 1, "-": 1, "*": 2, "/": 2}
_APPLY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


_WHOLE = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,40})")


class Unreadable(Exception):
    """The text is not arithmetic, or has no value; the message says why."""


def whole_number(text: str) -> int | None:
    """Return the whole number in `text`; None for any other text (also 14/2, 7.0, 1e3).

    >>> whole_number("-1,999"), whole_number("7 8"), whole_number("3+4")
    (-1999, None, None)
    """
    text = text.strip().translate(_SIGNS) if len(text) <= MOST_CHARACTERS else ""
    return int(text.replace(",", "")) if _WHOLE.fullmatch(text) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """The value of an expression, and the numbers in it."""

    value: Fraction
    numbers: tuple[int, ...]
    """The numbers in order, without signs."""


def work_out(text: str, operators: Collection[str] = "+-*/") -> Arithmetic:
    """Return the value of `text` and the numbers in it.

    Args:
        text: Whole numbers, operators (also the signs of times, division and minus) and
            parentheses.
        operators: The allowed operators among `+-*/`; + and - are also signs.

    Raises:
        Unreadable: any other text, a division by zero, or a text beyond the limits.

    >>> work_out("3*(4 - 5)/2")
    Arithmetic(value=Fraction(-3, 2), numbers=(3, 4, 5, 2))
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"longer than {MOST_CHARACTERS} characters")
    reader = _Reader(tokens=_tokens(text.translate(_SIGNS)), operators=operators)
    value = reader.expression(0)
    if reader.ahead:
        raise Unreadable(f"{reader.ahead!r} stands where an operator should")
    return Arithmetic(value=value, numbers=tuple(reader.numbers))


def _tokens(text: str) -> list[str]:
    text = text.rstrip(" \t\r\n")
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable(f"{text[at:].strip()[:1]!a} is not arithmetic")
        tokens.append(found[1])
        at = found.end()
    return tokens


@dataclass(slots=True)
class _Reader:
    """A Pratt parser that computes the value while it reads."""

    tokens: list[str]
    operators: Collection[str]
    numbers: list[int] = field(default_factory=list)
    at: int = 0
    depth: int = 0

    @property
    def ahead(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.ahead
        if token in _POWER and token not in self.operators:
            raise Unreadable(f"{token!r} is not allowed here")
        self.at += 1
        return token

    def expression(self, power: int) -> Fraction:
        """Read until an operator that binds no tighter than `power`."""
        left = self.operand()
        while _POWER.get(self.ahead, 0) > power:
            sign = self.take()
            right = self.expression(_POWER[sign])
            if sign == "/" and right == 0:
                raise Unreadable("division by zero")
            left = _APPLY[sign](left, right)
        return left

    def operand(self) -> Fraction:
        """Read a number or a parenthesis, with or without a sign."""
        token = self.take()
        if token.isdecimal():
            self.numbers.append(int(token))
            return Fraction(self.numbers[-1])
        if token not in ("(", "+", "-"):
            raise Unreadable(f"{token!r} stands where a number should" if token else "no number")
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable(f"deeper than {DEEPEST}")
        value = self.expression(0) if token == "(" else self.operand()
        if token == "(" and self.take() != ")":
            raise Unreadable("a parenthesis that is not closed")
        self.depth -= 1
        return -value if token == "-" else value
