"""Decide whether two trees are equal, with sympy: `equal(gold, answer, seconds)`, in a worker.

True needs a proof (the difference becomes 0) or, for numbers, agreement in 50 digits. False needs
numbers that differ, or a proof. Otherwise the result is None. Each step has a share of the time.
"""

import signal
import time
from collections.abc import Callable
from itertools import product
from typing import Any, TypeVar

import sympy
from sympy import S

from grpo_envs.graders.math.sympy_build import Builder, NotSympy, Tree, subtrees
from grpo_envs.graders.math.sympy_numbers import estimate, far, near, points, value
from grpo_envs.graders.math.sympy_sets import SetBuilder, elements_equal, is_set, sets_equal

_OPEN = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)
_MOST_SIGNS = 2  # real variables whose signs are tried one by one
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}

T = TypeVar("T")


class OutOfTime(BaseException):
    """A step used up its share of time. Not an Exception, which sympy would swallow."""


class Clock:
    """Runs steps, each within a share of a pair's time."""

    def __init__(self, seconds: float) -> None:
        """Start the time of a pair, `seconds` in total."""
        self.seconds = seconds
        self.end = time.monotonic() + 0.95 * seconds
        signal.signal(signal.SIGALRM, self._ring)

    def within(self, share: float, step: Callable[..., T], *arguments: Any) -> T | None:
        """Return the result of `step`; None if it raises or takes too long."""
        try:
            try:
                left = max(1e-3, self.end - time.monotonic())
                signal.setitimer(signal.ITIMER_REAL, min(left, share * self.seconds))
                return step(*arguments)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (OutOfTime, Exception):  # noqa: BLE001  sympy may raise anything
            return None

    def _ring(self, *_: object) -> None:
        raise OutOfTime


def equal(gold: Tree, answer: Tree, seconds: float) -> bool | None:
    """Return whether `gold` and `answer` are equal; None if that is undecided."""
    return Pair(gold, answer, Clock(seconds)).decide(gold, answer)


def warm() -> None:
    """Run the steps that most pairs need, so that workers are forked with the code loaded."""
    x, n, one, two = ("var", "x"), ("var", "n"), ("num", "1"), ("num", "2")
    infinity = ("const", "inf")
    bell = ("fn", "exp", ("neg", ("pow", x, two)))
    below = ("rel", x, "<", two)
    for gold, answer in (
        (("sum", ("div", one, ("pow", n, two)), n, one, infinity), one),
        (("sum", ("div", ("pow", x, n), ("fact", n)), n, ("num", "0"), infinity), x),
        (("sum", ("binom", ("var", "m"), n), n, ("num", "0"), ("var", "m")), x),
        (("integral", bell, x, ("neg", infinity), infinity), ("root", ("const", "pi"), two)),
        (("integral", ("mul", x, ("fn", "cos", x)), x, one, two), ("fn", "sin", two)),
        (("integral", ("div", one, x), x), ("fn", "ln", ("fn", "abs", x))),
        (("limit", ("div", ("fn", "sin", x), x), x, ("num", "0"), "+-"), one),
        (("product", ("neg", n), n, one, two), two),
        (("setbuilder", x, below), ("tuple", "(", ")", ("neg", infinity), two)),
    ):
        equal(gold, answer, 10.0)


class Pair:
    """The comparison of one pair and of its parts."""

    def __init__(self, gold: Tree, answer: Tree, clock: Clock) -> None:
        """Make the symbols that both sides share."""
        self.build = Builder(gold, answer)
        self.clock = clock
        parts = [part for tree in (gold, answer) for part in subtrees(tree)]
        self.complex = any(tuple(part) == ("const", "i") for part in parts)
        self.decimal = any(part[0] == "num" and "." in part[1] for part in parts)
        self.naturals = any(tuple(part) == ("const", "N") for part in parts)

    def decide(self, a: Tree, b: Tree) -> bool | None:
        """Compare two trees, by their kinds."""
        for chain, result in ((a, b), (b, a)):  # x = 1 + ... + 10 = 55 against 55
            if _is_chain(chain, result):
                return self._chain(chain, result)
        a, b = _bare(a, b), _bare(b, a)
        if is_set(a) or is_set(b):
            return self._sets(a, b)
        if a[0] in ("list", "tuple", "matrix", "row", "rel") and a[0] == b[0]:
            return self._parts(a, b)
        one, other = self._built(a), self._built(b)
        return None if one is None or other is None else self.scalars(one, other)

    def scalars(self, one: Any, other: Any) -> bool | None:
        """Compare two scalar expressions."""
        if one == other:
            return True
        if any(len(each.limits[0]) == 1 for each in (one - other).atoms(sympy.Integral)):
            return self._antiderivatives(one, other)
        share = 0.25 if one.has(*_OPEN) and other.has(*_OPEN) else 0.4
        x, y = (self.clock.within(share, closed, each) for each in (one, other))
        if x is None or y is None or x.has(*_OPEN) or y.has(*_OPEN):
            return self._estimates(one, other)
        if x.is_infinite or y.is_infinite:
            return _infinities(x, y)
        for before, after in ((one, x), (other, y)):  # some of sympy's integrals are wrong
            if before.has(sympy.Integral) and not after.free_symbols:
                seen = self.clock.within(0.15, estimate, before, 15)
                if seen is not None and far(seen, value(after)):
                    return None
        return self._closed(x, y)

    def _sets(self, a: Tree, b: Tree) -> bool | None:
        verdicts = set()
        for naturals in (S.Naturals, S.Naturals0) if self.naturals else (S.Naturals,):
            make = SetBuilder(self.build, naturals)
            one, other = self.clock.within(0.2, make, a), self.clock.within(0.2, make, b)
            if one is None or other is None:
                return None
            verdicts.add(self.clock.within(0.4, sets_equal, one, other, self._same_number))
        return verdicts.pop() if len(verdicts) == 1 else None

    def _same_number(self, one: Any, other: Any) -> bool | None:
        """Compare elements, within the time of their sets, because alarms do not nest."""
        return True if simplifies_to_zero(one - other) else not_equal(one, other)

    def _parts(self, a: Tree, b: Tree) -> bool | None:
        """Compare part by part: collections of the same shape, relations also mirrored."""
        if len(a) != len(b):
            return None if a[0] in ("rel", "list") else False
        if a[0] == "list" and _names_values(a) == _names_values(b):
            return elements_equal(list(a[1:]), list(b[1:]), self.decide)
        verdicts = self._each(a, b)
        if all(verdicts):
            return True
        if a[0] != "rel":
            return False if False in verdicts else None
        mirrored = tuple(_MIRRORED.get(p, p) if isinstance(p, str) else p for p in reversed(b[1:]))
        return True if all(self._each(a, ("rel", *mirrored))) else None

    def _chain(self, chain: Tree, value: Tree) -> bool | None:
        """Return whether each value that a chain of equations gives is `value`."""
        if set(chain[2::2]) != {"="}:
            return None
        named = chain[1][0] in ("var", "call")
        verdicts = [self.decide(each, value) for each in chain[3 if named else 1 :: 2]]
        return False if False in verdicts else all(verdicts) or None

    def _each(self, a: Tree, b: Tree) -> list[bool | None]:
        return [
            p == q if isinstance(p, str) or isinstance(q, str) else self.decide(p, q)
            for p, q in zip(a[1:], b[1:], strict=True)
        ]

    def _built(self, tree: Tree) -> Any:
        return self.clock.within(0.1, self.build, tree)

    def _antiderivatives(self, one: Any, other: Any) -> bool | None:
        """Compare two antiderivatives up to a constant."""
        variables = {i.limits[0][0] for i in (one - other).atoms(sympy.Integral)}
        if len(variables) != 1:
            return None
        slopes = [each.diff(*variables) for each in (one, other)]
        if any(slope.has(*_OPEN) for slope in slopes):
            return None
        return self._closed(*slopes)

    def _estimates(self, one: Any, other: Any) -> bool | None:
        """Compare expressions without closed form numerically."""
        if (one - other).free_symbols or self.decimal:
            return None
        for digits in (15, 50):
            x, y = (self.clock.within(0.45, estimate, each, digits) for each in (one, other))
            if x is None or y is None:
                return None
            if far(x, y):
                return False
        return True if near(x, y, 40) else None

    def _closed(self, one: Any, other: Any) -> bool | None:
        """Compare expressions without sums, integrals and limits."""
        difference = one - other
        if difference.is_zero:
            return True
        if difference.is_Rational and not self.decimal:
            return False
        if self.clock.within(0.15, self._differ, one, other):
            return False
        if self.clock.within(0.25, simplifies_to_zero, difference):
            return True
        if difference.free_symbols or self.decimal:
            return None
        return self.clock.within(0.15, lambda: difference.equals(S.Zero))

    def _differ(self, one: Any, other: Any) -> bool:
        symbols = sorted((one - other).free_symbols, key=str)
        for point in points(symbols):
            x, y = value(one.subs(point)), value(other.subs(point))
            if x is None or y is None:
                continue
            real = x.is_real and y.is_real
            if (real or self.complex or not symbols) and self._apart(x, y):
                return True
        return False

    def _apart(self, x: Any, y: Any) -> bool:
        # The grading rules, not algebra, decide how close a rounded decimal must be.
        return far(x, y) and not (self.decimal and near(x, y, 2))


def closed(expression: Any) -> Any:
    """Return `expression` evaluated, for the case that it converges and parameters are generic.

    Raises:
        NotSympy: the expression has no value.
    """
    if not expression.has(*_OPEN):
        return expression
    done = expression.doit(conds="none").replace(
        lambda e: isinstance(e, sympy.Piecewise), _general_case
    )
    if done.has(S.NaN, S.ComplexInfinity, sympy.AccumBounds):
        raise NotSympy("no value")
    return done


def simplifies_to_zero(difference: Any) -> bool:
    """Return whether `difference` simplifies to 0, with cheap methods first."""
    steps = (sympy.expand, sympy.together, sympy.simplify)
    if any(step(difference) == 0 for step in steps):
        return True
    real = [symbol for symbol in difference.free_symbols if symbol.is_positive is None]
    if not 0 < len(real) <= _MOST_SIGNS or not difference.has(sympy.Abs, sympy.sign, sympy.Pow):
        return False
    for signs in product((1, -1), repeat=len(real)):  # |x| is x, then -x
        halves = {
            symbol: sign * sympy.Symbol(f"{symbol} above 0", positive=True)
            for symbol, sign in zip(real, signs, strict=True)
        }
        if sympy.simplify(difference.subs(halves)) != 0:
            return False
    return True


def not_equal(one: Any, other: Any) -> bool | None:
    """Return False if two elements are different numbers, else None."""
    x, y = value(one), value(other)
    return False if x is not None and y is not None and far(x, y) else None


def _is_chain(tree: Tree, other: Tree) -> bool:
    named = tree[0] == "rel" and tree[1][0] in ("var", "call")
    return tree[0] == "rel" != other[0] and (len(tree) > 4 or (tree[2] == "=" and not named))


def _bare(tree: Tree, other: Tree) -> Tree:
    """Return the value of `x = 5` for comparison with a value, or the 5 of `5 cm` with 5 or 6 cm.

    Earlier stages have decided whether these are the same kind of answer.
    """
    inner: Tree = tree
    if tree[0] == "rel" and other[0] != "rel" and len(tree) == 4 and tree[2] == "=":
        inner = tree[3] if tree[1][0] in ("var", "call") else tree
    elif tree[0] == "unit" and (other[0] != "unit" or other[2] == tree[2]):
        inner = tree[1]
    return inner


def _names_values(items: Tree) -> bool:
    """Return whether a list names its values; compared with bare values, order matters."""
    return any(item[0] == "rel" for item in items[1:])


def _general_case(piecewise: Any) -> Any:
    """Return the case in which a sum converges (|x| < 1), or the generic exponent (n != -1)."""
    cases = [case for case in piecewise.args if not case.expr.has(*_OPEN)]
    if not cases:
        return piecewise
    if len(cases) == 1 or isinstance(cases[0].cond, sympy.Ne):
        return cases[0].expr
    return piecewise


def _infinities(x: Any, y: Any) -> bool | None:
    if x.is_infinite and y.is_infinite:
        return bool(x == y)
    finite = y if x.is_infinite else x
    return False if value(finite) is not None else None
