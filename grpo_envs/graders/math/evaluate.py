"""The exact value of a tree, if it is rational. The size of all numbers is bounded."""

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

from grpo_envs.graders.math.nodes import Node

MOST_BITS = 40_000
_MOST_EXPONENT = 10_000
_LARGEST_FACTORIAL = 3_000
_ROOT_BITS = 2_000
_LARGEST_INDEX = 1_000

Rational = Fraction | int
"""A rational number; whole numbers are `int`, which is faster."""
Env = Mapping[str, Rational]


class Undefined(Exception):
    """There is no value: a division by zero, or a root outside of its domain."""


def exact(node: Node, env: Env) -> Rational | None:
    """Return the rational value; None if it is irrational, too large or unknown.

    Args:
        node: The expression.
        env: Values of the variables.

    Raises:
        Undefined: there is no value.
    """
    kind = node[0]
    if kind == "num":
        return _literal(node[1])
    if kind == "var":
        return env.get(node[1])
    read = _EXACT.get(kind)
    value = read(node, env) if read else None
    return value if value is None or bits(value) <= MOST_BITS else None


def bits(value: Rational) -> int:
    """Return the number of bits of a fraction."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def _whole(node: Node, env: Env) -> int | None:
    value = exact(node, env)
    return int(value) if value is not None and value.denominator == 1 else None


def _folded(
    combine: Callable[[Rational, Rational], Rational],
) -> Callable[[Node, Env], Rational | None]:
    def read(node: Node, env: Env) -> Rational | None:
        total = exact(node[1], env)
        for part in node[2:]:
            value = exact(part, env)
            if value is None or total is None or bits(total) > MOST_BITS:
                return None
            total = combine(total, value)
        return total

    return read


def _quotient(node: Node, env: Env) -> Fraction | None:
    top, bottom = exact(node[1], env), exact(node[2], env)
    if bottom == 0:
        raise Undefined
    if top is None or bottom is None:
        return None
    return top / bottom if type(bottom) is Fraction else Fraction(top) / bottom


def _power(node: Node, env: Env) -> Rational | None:
    base, exponent = exact(node[1], env), exact(node[2], env)
    if base is None or exponent is None:
        return None
    if exponent.denominator != 1:
        rooted = _rooted(base, exponent.denominator) if base >= 0 else None
        return None if rooted is None else _raised(rooted, exponent.numerator)
    return _raised(base, int(exponent))


def _raised(base: Rational, exponent: int) -> Rational | None:
    if base == 0 and exponent <= 0:
        raise Undefined
    if abs(exponent) > _MOST_EXPONENT or bits(base) * abs(exponent) > MOST_BITS:
        return base if base in (0, 1) else None
    return base**exponent if exponent >= 0 else Fraction(base) ** exponent


def _root(node: Node, env: Env) -> Fraction | None:
    value, index = exact(node[1], env), _whole(node[2], env)
    if value is None or index is None or not 0 < index <= _MOST_EXPONENT:
        return None
    if value < 0:
        rooted = _rooted(-value, index) if index % 2 else None
        return None if rooted is None else -rooted
    return _rooted(value, index)


def _rooted(value: Rational, index: int) -> Fraction | None:
    if index > _LARGEST_INDEX:
        return None
    top, bottom = _whole_root(value.numerator, index), _whole_root(value.denominator, index)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _whole_root(value: int, index: int) -> int | None:
    if index == 2 and value.bit_length() <= _ROOT_BITS:
        root = math.isqrt(value)
    elif value.bit_length() <= 900:  # still a float
        root = round(value ** (1 / index))
    else:
        return None
    return next((r for r in (root, root - 1, root + 1) if r >= 0 and r**index == value), None)


def _factorial(node: Node, env: Env) -> int | None:
    value = _whole(node[1], env)
    if value is None or not 0 <= value <= _LARGEST_FACTORIAL:
        return None
    if node[0] == "fact2":
        return math.prod(range(value, 0, -2))
    return math.factorial(value)


def _choices(node: Node, env: Env) -> int | None:
    total, chosen = _whole(node[1], env), _whole(node[2], env)
    if total is None or chosen is None or total < 0 or chosen < 0:
        return None
    few = min(chosen, max(total - chosen, 0))
    return math.comb(total, chosen) if few * total.bit_length() <= MOST_BITS else None


@lru_cache(maxsize=4096)
def _literal(digits: str) -> Rational | None:
    value = int(digits) if digits.isdecimal() else Fraction(digits)
    return value if bits(value) <= MOST_BITS else None


def _repeating(node: Node, _: Env) -> Fraction:
    before, period = node[1], node[2]
    places = len(before.partition(".")[2])
    tail = Fraction(int(period), 10**places * (10 ** len(period) - 1))
    return Fraction(before.rstrip(".") or "0") + tail


def _based(node: Node, env: Env) -> Fraction | None:
    base = _whole(node[2], env)
    if base is None or not 2 <= base <= 36:
        return None
    whole, _, places = node[1].partition(".")
    try:
        return Fraction(int(whole + places, base), base ** len(places))
    except ValueError:  # 2 is not a digit in base 2
        raise Undefined from None


def _negative(node: Node, env: Env) -> Rational | None:
    value = exact(node[1], env)
    return None if value is None else -value


def _percent(node: Node, env: Env) -> Fraction | None:
    value = exact(node[1], env)
    return None if value is None else Fraction(value, 100)


def _function(node: Node, env: Env) -> Rational | None:
    apply = _EXACT_FUNCTIONS.get(node[1])
    if apply is None:
        return None
    values = [value for part in node[2:] if (value := exact(part, env)) is not None]
    return apply(*values) if len(values) == len(node) - 2 else None


def _modulo(value: Rational, *modulus: Rational) -> Rational:
    if len(modulus) != 1 or modulus[0] == 0:
        raise Undefined
    return value % modulus[0]


def _integers(combine: Callable[..., int]) -> Callable[..., int | None]:
    def apply(*values: Rational) -> int | None:
        whole = all(value.denominator == 1 for value in values)
        return combine(*map(int, values)) if whole else None

    return apply


_EXACT_FUNCTIONS: dict[str, Callable[..., Rational | None]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "sgn": lambda value: (value > 0) - (value < 0),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "mod": _modulo,
}
_EXACT: dict[str, Callable[[Node, Env], Rational | None]] = {
    "add": _folded(operator.add),
    "mul": _folded(operator.mul),
    "neg": _negative,
    "div": _quotient,
    "pow": _power,
    "root": _root,
    "fact": _factorial,
    "fact2": _factorial,
    "binom": _choices,
    "pct": _percent,
    "repeat": _repeating,
    "base": _based,
    "fn": _function,
}
