"""Arithmetic with a worked solution: a question, its exact answer, and the steps to it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from grpo_envs.errors import ConfigError, require

OPERATORS = "+-*/="


@dataclass(frozen=True, slots=True, kw_only=True)
class MathRecipe:
    """The settings of a level's questions."""

    operators: str
    """Some of `+-*/`; `=` alone makes linear equations."""
    terms: list[int] = field(default_factory=lambda: [2, 4])
    """[least, most] terms that are added or subtracted; a product or quotient is one term."""
    digits: int = 2
    """The most digits of a number in the question (of divisor and quotient, not of a dividend)."""

    def __post_init__(self) -> None:
        """Refuse values that allow no question."""
        if not self.operators or any(op not in OPERATORS for op in self.operators):
            raise ConfigError(f"env.operators={self.operators!r}. Allowed: some of {OPERATORS}")
        if "=" in self.operators and self.operators != "=":
            raise ConfigError(f"env.operators={self.operators!r}: '=' stands alone.")
        pair = isinstance(self.terms, list | tuple) and [type(t) for t in self.terms] == [int, int]
        in_range = pair and 1 <= self.terms[0] <= self.terms[1] <= 20
        require(in_range, "env.terms", self.terms, "[least, most] within 1 to 20")
        if self.terms[0] < 2 and set(self.operators) <= set("+-"):
            raise ConfigError(f"env.terms={self.terms}: a sum needs at least 2 terms.")
        whole = type(self.digits) is int and 1 <= self.digits <= 15
        require(whole, "env.digits", self.digits, "1 to 15")


LEVELS = {
    1: MathRecipe(operators="+"),
    2: MathRecipe(operators="+-"),
    3: MathRecipe(operators="+-*", terms=[1, 3]),
    4: MathRecipe(operators="+-*/", terms=[1, 3]),
    5: MathRecipe(operators="="),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, its answer and the steps to it."""

    text: str
    gold: int
    work: str
    """One step per operation and line, e.g. `23+45=68`, `68+12=80`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A number, a product or an exact quotient."""

    text: str
    value: int
    work: tuple[str, ...] = ()


def generate(rng: random.Random, recipe: MathRecipe) -> Question:
    """Make one question."""
    if recipe.operators == "=":
        return _equation(rng, recipe)
    return _expression(rng, recipe)


def _expression(rng: random.Random, recipe: MathRecipe) -> Question:
    kinds = [_KINDS[op] for op in recipe.operators if op in _KINDS] + [_number]
    signs = [op for op in recipe.operators if op in "+-"]
    count = rng.randint(*recipe.terms) if signs else 1
    if count == 1 and len(kinds) > 1:
        kinds.remove(_number)  # "What is 7?" asks nothing
    terms = [rng.choice(kinds)(rng, recipe.digits) for _ in range(max(count, 1))]
    text, total = terms[0].text, terms[0].value
    work = [step for term in terms for step in term.work]
    for term in terms[1:]:
        sign = rng.choice(signs)
        before, total = total, total + (term.value if sign == "+" else -term.value)
        text += f"{sign}{term.text}"
        work.append(f"{before}{sign}{term.value}={total}")
    return Question(text=f"What is {text}?", gold=total, work="\n".join(work))


def _equation(rng: random.Random, recipe: MathRecipe) -> Question:
    """Make `a x + b = c` with a whole-number solution."""
    a = rng.randint(2, 9)
    x, b = _below(rng, recipe.digits), _below(rng, recipe.digits)
    sign, back = rng.choice([("+", "-"), ("-", "+")])
    c = a * x + (b if sign == "+" else -b)
    text = f"Solve {a}x{sign}{b}={c} for x."
    return Question(text=text, gold=x, work=f"{c}{back}{b}={a * x}\n{a * x}/{a}={x}")


def _number(rng: random.Random, digits: int) -> Term:
    value = _below(rng, digits)
    return Term(text=str(value), value=value)


def _product(rng: random.Random, digits: int) -> Term:
    a, b = rng.randint(2, 9), _below(rng, digits)
    return Term(text=f"{a}*{b}", value=a * b, work=(f"{a}*{b}={a * b}",))


def _quotient(rng: random.Random, digits: int) -> Term:
    a, b = rng.randint(2, 9), _below(rng, digits)
    return Term(text=f"{a * b}/{a}", value=b, work=(f"{a * b}/{a}={b}",))


def _below(rng: random.Random, digits: int) -> int:
    return rng.randrange(1, 10**digits)


_KINDS: dict[str, Callable[[random.Random, int], Term]] = {"*": _product, "/": _quotient}
