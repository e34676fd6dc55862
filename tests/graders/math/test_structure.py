"""How qualifiers, systems, numerals and chains are read, and which equations are solved."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_envs.graders.math import MathGrading
from grpo_envs.graders.math.evaluated import asks_for_value, is_evaluated, is_solved
from grpo_envs.graders.math.grade import _decide
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.parse import Unreadable, parse

EVALUATED = MathGrading(evaluated=True)
X, Y, K = ("var", "x"), ("var", "y"), ("var", "k")
K_PI: Node = ("mul", K, ("const", "pi"))


def num(digits: int) -> Node:
    return ("num", str(digits))


def equals(name: Node, digits: int) -> Node:
    return ("rel", name, "=", num(digits))


@pytest.mark.parametrize(
    ("text", "node"),
    [
        pytest.param(
            r"k\pi, k \in \mathbb{Z}", ("where", K_PI, ("param", "k", "Z", "")), id="a domain"
        ),
        pytest.param(
            r"k\pi \text{ where } k \ge 1", ("where", K_PI, ("param", "k", "N", "1")), id="a start"
        ),
        pytest.param(
            r"k\pi \text{ (k is an integer)}",
            ("where", K_PI, ("param", "k", "Z", "")),
            id="a domain in words",
        ),
        pytest.param(
            r"\begin{cases}x=3\\y=8\end{cases}",
            ("list", equals(X, 3), equals(Y, 8)),
            id="a system",
        ),
        pytest.param(
            r"\left\{\begin{array}{l}x=3\\[4pt]y=8.\end{array}\right.",
            ("list", equals(X, 3), equals(Y, 8)),
            id="a system behind a brace",
        ),
        pytest.param(
            r"\begin{aligned}x&=7\\&=8\end{aligned}",
            ("rel", X, "=", num(7), "=", num(8)),
            id="a chain over lines",
        ),
        pytest.param(r"\text{B7}_{12}", ("base", "B7", num(12)), id="a numeral in letters"),
        pytest.param("1A_{16}", ("base", "1A", num(16)), id="a numeral that ends in a letter"),
        pytest.param("A_{12}", ("var", "A_12"), id="an index"),
        pytest.param(r"\dot{x}_0'", ("var", "dot x_0'"), id="an accent, an index and a prime"),
        pytest.param(
            "||x||y||",
            ("fn", "abs", ("mul", ("fn", "abs", X), ("fn", "abs", Y))),
            id="bars alike",
        ),
        pytest.param("x 2^k", ("mul", X, ("pow", num(2), K)), id="a power behind a factor"),
        pytest.param(
            r"\begin{pmatrix}1&2\end{pmatrix}^T",
            ("transpose", ("matrix", ("row", num(1), num(2)))),
            id="a transpose",
        ),
        pytest.param(
            "P(x>2) = 1", ("rel", ("call", "P", ("rel", X, ">", num(2))), "=", num(1)), id="P of"
        ),
        pytest.param("30^\\circ 30'", ("deg", ("div", num(61), num(2))), id="arc"),
    ],
)
def test_it_reads(text: str, node: Node) -> None:
    assert parse(text) == node


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("2 5^2", id="two numbers, one with an exponent"),
        pytest.param("1/2 3^k", id="a power behind a quotient"),
        pytest.param(r"5 \text{ if } x > 0", id="a condition"),
        pytest.param(r"\begin{cases}x=3", id="a system that is not closed"),
        pytest.param(r"30^\circ 75'", id="75 minutes of arc"),
    ],
)
def test_what_is_not_read(text: str) -> None:
    with pytest.raises(Unreadable):
        parse(text)


@pytest.mark.parametrize("text", ["x = 4", "4 = x", "x > 2", "2 < x <= 9", "f(2) = 7", "|AB| = 5"])
def test_what_is_solved(text: str) -> None:
    assert is_solved(parse(text))


@pytest.mark.parametrize("text", ["2x = 8", "x^2 = 16", "x - 4 = 0", "4 < 2x < 6", "x + y = 1"])
def test_what_is_not_solved(text: str) -> None:
    assert not is_solved(parse(text))


@pytest.mark.parametrize(
    ("text", "asks", "evaluated"),
    [
        pytest.param("x = 4", True, True, id="a solution"),
        pytest.param("x^2 + y^2 = 49", False, True, id="a circle"),
        pytest.param(r"\frac{\pi}{4}", False, True, id="an angle"),
        pytest.param("10^4", False, True, id="a power of ten"),
        pytest.param("3:5", True, True, id="a ratio"),
        pytest.param("6:10", True, False, id="a ratio that is not reduced"),
        pytest.param(r"\{x \mid x > 6\}", True, True, id="a condition that is solved"),
        pytest.param(r"\{x \mid 2x > 12\}", False, False, id="a condition that is not"),
        pytest.param(r"(1,2) \cup (3,4)", True, True, id="a union"),
        pytest.param(r"(1,3) \cap (2,4)", False, False, id="an intersection"),
    ],
)
def test_what_asks_for_a_value_and_what_is_one(text: str, asks: bool, evaluated: bool) -> None:
    tree = parse(text)
    assert (asks_for_value(tree), is_evaluated(tree)) == (asks, evaluated)


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("x=4", "2x=8", "not solved"),
        ("9", "4+5=10", "the chain of equations contradicts itself"),
        ("9", "9=9", "the equation says nothing"),
        ("8", r"x \notin 8", "what is outside of it is not it"),
        ("3^k", r"3^m", "another value at a random point"),
        (
            r"k\pi, k\in\mathbb{Z}",
            r"k\pi, k\in\mathbb{N}",
            "a letter that stands for something else",
        ),
    ],
)
def test_the_reason_names_the_difference(gold: str, answer: str, reason: str) -> None:
    assert _decide(gold, answer, EVALUATED).comparison == (False, reason)


PIECES = (
    *("x", "y", "k", "i", "P", "C", "T", "B", "1", "2", "10", "+", "-", "/", "=", "<", ",", "!"),
    *("(", ")", "[", "]", "{", "}", "|", "^", "_", "'", "&", "\\\\", ":", "\\{", "\\}", " or "),
    *("\\in ", "\\notin ", "\\to ", "\\ne ", "\\approx ", "\\pm ", "\\mp ", "\\cup ", "\\ldots"),
    *("\\begin{cases}", "\\end{cases}", "\\begin{aligned}", "\\end{aligned}", "\\setminus "),
    *("\\begin{pmatrix}", "\\end{pmatrix}", "\\left\\{", "\\right.", "\\begin{array}{l}"),
    *("\\text{ where }", "\\text{ for all }", "\\text{no solution}", "\\text{B7}", "_{12}", "^T"),
    *("\\mathbb{Z}", "\\dot", "\\overline{x}", "\\max(", "\\operatorname{sgn}(", "\\lfloor "),
    *("\\rfloor ", "\\arg ", "\\frac{d}{dx}", "\\emptyset", "^\\circ", "\\log ", "\\infty", "e^"),
)
JUMBLES = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(JUMBLES, JUMBLES)
def test_no_jumble_makes_it_raise(gold: str, answer: str) -> None:
    for policy in (EVALUATED, MathGrading(unwrap=False, ordered=True)):
        first: Any = _decide(gold, answer, policy).comparison
        assert _decide(gold, gold, policy).comparison.equal is True
        assert first.equal in (True, False, None)
