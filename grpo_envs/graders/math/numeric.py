"""The value of a tree in floating point: double first, then 50 digits.

Values are real by default: if an intermediate value is not real, the point is outside of the
expression's domain, so sqrt(1/n) and 1/sqrt(n) agree at all points where both exist. Only
expressions with i are complex.

Two unequal values must never look equal. If lost digits could hide a difference (a term that
vanishes beside another, a function at a tiny or huge argument, hyperbolic functions that nearly
agree), the value is `Undefined`, and this stage does not decide.
"""

import cmath
import math
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from grpo_envs.graders.math.evaluate import Rational, Undefined, exact
from grpo_envs.graders.math.nodes import Node

_LONGEST_LITERAL = 30  # digits; a longer number would lose digits in 50
_SMALLEST_ARGUMENT, _LARGEST_ARGUMENT = 1e-10, 1e10
_LARGEST_EXPONENT = 700.0  # of e
_LARGEST_DETERMINANT = 5
_HYPERBOLIC = frozenset({"sinh", "cosh", "tanh", "coth", "sech", "csch"})
_ANY_SIZE = frozenset({"ln", "log", "lg", "abs", "floor", "ceil", "sgn", "max", "min", "mod"})

Env = Mapping[str, Any]


class System:
    """A kind of floating-point number, with its functions.

    Attributes:
        cancelled: Whether a sum has lost most of its digits, so that its value is noise.
    """

    def __init__(self, digits: int, *, real: bool) -> None:
        self.lib, self.functions = _library(digits, real=real)
        self.real = real
        self.largest_exponent = _LARGEST_EXPONENT * (1 if digits < 20 else 100)
        self.lost = 10.0 ** -(digits * 0.6)  # a term this small relative to another could vanish
        self.noise = 10.0 ** -(digits * 0.4) if digits < 20 else 10.0 ** -(digits - 10)
        self.cancelled = False
        self.constants = {"pi": self.lib.pi, "e": self.lib.e}
        self.zero = self.lib.mpf(0)  # added to a value, it makes -4 - 0i the real number -4
        if not real:
            self.constants["i"] = self.lib.mpc(0, 1)

    def total(self, terms: list[Any]) -> Any:
        """Return the sum; record a cancellation, refuse a sum that loses a term."""
        value = sum(terms)
        sizes = [abs(term) for term in terms if term]
        largest = max(sizes, default=0)
        if min(sizes, default=0) < self.lost * largest:
            raise Undefined
        if abs(value) <= self.noise * largest:
            if not 1e-20 < largest < 1e20:
                raise Undefined
            self.cancelled = True
            return value * 0
        return value

    def power(self, base: Any, exponent: Any) -> Any:
        """Raise to a power, within bounds."""
        if base == 0:
            if getattr(exponent, "real", exponent) <= 0:
                raise Undefined
            return base
        size = abs(exponent * self.lib.log(abs(base)))
        if size > self.largest_exponent or 0 < size < _SMALLEST_ARGUMENT:
            raise Undefined
        if self.real and base < 0 and exponent != int(exponent):
            raise Undefined
        return (base + self.zero) ** exponent

    def root(self, value: Any, index: Any) -> Any:
        """Return a root: real and negative if the value is negative and the index odd."""
        if value == 0:
            return value
        if self.real and value < 0:
            if index % 2 != 1:
                raise Undefined
            return -self.root(-value, index)
        return self.lib.sqrt(value + self.zero) if index == 2 else self.power(value, 1 / index)

    def apply(self, name: str, values: list[Any]) -> Any:
        """Apply a named function if its value can be trusted."""
        function = self.functions.get(name)
        if function is None:
            raise Undefined
        largest = 30.0 if name in _HYPERBOLIC else _LARGEST_ARGUMENT
        for value in values:
            if value and name not in _ANY_SIZE and not _SMALLEST_ARGUMENT < abs(value) < largest:
                raise Undefined
        result = function(*(value + self.zero for value in values))
        if self.real and getattr(result, "imag", 0) != 0:
            raise Undefined
        return result


@lru_cache(maxsize=8)
def _library(digits: int, *, real: bool) -> tuple[Any, Mapping[str, Callable[..., Any]]]:
    """Return the library for numbers of `digits` digits (15: double), and our functions."""
    if digits > 20:
        import mpmath  # a dependency of sympy; imported here because it is heavy

        context = mpmath.mp.clone()
        context.dps = digits
        return context, _functions(context)
    module = math if real else cmath
    names = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    number: Any = float if real else complex
    lib = SimpleNamespace(**names, mpf=number, mpc=complex)
    return lib, _functions(lib)


def numeric(node: Node, env: Env, numbers: System) -> Any:
    """Return the value of `node`.

    Args:
        node: The expression.
        env: Values of the variables, as numbers of the system.
        numbers: The number system.

    Raises:
        Undefined: no value can be trusted.
    """
    read = _NUMERIC.get(node[0])
    if read is None:
        raise Undefined
    return read(node, env, numbers)


def _literal(node: Node, _: Env, numbers: System) -> Any:
    if len(node[1]) > _LONGEST_LITERAL:
        raise Undefined
    digits = node[1]
    return numbers.lib.mpf(int(digits) if digits.isdecimal() else digits)  # int is read faster


def rational(value: Rational, numbers: System) -> Any:
    """Return an exact value as a number of the system."""
    return numbers.lib.mpf(value.numerator) / value.denominator


def _exactly(node: Node, _: Env, numbers: System) -> Any:
    value = exact(node, {})
    if value is None:
        raise Undefined
    return rational(value, numbers)


def _variable(node: Node, env: Env, _: System) -> Any:
    if node[1] not in env:
        raise Undefined
    return env[node[1]]


def _constant(node: Node, _: Env, numbers: System) -> Any:
    if node[1] not in numbers.constants:
        raise Undefined
    return +numbers.constants[node[1]]


def _sum(node: Node, env: Env, numbers: System) -> Any:
    return numbers.total([numeric(part, env, numbers) for part in node[1:]])


def _product(node: Node, env: Env, numbers: System) -> Any:
    value = numeric(node[1], env, numbers)
    for part in node[2:]:
        value = value * numeric(part, env, numbers)
    return value


def _quotient(node: Node, env: Env, numbers: System) -> Any:
    bottom = numeric(node[2], env, numbers)
    if bottom == 0:
        raise Undefined
    return numeric(node[1], env, numbers) / bottom


def _power(node: Node, env: Env, numbers: System) -> Any:
    return numbers.power(numeric(node[1], env, numbers), numeric(node[2], env, numbers))


def _root(node: Node, env: Env, numbers: System) -> Any:
    index = numeric(node[2], env, numbers)
    if index == 0:
        raise Undefined
    return numbers.root(numeric(node[1], env, numbers), index)


def _function(node: Node, env: Env, numbers: System) -> Any:
    if node[1] == "det":
        return _determinant([[numeric(x, env, numbers) for x in row[1:]] for row in node[2][1:]])
    return numbers.apply(node[1], [numeric(part, env, numbers) for part in node[2:]])


def _determinant(rows: list[list[Any]]) -> Any:
    if len(rows) > _LARGEST_DETERMINANT or any(len(row) != len(rows) for row in rows):
        raise Undefined
    if len(rows) == 1:
        return rows[0][0]
    minors = ([row[:k] + row[k + 1 :] for row in rows[1:]] for k in range(len(rows)))
    return sum((-1) ** k * rows[0][k] * _determinant(minor) for k, minor in enumerate(minors))


def _unknown_function(node: Node, env: Env, numbers: System) -> Any:
    # Any function without identities works: then f(2) equals f(1 + 1) and nothing else.
    value = numbers.lib.mpf(zlib.crc32(node[1].encode("utf-8", "replace")) % 1009 + 1) / 97
    for place, part in enumerate(node[2:], start=1):
        argument = numeric(part, env, numbers)
        if abs(argument) > _LARGEST_ARGUMENT:
            raise Undefined
        value = numbers.lib.cos(value + argument * place / 7) + argument * argument * value / 11
    return value


def _scaled(divisor: int, constant: str) -> Callable[[Node, Env, System], Any]:
    def read(node: Node, env: Env, numbers: System) -> Any:
        value = numeric(node[1], env, numbers)
        return value * (+numbers.constants[constant] if constant else 1) / divisor

    return read


def _real(value: Any) -> Any:
    """Return a real value as a real number; values with an imaginary part have no order."""
    if value.imag != 0:
        raise Undefined
    return value.real


def _close_to_whole(lib: Any, value: Any, round_: Callable[[Any], Any]) -> Any:
    value = _real(value)
    nearest = round(float(value))
    if value != nearest and abs(value - nearest) < 1e-9:
        raise Undefined  # rounding noise would decide
    return lib.mpf(int(round_(value)))


def _functions(lib: Any) -> dict[str, Callable[..., Any]]:
    def log(value: Any, *base: Any) -> Any:
        return lib.log(value) / lib.log(base[0] if base else 10)

    def sign(value: Any) -> Any:
        real = _real(value)
        return lib.mpf((real > 0) - (real < 0))

    phase = getattr(lib, "phase", cmath.phase)
    both = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
    return {
        **{name: getattr(lib, name) for name in both},
        **{f"arc{name}": getattr(lib, f"a{name}") for name in both},
        "cot": lambda x: 1 / lib.tan(x),
        "sec": lambda x: 1 / lib.cos(x),
        "csc": lambda x: 1 / lib.sin(x),
        "coth": lambda x: 1 / lib.tanh(x),
        "sech": lambda x: 1 / lib.cosh(x),
        "csch": lambda x: 1 / lib.sinh(x),
        "arccot": lambda x: lib.pi / 2 - lib.atan(x),
        "arcsec": lambda x: lib.acos(1 / x),
        "arccsc": lambda x: lib.asin(1 / x),
        "exp": lib.exp,
        "ln": lib.log,
        "log": log,
        "lg": lambda x: lib.log(x) / lib.log(10),
        "abs": abs,
        "floor": lambda x: _close_to_whole(lib, x, math.floor),
        "ceil": lambda x: _close_to_whole(lib, x, math.ceil),
        "sgn": sign,
        "re": lambda x: lib.mpf(x.real),
        "im": lambda x: lib.mpf(x.imag),
        "conj": lambda x: x.conjugate(),
        "arg": lambda x: lib.mpf(phase(x)),
        "max": lambda *values: lib.mpf(max(map(_real, values))),
        "min": lambda *values: lib.mpf(min(map(_real, values))),
    }


_NUMERIC: dict[str, Callable[[Node, Env, System], Any]] = {
    "num": _literal,
    "var": _variable,
    "const": _constant,
    "add": _sum,
    "neg": lambda node, env, numbers: -numeric(node[1], env, numbers),
    "mul": _product,
    "div": _quotient,
    "pow": _power,
    "root": _root,
    "pct": _scaled(100, ""),
    "deg": _scaled(180, "pi"),
    "fn": _function,
    "call": _unknown_function,
    **dict.fromkeys(("fact", "fact2", "binom", "repeat", "base"), _exactly),
}
