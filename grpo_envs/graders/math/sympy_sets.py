"""Sets in sympy: intervals, unions, sets with a condition. Only workers import this."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import sympy
from sympy import S

from grpo_envs.graders.math.sympy_build import Builder, NotSympy, Tree

SET_KINDS = frozenset({"set", "union", "inter", "minus", "setbuilder"})
_NUMBERS = {"R": S.Reals, "Q": S.Rationals, "Z": S.Integers, "C": S.Complexes}
_JOINS = {"union": sympy.Union, "inter": sympy.Intersection}
_INEQUALITIES = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge}
_MOST_ELEMENTS = 20
_BOUND = sympy.Dummy("n")

Same = Callable[[Any, Any], bool | None]


def is_set(tree: Tree) -> bool:
    """Return whether `tree` can only be a set."""
    return tree[0] in SET_KINDS or (tree[0] == "const" and tree[1] in (*_NUMBERS, "N"))


class SetBuilder:
    """Turns trees into sympy sets."""

    def __init__(self, build: Builder, naturals: Any) -> None:
        """Build elements with `build`; `naturals` is the set N, with or without 0."""
        self.build = build
        self.naturals = naturals

    def __call__(self, tree: Tree) -> Any:
        """Return the set of `tree`.

        Raises:
            NotSympy: the set is not supported.
        """
        kind, *parts = tree
        if kind == "const" and is_set(tree):
            return _NUMBERS.get(parts[0], self.naturals)
        if kind in ("set", "list"):
            return sympy.FiniteSet(*(self._element(part) for part in parts))
        if kind == "tuple" and len(parts) == 4:
            low, high = self._element(parts[2]), self._element(parts[3])
            return sympy.Interval(low, high, parts[0] == "(", parts[1] == ")")
        if kind in _JOINS:
            return _JOINS[kind](*map(self, parts))
        if kind == "minus":
            return sympy.Complement(self(parts[0]), self(parts[1]))
        if kind == "rel":
            return self._solutions([tree], self._only_variable(tree))
        if kind == "setbuilder":
            return self._described(parts[0], parts[1:])
        raise NotSympy(kind)

    def _element(self, tree: Tree) -> Any:
        return self.build(tree).doit()

    def _only_variable(self, tree: Tree) -> Any:
        names = set(self.build.names(tree))
        if len(names) != 1:
            raise NotSympy("several variables")
        return self.build.free[names.pop()]

    def _described(self, element: Tree, conditions: Sequence[Tree]) -> Any:
        if element[0] == "rel" and element[2] == "in":  # {x in R | ...}
            conditions = [element, *conditions]
            element = element[1]
        symbol = self._only_variable(element)
        inside = self._solutions(conditions, symbol)
        if element[0] == "var":
            return inside
        return _image(symbol, self.build(element), inside)

    def _solutions(self, conditions: Sequence[Tree], symbol: Any) -> Any:
        found = [self._where(condition, symbol) for condition in conditions]
        return sympy.Intersection(S.Reals, *found)

    def _where(self, condition: Tree, symbol: Any) -> Any:
        """Return the set of real numbers for which `condition` holds."""
        kind, *parts = condition
        if kind == "congruent":
            left, right, modulus = self.build.each(parts, {})
            if left != symbol or not (right.is_Integer and modulus.is_Integer and modulus > 0):
                raise NotSympy("a congruence")
            return _image(symbol, modulus * symbol + right, S.Integers)
        if kind != "rel":
            raise NotSympy(kind)
        steps = range(0, len(parts) - 2, 2)
        return sympy.Intersection(*(self._holds(parts[i : i + 3], symbol) for i in steps))

    def _holds(self, relation: Sequence[Any], symbol: Any) -> Any:
        left, operator, right = relation
        if operator in ("in", "notin"):
            if self.build(left) != symbol:
                raise NotSympy("an element")
            within = self(right)
            return within if operator == "in" else sympy.Complement(S.Reals, within)
        one, other = self.build(left), self.build(right)
        if one.free_symbols | other.free_symbols != {symbol}:
            raise NotSympy("several variables")
        if operator in _INEQUALITIES:
            relation = _INEQUALITIES[operator](one, other)
            if relation in (sympy.true, sympy.false):
                return S.Reals if relation == sympy.true else S.EmptySet
            return sympy.solve_univariate_inequality(relation, symbol, relational=False)
        if operator in ("=", "!="):
            roots = sympy.solveset(one - other, symbol, S.Reals)
            return roots if operator == "=" else sympy.Complement(S.Reals, roots)
        raise NotSympy(operator)


def sets_equal(one: Any, other: Any, same: Same) -> bool | None:
    """Return whether two sets are equal: by elements, by inclusion, or by a counterexample."""
    if one == other:
        return True
    if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
        return elements_equal(list(one), list(other), same)
    if any(_holds_one_only(one, other, witness) for witness in _witnesses(one, other)):
        return False
    both = one.is_subset(other) and other.is_subset(one)
    return True if both else None


def elements_equal(one: list[Any], other: list[Any], same: Same) -> bool | None:
    """Match elements in any order; None if a match is undecided."""
    if max(len(one), len(other)) > _MOST_ELEMENTS:
        return None
    unsure = False
    rest = list(other)
    for element in one:
        verdicts = [same(element, candidate) for candidate in rest]
        if True in verdicts:
            del rest[verdicts.index(True)]
        elif None not in verdicts:
            return False
        else:
            unsure = True
    return None if unsure else not rest


def _image(symbol: Any, expression: Any, inside: Any) -> Any:
    # The same bound variable for all: sympy takes {2k} and {2n} for different sets.
    return sympy.imageset(sympy.Lambda(_BOUND, expression.subs(symbol, _BOUND)), inside)


def _witnesses(one: Any, other: Any) -> list[Any]:
    ends: list[Any] = []
    for each in (one, other):
        with suppress(NotImplementedError):  # for a lattice, for example
            if isinstance(each.boundary, sympy.FiniteSet):
                ends += [end for end in each.boundary if end.is_real]
    ends = sorted(set(ends), key=float)
    between = [(low + high) / 2 for low, high in pairwise(ends)]
    grid = [sympy.Rational(n, 2) for n in range(-24, 25)]
    return [*ends, *between, *grid, S.Pi, sympy.sqrt(2)]


def _holds_one_only(one: Any, other: Any, witness: Any) -> bool:
    verdicts = {one.contains(witness), other.contains(witness)}
    return verdicts == {sympy.true, sympy.false}
