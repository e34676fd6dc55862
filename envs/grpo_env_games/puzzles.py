"""Countdown's puzzles: numbers, a reachable target, and one way to make it."""

import random
from dataclasses import dataclass
from itertools import combinations, pairwise

from grpo_envs.errors import ConfigError, require

OPERATORS = "+-*/"
LARGEST_TARGET = 999
_MOST_TRIES = 20_000
_POWER = {"+": 1, "-": 1, "*": 2, "/": 2}
_ALONE = 3  # a single number never needs parentheses


@dataclass(frozen=True, slots=True, kw_only=True)
class CountdownRecipe:
    """The settings of a level's puzzles."""

    numbers: int
    """How many numbers are given."""
    values: list[int]
    """[least, most] of a number."""
    operators: str

    def __post_init__(self) -> None:
        """Refuse values that allow no puzzle."""
        whole = type(self.numbers) is int and 2 <= self.numbers <= 6
        require(whole, "env.numbers", self.numbers, "2 to 6")
        pair = isinstance(self.values, list | tuple) and [type(v) for v in self.values] == [int] * 2
        in_range = pair and 1 <= self.values[0] <= self.values[1] <= LARGEST_TARGET
        require(in_range, "env.values", self.values, f"[least, most] within 1 to {LARGEST_TARGET}")
        known = isinstance(self.operators, str) and set(self.operators) <= set(OPERATORS)
        allowed = f"some of {OPERATORS}"
        require(known and bool(self.operators), "env.operators", self.operators, allowed)


LEVELS = {
    1: CountdownRecipe(numbers=3, values=[10, 30], operators="+-"),
    2: CountdownRecipe(numbers=4, values=[1, 50], operators="+-"),
    3: CountdownRecipe(numbers=3, values=[1, 20], operators="+-*"),
    4: CountdownRecipe(numbers=4, values=[1, 25], operators="+-*/"),
    5: CountdownRecipe(numbers=6, values=[1, 100], operators="+-*/"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """The given numbers, the target, one answer and its steps."""

    numbers: tuple[int, ...]
    target: int
    answer: str
    work: str
    """One step per line, e.g. `3*4=12`, `12+5=17`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the expression that makes the target."""

    value: int
    text: str
    power: int = _ALONE
    """The precedence of its last operator."""
    work: tuple[str, ...] = ()


def generate(rng: random.Random, recipe: CountdownRecipe) -> Puzzle:
    """Make a puzzle whose target is not one of its numbers.

    Raises:
        ConfigError: no puzzle was found.
    """
    sums = "+" in recipe.operators and set(recipe.operators) <= set("+-")
    for _ in range(_MOST_TRIES):
        numbers = tuple(rng.randint(*recipe.values) for _ in range(recipe.numbers))
        made = (_signed if sums else _combined)(rng, numbers, recipe.operators)
        if made and 0 < made.value <= LARGEST_TARGET and made.value not in numbers:
            work = "\n".join(made.work)
            return Puzzle(numbers=numbers, target=made.value, answer=made.text, work=work)
    raise ConfigError(
        f"env.numbers={recipe.numbers}, env.values={recipe.values}, "
        f"env.operators={recipe.operators!r}: no target can be made."
    )


def _signed(rng: random.Random, numbers: tuple[int, ...], operators: str) -> Part:
    """Add some numbers and subtract the others, at most half of them, so no search is needed.

    The steps find the subtracted numbers: the total minus the target is twice their sum.
    """
    places = range(len(numbers))
    most = len(numbers) // 2 if "-" in operators else 0
    chosen = rng.choice([some for n in range(most + 1) for some in combinations(places, n)])
    plus = [numbers[i] for i in places if i not in chosen]
    minus = [numbers[i] for i in chosen]
    total, value = sum(numbers), sum(plus) - sum(minus)
    work = _running(numbers)
    if minus:
        twice = total - value
        work += [f"{total}-{value}={twice}", f"{twice}/2={twice // 2}", *_running(minus)]
    text = "+".join(map(str, plus)) + "".join(f"-{number}" for number in minus)
    return Part(value=value, text=text, work=tuple(work))


def _running(numbers: list[int] | tuple[int, ...]) -> list[str]:
    """Return the steps of a sum."""
    sums = [sum(numbers[: i + 1]) for i in range(len(numbers))]
    steps = zip(pairwise(sums), numbers[1:], strict=True)
    return [f"{before}+{number}={after}" for (before, after), number in steps]


def _combined(rng: random.Random, numbers: tuple[int, ...], operators: str) -> Part | None:
    """Join two parts at a time; by the rules all intermediate values are whole numbers above 0."""
    parts = [Part(value=number, text=str(number)) for number in numbers]
    while len(parts) > 1:
        left = parts.pop(rng.randrange(len(parts)))
        right = parts.pop(rng.randrange(len(parts)))
        joined = _joined(left, right, rng.choice(operators))
        if joined is None:
            return None
        parts.append(joined)
    return parts[0]


def _joined(left: Part, right: Part, sign: str) -> Part | None:
    if sign in "-/" and left.value < right.value:
        left, right = right, left
    if (sign == "-" and left.value == right.value) or (sign == "/" and left.value % right.value):
        return None
    a, b = left.value, right.value
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
    power = _POWER[sign]
    step = f"{a}{sign}{b}={value}"
    text = _within(left, power) + sign + _within(right, power + (sign in "-/"))
    return Part(value=value, text=text, power=power, work=(*left.work, *right.work, step))


def _within(part: Part, power: int) -> str:
    return part.text if part.power >= power else f"({part.text})"
