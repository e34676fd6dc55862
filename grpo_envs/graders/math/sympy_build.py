"""From our trees to sympy, by a table of builders: `Builder(a, b)(a)`. Only workers import this.

No text is parsed: names become symbols, digits become integers, kinds become classes. Sums,
integrals, limits and derivatives are built unevaluated; `sympy_equal` evaluates them if necessary.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy
from sympy import S

Tree = Sequence[Any]  # a Node, or its JSON form: nested lists
Scope = Mapping[str, sympy.Symbol]

_MOST_DIGITS = 1000
_MOST_BITS = 20_000  # of an exact power
_LARGEST_FACTORIAL = 5000
_HIGHEST_ORDER = 20  # of a derivative
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)
_CONSTANTS = {"pi": S.Pi, "e": S.Exp1, "i": S.ImaginaryUnit, "inf": S.Infinity}


class NotSympy(Exception):
    """A tree has a node that cannot be built, or that is too large."""


def subtrees(tree: Tree) -> Iterator[Tree]:
    """Yield `tree` and all of its subtrees."""
    stack = [tree]
    while stack:
        here = stack.pop()
        yield here
        stack += [part for part in here[1:] if isinstance(part, list | tuple)]


class Builder:
    """Builds the trees of one pair, with the same symbols on both sides."""

    def __init__(self, *trees: Tree) -> None:
        """Find the names in `trees` that are whole numbers: those in the limits of a sum."""
        parts = [part for tree in trees for part in subtrees(tree)]
        limits = [limit for p in parts if p[0] in ("sum", "product") for limit in p[3:5]]
        counts = {p[1] for limit in limits for p in subtrees(limit) if p[0] == "var"}
        self.free: Scope = {
            name: sympy.Symbol(name, integer=True, positive=True)
            if name in counts
            else sympy.Symbol(name, real=True)
            for name in {part[1] for part in parts if part[0] == "var"}
        }

    def __call__(self, tree: Tree, scope: Scope | None = None) -> Any:
        """Return the sympy expression of `tree`; `scope` has its bound variables.

        Raises:
            NotSympy: the tree has no expression, or no defined value.
        """
        maker = _BUILDERS.get(tree[0])
        if maker is None:
            raise NotSympy(tree[0])
        made = maker(self, tree, scope or {})
        if made.has(S.NaN, S.ComplexInfinity):
            raise NotSympy("undefined")
        return made

    def names(self, tree: Tree) -> set[str]:
        """Return the names of the variables in `tree`."""
        return {part[1] for part in subtrees(tree) if part[0] == "var"}

    def each(self, trees: Sequence[Tree], scope: Scope) -> list[Any]:
        """Build several trees."""
        return [self(tree, scope) for tree in trees]


def power(base: Any, exponent: Any) -> Any:
    """Return base ** exponent, unless it is a number with too many digits."""
    if base.is_Rational and exponent.is_Rational:
        bits = max(abs(base.p), base.q).bit_length()
        if bits * max(abs(exponent.p), exponent.q) > _MOST_BITS:
            raise NotSympy("a large power")
    return sympy.Pow(base, exponent)


def _number(build: Builder, tree: Tree, scope: Scope) -> Any:
    if len(tree[1]) > _MOST_DIGITS or not _NUMBER.fullmatch(tree[1]):
        raise NotSympy("a long number")
    return _rational(Fraction(tree[1]))


def _repeating(build: Builder, tree: Tree, scope: Scope) -> Any:
    before, period = tree[1], tree[2]
    if len(before) + len(period) > _MOST_DIGITS or not (period.isascii() and period.isdigit()):
        raise NotSympy("a long number")
    whole, _, digits = before.partition(".")
    if not _NUMBER.fullmatch(f"{whole}0.{digits}0"):
        raise NotSympy("a number")
    shift = 10 ** len(digits)
    value = Fraction(int(whole + digits or "0"), shift)
    return _rational(value + Fraction(int(period), shift * (10 ** len(period) - 1)))


def _in_base(build: Builder, tree: Tree, scope: Scope) -> Any:
    base = build(tree[2], scope)
    if not (base.is_Integer and 2 <= base <= 36 and len(tree[1]) <= _MOST_DIGITS):
        raise NotSympy("a base")
    whole, _, places = tree[1].partition(".")
    try:
        return sympy.Rational(int(whole + places, int(base)), base ** len(places))
    except ValueError as error:
        raise NotSympy("a digit") from error


def _rational(value: Fraction) -> Any:
    return sympy.Rational(value.numerator, value.denominator)


def _variable(build: Builder, tree: Tree, scope: Scope) -> Any:
    return scope.get(tree[1]) or build.free[tree[1]]


def _constant(build: Builder, tree: Tree, scope: Scope) -> Any:
    if tree[1] not in _CONSTANTS:
        raise NotSympy("a set of numbers")
    return _CONSTANTS[tree[1]]


def _root(build: Builder, tree: Tree, scope: Scope) -> Any:
    radicand, degree = build.each(tree[1:3], scope)
    if radicand.is_negative and degree.is_Integer and degree % 2:
        return -power(-radicand, 1 / degree)
    return power(radicand, 1 / degree)


def _factorial(build: Builder, tree: Tree, scope: Scope) -> Any:
    argument = build(tree[1], scope)
    if argument.is_number and not (argument.is_Integer and 0 <= argument <= _LARGEST_FACTORIAL):
        raise NotSympy("a factorial")
    return (sympy.factorial if tree[0] == "fact" else sympy.factorial2)(argument)


def _binomial(build: Builder, tree: Tree, scope: Scope) -> Any:
    n, k = build.each(tree[1:3], scope)
    if n.is_number and k.is_number and not (n.is_Integer and k.is_Integer and abs(n) <= 10_000):
        raise NotSympy("a binomial")
    return sympy.binomial(n, k)


def _function(build: Builder, tree: Tree, scope: Scope) -> Any:
    name, arguments = tree[1], tree[2:]
    if name == "det" and len(arguments) == 1 and arguments[0][0] == "matrix":
        rows = [build.each(row[1:], scope) for row in arguments[0][1:]]
        if len(rows) > 6 or any(len(row) != len(rows) for row in rows):
            raise NotSympy("a determinant")
        return sympy.Matrix(rows).det()
    made = build.each(arguments, scope)
    if name in ("gcd", "lcm") and all(value.is_Integer for value in made):
        return (sympy.igcd if name == "gcd" else sympy.ilcm)(*made) * S.One
    if name in ("max", "min") and made:
        return (sympy.Max if name == "max" else sympy.Min)(*made)
    if (name, len(made)) not in _FUNCTIONS:
        raise NotSympy(name)
    return _FUNCTIONS[name, len(made)](*made)


def _call(build: Builder, tree: Tree, scope: Scope) -> Any:
    return sympy.Function(f"call {tree[1]}")(*build.each(tree[2:], scope))


def _sum(build: Builder, tree: Tree, scope: Scope) -> Any:
    _, body, variable, low, high = tree
    index = sympy.Dummy(variable[1], integer=True)
    made = sympy.Sum if tree[0] == "sum" else sympy.Product
    inside = build(body, {**scope, variable[1]: index})
    return made(inside, (index, *build.each([low, high], scope)))


def _integral(build: Builder, tree: Tree, scope: Scope) -> Any:
    _, body, variable, *limits = tree
    if not limits:  # the variable is free in the result
        symbol = _variable(build, variable, scope)
        return sympy.Integral(build(body, scope), symbol)
    symbol = sympy.Dummy(variable[1], real=True)
    inside = build(body, {**scope, variable[1]: symbol})
    return sympy.Integral(inside, (symbol, *build.each(limits, scope)))


def _limit(build: Builder, tree: Tree, scope: Scope) -> Any:
    _, body, variable, to, side = tree
    symbol = sympy.Dummy(variable[1], real=True)
    inside, target = build(body, {**scope, variable[1]: symbol}), build(to, scope)
    return sympy.Limit(
        inside, symbol, target, side if target.is_finite else "-+"[target.is_negative]
    )


def _derivative(build: Builder, tree: Tree, scope: Scope) -> Any:
    _, body, variable, order = tree
    if not 0 < order <= _HIGHEST_ORDER:
        raise NotSympy("an order")
    return sympy.Derivative(build(body, scope), (_variable(build, variable, scope), order))


_FUNCTIONS: dict[tuple[str, int], Callable[..., Any]] = {
    ("exp", 1): sympy.exp,
    ("ln", 1): sympy.log,
    ("log", 1): lambda value: sympy.log(value) / sympy.log(10),
    ("log", 2): lambda value, base: sympy.log(value) / sympy.log(base),
    ("lg", 1): lambda value: sympy.log(value) / sympy.log(10),
    ("abs", 1): sympy.Abs,
    ("floor", 1): sympy.floor,
    ("ceil", 1): sympy.ceiling,
    ("sgn", 1): sympy.sign,
    ("re", 1): sympy.re,
    ("im", 1): sympy.im,
    ("arg", 1): sympy.arg,
    ("conj", 1): sympy.conjugate,
    ("mod", 2): sympy.Mod,
}
for _name in ("sin", "cos", "tan", "cot", "sec", "csc"):
    _FUNCTIONS[_name, 1] = getattr(sympy, _name)
    _FUNCTIONS[f"arc{_name}", 1] = getattr(sympy, f"a{_name}")
    _FUNCTIONS[f"{_name}h", 1] = getattr(sympy, f"{_name}h")
    _FUNCTIONS[f"arc{_name}h", 1] = getattr(sympy, f"a{_name}h")

_BUILDERS: dict[str, Callable[[Builder, Tree, Scope], Any]] = {
    "num": _number,
    "repeat": _repeating,
    "base": _in_base,
    "var": _variable,
    "const": _constant,
    "add": lambda build, tree, scope: sympy.Add(*build.each(tree[1:], scope)),
    "mul": lambda build, tree, scope: sympy.Mul(*build.each(tree[1:], scope)),
    "neg": lambda build, tree, scope: -build(tree[1], scope),
    "div": lambda build, tree, scope: build(tree[1], scope) / build(tree[2], scope),
    "pow": lambda build, tree, scope: power(*build.each(tree[1:3], scope)),
    "root": _root,
    "fact": _factorial,
    "fact2": _factorial,
    "binom": _binomial,
    "pct": lambda build, tree, scope: build(tree[1], scope) / 100,
    "deg": lambda build, tree, scope: build(tree[1], scope) * S.Pi / 180,
    "fn": _function,
    "call": _call,
    "sum": _sum,
    "product": _sum,
    "integral": _integral,
    "limit": _limit,
    "derivative": _derivative,
}
