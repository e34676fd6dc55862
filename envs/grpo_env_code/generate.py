"""Small functions to write, by level: the task, a program that solves it, and calls that test it.

Levels 1 and 2 are described in words or, two times in three, by two values that determine the
constants.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

VISIBLE, HIDDEN = 2, 6
_COMMON = HIDDEN // 3
"""The most hidden calls with the same value: a function that ignores its input must not pay."""
_LETTERS = "abcdefgh"

Inputs = Callable[[random.Random], tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A function to write."""

    text: str
    program: str
    work: str
    """The steps from given values to the constants, a line each; '' if there are none."""
    calls: tuple[tuple[tuple[Any, ...], Any], ...]
    """Arguments and value; the first VISIBLE of them may be shown to the policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A function before its calls are drawn."""

    arguments: str
    text: str
    expression: str
    function: Callable[..., Any]
    inputs: Inputs
    work: str = ""
    given: tuple[tuple[Any, ...], ...] = ()
    """Arguments whose values are in the text."""
    edges: tuple[tuple[Any, ...], ...] = ()
    """Arguments at a boundary, which the hidden calls always have."""


Family = Callable[[random.Random], Plan]


def generate(rng: random.Random, level: int) -> Exercise:
    """Make an exercise of `level` (a key of LEVELS)."""
    while True:
        plan = rng.choice(LEVELS[level])(rng)
        calls = _calls(rng, plan)
        if calls is not None:
            break
    return Exercise(
        text=f"Write f({plan.arguments}){plan.text}.",
        program=f"def f({plan.arguments}):\n    return {plan.expression}",
        work=plan.work,
        calls=calls,
    )


def _calls(rng: random.Random, plan: Plan) -> tuple[tuple[tuple[Any, ...], Any], ...] | None:
    """Return calls with different arguments; None if too many of them have the same value."""
    args = list(plan.given)
    for _ in range(100):
        drawn = plan.inputs(rng)
        if drawn not in (*args, *plan.edges):
            args.append(drawn)
        if len(args) == VISIBLE + HIDDEN - len(plan.edges):
            break
    args[VISIBLE:VISIBLE] = plan.edges
    values = [plan.function(*given) for given in args]
    common = Counter(map(repr, values[VISIBLE:])).most_common(1)[0][1]
    if len(args) < VISIBLE + HIDDEN or common > _COMMON:
        return None
    return tuple(zip(args, values, strict=True))


# Inputs


def _ints(count: int) -> Inputs:
    return lambda rng: tuple(rng.randint(-20, 40) for _ in range(count))


def _list(rng: random.Random) -> tuple[list[int]]:
    return ([rng.randint(-9, 30) for _ in range(rng.randint(10, 12))],)


def _string(rng: random.Random) -> tuple[str]:
    return ("".join(rng.choices(_LETTERS, k=rng.randint(3, 12))),)


# Level 1 and 2: arithmetic of one and of two arguments


def _linear(rng: random.Random) -> Plan:
    a, b, sign = rng.randint(2, 20), rng.randint(1, 30), rng.choice([1, -1])
    return Plan(
        arguments="x",
        text=f": x times {a} {'plus' if sign > 0 else 'minus'} {b}",
        expression=f"{a}*x{'+' if sign > 0 else '-'}{b}",
        function=lambda x: a * x + sign * b,
        inputs=_ints(1),
    )


def _linear_by_values(rng: random.Random) -> Plan:
    a, b, x, step = rng.randint(2, 9), rng.randint(1, 30), rng.randint(1, 6), rng.randint(1, 5)
    first, second = a * x + b, a * (x + step) + b
    return Plan(
        arguments="x",
        text=f" = a*x+b with f({x})={first}, f({x + step})={second}",
        expression=f"{a}*x+{b}",
        function=lambda x: a * x + b,
        inputs=_ints(1),
        work=f"{second - first}/{step}={a}\n{a}*{x}={a * x}\n{first}-{a * x}={b}",
        given=((x,), (x + step,)),
    )


def _two_arguments(rng: random.Random) -> Plan:
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    text, expression, function = rng.choice(
        [
            (f"x times {a} plus y", f"{a}*x+y", lambda x, y: a * x + y),
            (f"x minus y times {a}", f"x-{a}*y", lambda x, y: x - a * y),
            (f"x times y plus {a}", f"x*y+{a}", lambda x, y: x * y + a),
            (f"the sum of x and y, times {a}", f"{a}*(x+y)", lambda x, y: a * (x + y)),
            (f"x times {a} minus y times {b}", f"{a}*x-{b}*y", lambda x, y: a * x - b * y),
        ]
    )
    return Plan(
        arguments="x, y",
        text=f": {text}",
        expression=expression,
        function=function,
        inputs=_ints(2),
    )


def _two_arguments_by_values(rng: random.Random) -> Plan:
    a, b, x = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 6)
    y, step = rng.randint(2, 5), rng.randint(1, 4)
    first, second = a * x + b * y, a * (x + step) + b * y
    rest = f"{a}*{x}={a * x}\n{first}-{a * x}={b * y}\n{b * y}/{y}={b}"
    return Plan(
        arguments="x, y",
        text=f" = a*x+b*y with f({x},{y})={first}, f({x + step},{y})={second}",
        expression=f"{a}*x+{b}*y",
        function=lambda x, y: a * x + b * y,
        inputs=_ints(2),
        work=f"{second - first}/{step}={a}\n{rest}",
        given=((x, y), (x + step, y)),
    )


# Level 3: a choice of two values


def _either(rng: random.Random) -> Plan:
    a, b, c = rng.randint(1, 20), rng.randint(2, 9), rng.randint(0, 20)
    return Plan(
        arguments="x",
        text=f": x plus {a} if x is above {c}, else x times {b}",
        expression=f"x+{a} if x > {c} else {b}*x",
        function=lambda x: x + a if x > c else b * x,
        inputs=_ints(1),
        edges=((c,), (c + 1,)),
    )


def _extreme(rng: random.Random) -> Plan:
    a, b = rng.randint(2, 9), rng.randint(1, 40)
    word, name, pick = rng.choice([("larger", "max", max), ("smaller", "min", min)])
    return Plan(
        arguments="x, y",
        text=f": the {word} of x times {a} and y plus {b}",
        expression=f"{name}({a}*x, y+{b})",
        function=lambda x, y: pick(a * x, y + b),
        inputs=_ints(2),
    )


def _distance(rng: random.Random) -> Plan:
    a, b = rng.randint(2, 9), rng.randint(1, 40)
    return Plan(
        arguments="x",
        text=f": the distance of x times {a} from {b}",
        expression=f"abs({a}*x-{b})",
        function=lambda x: abs(a * x - b),
        inputs=_ints(1),
    )


# Level 4: lists and strings


def _of_list(rng: random.Random) -> Plan:
    n, k = rng.randint(2, 40), rng.randint(2, 8)
    text, expression, function = rng.choice(
        [
            (f"the first {k} items of xs", f"xs[:{k}]", lambda xs: xs[:k]),
            (f"the last {k} items of xs", f"xs[-{k}:]", lambda xs: xs[-k:]),
            (f"xs without its first {k} items", f"xs[{k}:]", lambda xs: xs[k:]),
            (f"the sum of xs plus {n}", f"sum(xs)+{n}", lambda xs: sum(xs) + n),
            (f"the sum of xs times {n}", f"{n}*sum(xs)", lambda xs: n * sum(xs)),
            (f"the {k} largest of xs, sorted", f"sorted(xs)[-{k}:]", lambda xs: sorted(xs)[-k:]),
            (f"xs reversed, then {n}", f"xs[::-1]+[{n}]", lambda xs: [*xs[::-1], n]),
        ]
    )
    return Plan(
        arguments="xs", text=f": {text}", expression=expression, function=function, inputs=_list
    )


def _of_string(rng: random.Random) -> Plan:
    k, (old, new) = rng.randint(2, 9), rng.sample(_LETTERS, 2)
    text, expression, function = rng.choice(
        [
            (f"s repeated {k} times", f"s*{k}", lambda s: s * k),
            (f"s reversed, {k} times", f"s[::-1]*{k}", lambda s: s[::-1] * k),
            (f'"{old}{new}", then s in capitals', f'"{old}{new}"+s.upper()', _capitals(old + new)),
            (
                f'the letters of s in order, then "{new}{old}"',
                f'"".join(sorted(s))+"{new}{old}"',
                lambda s: "".join(sorted(s)) + new + old,
            ),
        ]
    )
    return Plan(
        arguments="s", text=f": {text}", expression=expression, function=function, inputs=_string
    )


def _capitals(head: str) -> Callable[[str], str]:
    return lambda s: head + s.upper()


# Level 5: all items, or those that meet a condition


def _each(rng: random.Random) -> Plan:
    a, b = rng.randint(2, 9), rng.randint(1, 20)
    return Plan(
        arguments="xs",
        text=f": each item of xs times {a} plus {b}",
        expression=f"[{a}*x+{b} for x in xs]",
        function=lambda xs: [a * x + b for x in xs],
        inputs=_list,
    )


def _those(rng: random.Random) -> Plan:
    n, k = rng.randint(0, 20), rng.randint(2, 5)
    what, test, keep = rng.choice(_tests_of_items(n, k))
    text, expression, function = rng.choice(
        [
            (f"the items of xs {what}", f"[x for x in xs if {test}]", lambda kept: kept),
            (f"the sum of the items of xs {what}", f"sum(x for x in xs if {test})", sum),
            (
                f"the squares of the items of xs {what}",
                f"[x*x for x in xs if {test}]",
                lambda kept: [x * x for x in kept],
            ),
        ]
    )
    return Plan(
        arguments="xs",
        text=f": {text}",
        expression=expression,
        function=lambda xs: function([x for x in xs if keep(x)]),
        inputs=_list,
    )


def _tests_of_items(n: int, k: int) -> list[tuple[str, str, Callable[[int], bool]]]:
    return [
        (f"above {n}", f"x > {n}", lambda x: x > n),
        (f"below {n}", f"x < {n}", lambda x: x < n),
        (f"divisible by {k}", f"x % {k} == 0", lambda x: x % k == 0),
    ]


LEVELS: dict[int, Sequence[Family]] = {
    1: (_linear, _linear_by_values, _linear_by_values),
    2: (_two_arguments, _two_arguments_by_values, _two_arguments_by_values),
    3: (_either, _extreme, _distance),
    4: (_of_list, _of_string),
    5: (_each, _those),
}
