"""Are two expressions the same function? Compared exactly if rational, else at random points."""

import random
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from grpo_envs.graders.math.comparison import EQUAL, UNKNOWN, Comparison, different, unknown
from grpo_envs.graders.math.evaluate import Env, Rational, Undefined, exact
from grpo_envs.graders.math.nodes import SYMPY_KINDS, Node, variables, walk
from grpo_envs.graders.math.numeric import System, numeric, rational

_SEED = 20_041
_MOST_VARIABLES = 12
_ENOUGH = 3  # points at which both sides exist
_DENOMINATOR = 10_007
# Range of the points' absolute values in each round, and whether signs are random.
_ROUNDS = (
    *((1.0, 3.0, 1), (0.1, 0.9, 1), (0.2, 3.0, -1), (3.0, 20.0, 1)),
    *((0.2, 3.0, 0), (0.1, 0.9, 0), (20.0, 90.0, 1), (3.0, 20.0, 0)),
)
_MANY_ROUNDS = 24  # where several variables can be ordered in many ways
_WHOLE_ROUNDS = 12
_FAR, _NEAR = 1e-6, 1e-35
_NOWHERE = (Undefined, ZeroDivisionError, OverflowError, ValueError)
# Piecewise functions: |x - y| is x - y at half of the points.
_MAY_BEND = frozenset({"root", "fn", "pow"})
_PIECEWISE = frozenset({"abs", "floor", "ceil", "sgn", "max", "min", "mod", "gcd", "lcm", "norm"})


def identical(left: Node, right: Node) -> Comparison:
    """Return whether two scalar expressions have the same value wherever both have one."""
    parts = walk(left, right)
    found = {part[0] for part in parts}
    names = tuple(sorted({part[1] for part in parts if part[0] == "var"}))
    if found & SYMPY_KINDS or len(names) > _MOST_VARIABLES:
        return unknown("beyond the symbolic stage")
    if not names:
        return _closed(left, right)
    if found & {"fact", "fact2", "binom"}:
        return _exactly(left, right, _whole_points(names))
    reach = _reach(parts) if found & _MAY_BEND else None
    points = _points(names, reach)
    comparison = _exactly(left, right, points[:_ENOUGH] if reach is None else points)
    if comparison.equal is None:
        comparison = _numerically(left, right, points)
    if comparison.equal is None:
        comparison = _exactly(left, right, _whole_points(names))
    return comparison


def value_of(node: Node) -> Fraction | None:
    """Return the exact value of a closed expression, or None."""
    try:
        value = exact(node, {})
    except Undefined:
        return None
    return None if value is None else Fraction(value)


def approximate(node: Node) -> float | None:
    """Return the value of a closed real expression as a float, or None."""
    if node == ("const", "inf"):
        return float("inf")
    if node == ("neg", ("const", "inf")):
        return float("-inf")
    try:
        return float(numeric(node, {}, System(15, real=True)))
    except _NOWHERE:
        return None


def proportional(left: Node, right: Node, *, positive: bool) -> Comparison:
    """Return whether `left` is `right` times a constant other than zero.

    Args:
        left: An expression; for an equation, the difference of its sides.
        right: Another one.
        positive: Whether the constant must be positive, as for inequalities.
    """
    names = tuple(variables(left, right))
    if not names:
        return unknown("an equation without variables")
    for point in _points(names):
        try:
            factor_left, factor_right = exact(left, point), exact(right, point)
        except Undefined:
            continue
        if factor_left and factor_right:
            break
    else:
        return _ratio(left, right, positive=positive)
    if positive and (factor_left > 0) != (factor_right > 0):
        return different("the inequality points the other way")
    scaled = [("mul", fraction(factor_right), left), ("mul", fraction(factor_left), right)]
    return identical(*scaled)


def fraction(value: Rational) -> Node:
    """Return an exact value as a node."""
    top: Node = ("num", str(abs(value.numerator)))
    node: Node = top if value.denominator == 1 else ("div", top, ("num", str(value.denominator)))
    return ("neg", node) if value < 0 else node


def _ratio(left: Node, right: Node, *, positive: bool) -> Comparison:
    """Return whether left / right is the same at several points; coefficients may be irrational."""
    numbers = System(50, real=True)
    ratios = []
    for point in _points(tuple(variables(left, right))):
        try:
            env = _env(point, numbers)
            ratios.append(numeric(left, env, numbers) / numeric(right, env, numbers))
        except _NOWHERE:
            continue
        if len(ratios) > _ENOUGH:
            break
    if len(ratios) < _ENOUGH or numbers.cancelled or not all(ratios):
        return UNKNOWN
    if any(abs(ratio - ratios[0]) > _NEAR * abs(ratios[0]) for ratio in ratios):
        return different("not the same relation")
    if positive and ratios[0] < 0:
        return different("the inequality points the other way")
    return EQUAL


def _closed(left: Node, right: Node) -> Comparison:
    try:
        values = exact(left, {}), exact(right, {})
    except Undefined:
        return unknown("not defined")
    if None not in values:
        return EQUAL if values[0] == values[1] else different("another value")
    return _numerically(left, right, [{}])


def _reach(parts: list[Node]) -> float | None:
    """Return how far out the pieces of a function may meet; None if no function is piecewise."""
    bent = any(
        part[0] == "root"
        or (part[0] == "fn" and part[1] in _PIECEWISE)
        or (part[0] == "pow" and part[2][0] not in ("num", "var"))
        for part in parts
    )
    if not bent:
        return None
    return max((float(part[1][:7]) for part in parts if part[0] == "num"), default=1.0)


@lru_cache(maxsize=256)
def _points(names: tuple[str, ...], reach: float | None = None) -> Sequence[Env]:
    rng = random.Random(_SEED)
    rounds = list(_ROUNDS)
    if reach is not None:
        rounds += [(1.1 * reach, 3.0 * reach, 1), (1.1 * reach, 3.0 * reach, -1)]
    if reach is not None and len(names) > 1:
        rounds += _ROUNDS * (_MANY_ROUNDS // len(_ROUNDS))
    points: list[Env] = []
    for low, high, sign in rounds:
        point = {}
        for name in names:
            size = Fraction(int(rng.uniform(low, high) * _DENOMINATOR), _DENOMINATOR)
            point[name] = size * (sign or rng.choice((1, -1)))
        points.append(point)
    return points


@lru_cache(maxsize=256)
def _whole_points(names: tuple[str, ...]) -> Sequence[Env]:
    rng = random.Random(_SEED)
    points: list[Env] = []
    for number in range(_WHOLE_ROUNDS):  # the first variable is odd and even by turns
        rest = {name: rng.randint(1, 12) for name in names[1:]}
        points.append({names[0]: 2 * rng.randint(1, 8) + number % 2, **rest})
    return points


def _exactly(left: Node, right: Node, points: Sequence[Env]) -> Comparison:
    """Compare rational values; three points decide, because they are random."""
    defined = 0
    for point in points:
        try:
            here, there = exact(left, point), exact(right, point)
        except Undefined:
            continue
        if here is None or there is None:
            return UNKNOWN
        if here != there:
            return different("another value at a random point")
        defined += 1
    return EQUAL if defined >= min(_ENOUGH, len(points)) else UNKNOWN


def _numerically(left: Node, right: Node, points: Sequence[Env]) -> Comparison:
    real = ("const", "i") not in walk(left, right)
    good = []
    numbers = System(15, real=real)
    for point in points:
        numbers.cancelled = False
        try:
            env = _env(point, numbers)
            here, there = numeric(left, env, numbers), numeric(right, env, numbers)
        except _NOWHERE:
            continue
        if not abs(here - there) < float("inf"):
            continue
        far = abs(here - there) > _FAR * max(abs(here), abs(there))
        if far and not numbers.cancelled:
            return different("another value" if not point else "another value at a random point")
        good.append(point)
    if not points[0]:
        return _precisely(left, right, {}, real=real)  # double may overflow
    if len(good) < _ENOUGH:
        return unknown("no common domain was found")
    for point in good[:2]:
        comparison = _precisely(left, right, point, real=real)
        if not comparison.equal:
            return comparison
    return EQUAL


def _precisely(left: Node, right: Node, point: Env, *, real: bool) -> Comparison:
    for digits in (50, 250):
        numbers = System(digits, real=real)
        try:
            env = _env(point, numbers)
            here, there = numeric(left, env, numbers), numeric(right, env, numbers)
        except _NOWHERE:
            return unknown("no value that can be trusted")
        largest = max(abs(here), abs(there))
        if not numbers.cancelled:
            same = abs(here - there) <= _NEAR * largest
            return EQUAL if same else different("another value")
    return EQUAL if abs(here - there) <= _NEAR * largest else different("another value")


def _env(point: Env, numbers: System) -> dict[str, Any]:
    return {name: rational(value, numbers) for name, value in point.items()}
