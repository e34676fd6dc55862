"""Values of sympy expressions, and their precision. Only workers import this."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import sympy
from sympy import S

_POINTS = [sympy.Rational(p, 100) for p in (37, 171, -83, 290)]
_COUNTS = (2, 3, 5, 4)
_PIECES = 5  # parts of an integral: a peak that one rule misses, another finds
_INFINITE_CUTS = (-2, sympy.Rational(1, 3), 3)


def points(symbols: list[Any]) -> Iterator[dict[Any, Any]]:
    """Yield values for `symbols`, positive and negative; whole values for integer symbols."""
    for place in range(len(_POINTS) if symbols else 1):
        yield {
            symbol: _COUNTS[place] + i if symbol.is_integer else _POINTS[place] * (7 + i) / 7
            for i, symbol in enumerate(symbols)
        }


def value(expression: Any, digits: int = 20) -> Any:
    """Return the numeric value of `expression`; None if it has none."""
    found = expression.evalf(digits)
    if not (found.is_number and found.is_finite) or found.has(*_SYMBOLIC):
        return None
    # A difference that may be 0 has fewer digits than requested.
    exact = all(part._prec > 3 * digits for part in found.atoms(sympy.Float))
    return found if exact else None


def estimate(expression: Any, digits: int) -> Any:
    """Return the value of an expression with integrals and infinite sums, by quadrature.

    None if the methods disagree, or a sum may diverge: each method gives a number even then.
    """
    for sum_ in expression.atoms(sympy.Sum, sympy.Product):
        if any(bound.is_infinite for bound in sum_.limits[0][1:]) and not sum_.is_convergent():
            return None
    found = expression.evalf(digits, strict=True)
    if not expression.has(sympy.Integral):
        return found if found.is_number and found.is_finite else None
    again = expression.replace(lambda e: isinstance(e, sympy.Integral), _cut).evalf(
        digits, strict=True
    )
    return found if near(found, again, digits - 5) else None


def near(one: Any, other: Any, digits: int) -> bool:
    """Return whether two numbers agree in `digits` digits."""
    size = max(sympy.Abs(one), sympy.Abs(other))
    return bool(sympy.Abs(one - other) <= size / S(10) ** digits)


def far(one: Any, other: Any) -> bool:
    """Return whether two numbers of 15 digits or more differ."""
    return not near(one, other, 8)


def _cut(integral: Any) -> Any:
    if len(integral.limits) != 1 or len(integral.limits[0]) != 3:
        return integral
    symbol, low, high = integral.limits[0]
    if low.is_infinite or high.is_infinite:
        cuts = [cut for cut in _INFINITE_CUTS if low < cut < high]
    else:
        cuts = [low + (high - low) * sympy.Rational(i, _PIECES) for i in range(1, _PIECES)]
    ends = [low, *cuts, high]
    pieces = pairwise(ends)
    return sympy.Add(*(sympy.Integral(integral.function, (symbol, *piece)) for piece in pieces))


_SYMBOLIC = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative, S.NaN)
