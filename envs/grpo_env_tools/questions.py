"""Arithmetic that is hard to do in the head."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from grpo_envs.errors import require

OPERATORS = "+-*/("


@dataclass(frozen=True, slots=True, kw_only=True)
class CalculatorRecipe:
    """The settings of a level's questions."""

    operators: str
    """Kinds of terms, `*`, `/` and `(` for a sum times a number, and the `+-` between them."""
    terms: int
    """Terms that are added or subtracted."""
    digits: int
    """Digits of a number (of divisor and quotient, not of a dividend)."""

    def __post_init__(self) -> None:
        """Refuse values that allow no question."""
        known = isinstance(self.operators, str) and set(self.operators) <= set(OPERATORS)
        allowed = f"some of {OPERATORS}"
        require(known and bool(self.operators), "env.operators", self.operators, allowed)
        whole = type(self.terms) is int and 1 <= self.terms <= 10
        require(whole, "env.terms", self.terms, "1 to 10")
        one = self.terms == 1 or set(self.operators) & set("+-")
        require(bool(one), "env.terms", self.terms, "1, as env.operators has neither + nor -")
        some = self.terms > 1 or set(self.operators) & set("*/(")
        require(bool(some), "env.terms", self.terms, "2 to 10, as env.operators has only + and -")
        whole = type(self.digits) is int and 1 <= self.digits <= 9
        require(whole, "env.digits", self.digits, "1 to 9")


LEVELS = {
    1: CalculatorRecipe(operators="+-*", terms=2, digits=2),
    2: CalculatorRecipe(operators="+-*", terms=2, digits=3),
    3: CalculatorRecipe(operators="+-*(", terms=3, digits=3),
    4: CalculatorRecipe(operators="+-*/(", terms=4, digits=4),
    5: CalculatorRecipe(operators="+-*/(", terms=6, digits=6),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An expression and its value."""

    text: str
    value: int


def generate(rng: random.Random, recipe: CalculatorRecipe) -> Question:
    """Make an expression; at least one term is not a single number, if the recipe allows it."""
    kinds = [_KINDS[kind] for kind in recipe.operators if kind in _KINDS]
    signs = [sign for sign in recipe.operators if sign in "+-"]
    hard = rng.randrange(recipe.terms)
    text, total = "", 0
    for i in range(recipe.terms):
        plain = not kinds or (i != hard and rng.random() < 0.5)
        term = (_number if plain else rng.choice(kinds))(rng, recipe.digits)
        sign = rng.choice(signs) if i else ""
        text += sign + term.text
        total += -term.value if sign == "-" else term.value
    return Question(text=text, value=total)


def _of(rng: random.Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1) + (digits == 1), 10**digits)


def _number(rng: random.Random, digits: int) -> Question:
    value = _of(rng, digits)
    return Question(text=str(value), value=value)


def _product(rng: random.Random, digits: int) -> Question:
    a, b = _of(rng, digits), _of(rng, digits)
    return Question(text=f"{a}*{b}", value=a * b)


def _quotient(rng: random.Random, digits: int) -> Question:
    a, b = _of(rng, max(1, digits - 1)), _of(rng, digits)
    return Question(text=f"{a * b}/{a}", value=b)


def _grouped(rng: random.Random, digits: int) -> Question:
    a, b, c = _of(rng, digits), _of(rng, digits), _of(rng, max(1, digits - 1))
    sign = rng.choice("+-")
    return Question(text=f"({a}{sign}{b})*{c}", value=(a + b if sign == "+" else a - b) * c)


_KINDS: dict[str, Callable[[random.Random, int], Question]] = {
    "*": _product,
    "/": _quotient,
    "(": _grouped,
}
