"""The symbolic stage: what is read, what is the same, and what must never look the same."""

import inspect
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grpo_envs.graders.math import DEFAULT, MathGrading, grade, grade_many, workers
from grpo_envs.graders.math.compare import compare
from grpo_envs.graders.math.evaluate import Undefined, exact
from grpo_envs.graders.math.golds import gold_tree
from grpo_envs.graders.math.grade import _VERDICTS, _decide
from grpo_envs.graders.math.nodes import Node, walk
from grpo_envs.graders.math.parse import Unreadable, parse

# The same examples in every run; no deadline, because a busy machine is no defect.
PROPERTY = settings(max_examples=200, deadline=None, derandomize=True)


def same(gold: str, answer: str, **grading: Any) -> bool | None:
    """What the first three stages find; None where they leave it to sympy."""
    decision = _decide(gold, answer, MathGrading(**grading))
    return decision.comparison.equal


# What is read


def num(digits: int | str) -> Node:
    return ("num", str(digits))


def var(name: str) -> Node:
    return ("var", name)


X, Y = var("x"), var("y")
HALF: Node = ("div", num(1), num(2))


@pytest.mark.parametrize(
    ("text", "node"),
    [
        pytest.param("1 - 2x", ("add", num(1), ("neg", ("mul", num(2), X))), id="a difference"),
        pytest.param("-x^2", ("neg", ("pow", X, num(2))), id="minus a square"),
        pytest.param("2^{10}", ("pow", num(2), num(10)), id="a braced exponent"),
        pytest.param("2^10", ("pow", num(2), num(10)), id="an exponent of two digits"),
        pytest.param(
            "2^3^2", ("pow", num(2), ("pow", num(3), num(2))), id="powers group to the right"
        ),
        pytest.param("x^-1", ("pow", X, ("neg", num(1))), id="a negative exponent"),
        pytest.param("1/2x", ("mul", HALF, X), id="a quotient times a name"),
        pytest.param(r"\frac12x", ("mul", HALF, X), id="a fraction times a name"),
        pytest.param(r"2\frac12", ("div", num(5), num(2)), id="a mixed number"),
        pytest.param("2 1/2", ("div", num(5), num(2)), id="a mixed number in plain text"),
        pytest.param(
            r"2\frac{x}{2}", ("mul", num(2), ("div", X, num(2))), id="no mixed number: a product"
        ),
        pytest.param(
            r"2^3\frac12", ("mul", ("pow", num(2), num(3)), HALF), id="no mixed number: a power"
        ),
        pytest.param(r"\sqrt 2", ("root", num(2), num(2)), id="a root without braces"),
        pytest.param(r"\sqrt[3]{x}", ("root", X, num(3)), id="a cube root"),
        pytest.param("√3", ("root", num(3), num(2)), id="a root sign"),
        pytest.param(r"\sin^2 x", ("pow", ("fn", "sin", X), num(2)), id="the square of a function"),
        pytest.param(r"\sin^{-1} x", ("fn", "arcsin", X), id="an inverse function"),
        pytest.param(
            r"\sin 2x \cos y",
            ("mul", ("fn", "sin", ("mul", num(2), X)), ("fn", "cos", Y)),
            id="an argument ends at the next function",
        ),
        pytest.param(r"\log_2 x", ("fn", "log", X, num(2)), id="a base"),
        pytest.param("f(2)", ("call", "f", num(2)), id="a value of f"),
        pytest.param("a(2)", ("mul", var("a"), num(2)), id="a product with a"),
        pytest.param("x_1 x_{n+1}", ("mul", var("x_1"), var("x_n+1")), id="subscripts"),
        pytest.param("101_2", ("base", "101", num(2)), id="a base-2 number"),
        pytest.param(r"0.1\overline{6}", ("repeat", "0.1", "6"), id="a repeating decimal"),
        pytest.param("3!", ("fact", num(3)), id="a factorial"),
        pytest.param("|x|", ("fn", "abs", X), id="bars"),
        pytest.param(
            "||x|-1|",
            ("fn", "abs", ("add", ("fn", "abs", X), ("neg", num(1)))),
            id="bars in bars",
        ),
        pytest.param(r"45^\circ", ("deg", num(45)), id="degrees"),
        pytest.param(r"50\%", ("pct", num(50)), id="percent"),
        pytest.param(r"5\text{ cm}^2", ("unit", num(5), "cm^2"), id="a unit"),
        pytest.param("(1,2]", ("tuple", "(", "]", num(1), num(2)), id="an interval"),
        pytest.param("(1,200)", ("tuple", "(", ")", num(1), num(200)), id="a pair"),
        pytest.param("1,200", num(1200), id="thousands"),
        pytest.param("1, 200", ("list", num(1), num(200)), id="a list"),
        pytest.param(r"\{1,2\}", ("set", num(1), num(2)), id="a set"),
        pytest.param(r"\emptyset", ("set",), id="the empty set"),
        pytest.param(
            r"\{x | x > 0\}",
            ("setbuilder", X, ("rel", X, ">", num(0))),
            id="a set by its condition",
        ),
        pytest.param(
            r"0 < x \le 1", ("rel", num(0), "<", X, "<=", num(1)), id="a chain of inequalities"
        ),
        pytest.param(
            r"x = 1 \text{ or } x = 2",
            ("list", ("rel", X, "=", num(1)), ("rel", X, "=", num(2))),
            id="two equations",
        ),
        pytest.param(r"1 \pm x", ("pm", num(1), X), id="plus-minus"),
        pytest.param(
            r"\begin{pmatrix}1 & 2 \\ 3 & x\end{pmatrix}",
            ("matrix", ("row", num(1), num(2)), ("row", num(3), X)),
            id="a matrix",
        ),
        pytest.param(
            r"\sum_{i=1}^{3} i^2",
            ("sum", ("pow", var("i"), num(2)), var("i"), num(1), num(3)),
            id="a sum over i",
        ),
        pytest.param(
            r"\int_0^1 x^2\,dx",
            ("integral", ("pow", X, num(2)), X, num(0), num(1)),
            id="an integral",
        ),
        pytest.param(
            r"\lim_{x \to 0^+} \frac1x",
            ("limit", ("div", num(1), X), X, num(0), "+"),
            id="a one-sided limit",
        ),
        pytest.param(
            r"\frac{d}{dx} x^2", ("derivative", ("pow", X, num(2)), X, 1), id="a derivative"
        ),
        pytest.param(r"x \equiv 3 \pmod{5}", ("congruent", X, num(3), num(5)), id="a congruence"),
        pytest.param(r"\text{(A)}", var("A"), id="a choice"),
        pytest.param(r"\text{New York}", ("word", "new york"), id="words"),
    ],
)
def test_it_reads(text: str, node: Node) -> None:
    assert parse(text) == node


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("12 34", id="two numbers side by side"),
        pytest.param(r"\frac123", id="a digit too many behind a fraction"),
        pytest.param("x 2", id="a number behind a name"),
        pytest.param("1 + ", id="nothing behind a sign"),
        pytest.param("(1", id="a bracket that is not closed"),
        pytest.param("{1", id="a brace that is not closed"),
        pytest.param("1)", id="a bracket that is not opened"),
        pytest.param("1..2", id="two points"),
        pytest.param(r"\frac{1}", id="half a fraction"),
        pytest.param(r"\unheard{1}", id="an unknown command"),
        pytest.param(r"\begin{pmatrix}1 & 2 \\ 3\end{pmatrix}", id="rows of two lengths"),
        pytest.param(r"\begin{pmatrix}1", id="a matrix that is not closed"),
        pytest.param("2^3!", id="a factorial of what?"),
        pytest.param(r"\text{blue} x", id="a word times a name"),
        pytest.param(r"\{1\} x", id="a set times a name"),
        pytest.param("", id="nothing"),
        pytest.param("1\x00", id="a null byte"),
        pytest.param("1\ud83d", id="a lone surrogate"),
        pytest.param("__import__('os').system('false')", id="code"),
        pytest.param("(" * 10_000, id="deep"),
        pytest.param("(" * 1900 + "1" + ")" * 1900, id="deep and closed"),
        pytest.param("{" * 1000 + "1" + "}" * 1000, id="deep braces"),
        pytest.param("-" * 3000 + "1", id="many signs"),
        pytest.param("2^" * 1500 + "2", id="a tall tower"),
        pytest.param(r"\sqrt" * 600 + "2", id="roots of roots"),
        pytest.param(r"\int " * 600 + "x" + " dx" * 600, id="integrals of integrals"),
        pytest.param(r"\frac{1}{" * 300 + "1" + "}" * 300, id="a long continued fraction"),
        pytest.param("9" * 1001, id="a digit too many"),
        pytest.param("1+" * 1000 + "1", id="a token too many"),
        pytest.param("1" * 4001, id="a character too many"),
    ],
)
def test_what_is_no_mathematics_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        parse(text)


# Right or wrong: the traps of the design page first


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        pytest.param("1/2004!", "1/2006!", id="two numbers that underflow"),
        pytest.param("1e-7", "2e-7", id="two numbers that are nearly zero"),
        pytest.param(r"1 - 1/\mathrm e", r"1 + 1/\mathrm e", id="a sign"),
        pytest.param("4", r"4\sqrt(2)", id="a root in round brackets"),
        pytest.param("42", "43=42", id="a false equation"),
        pytest.param("7", r"x = 5 \text{ or } 7", id="two answers, one right"),
        pytest.param("7", "x = 5 or 7", id="two answers in plain text"),
        pytest.param("7", "x = 5 or x = 7", id="two equations, one right"),
        pytest.param("(1,2)", r"\{1,2\}", id="a pair and a set"),
        pytest.param("(1,2)", "[1,2]", id="an open and a closed interval"),
        pytest.param("11_2", "11_3", id="one numeral in two bases"),
        pytest.param("101_2", "101", id="a base-2 numeral and its digits"),
        pytest.param(r"5\text{ cm}", r"5\text{ m}", id="two units"),
        pytest.param("5 cm", "5 m", id="two units in plain text"),
        pytest.param(r"5\text{ cm}", r"5\text{ cm}^2", id="a length and an area"),
        pytest.param("5", "3,4,5", id="an enumeration that contains the gold"),
        pytest.param("5", "1 2 3 4 5", id="an enumeration without commas"),
        pytest.param("1,2", "1,2,3", id="an answer too many"),
        pytest.param("1,2,3", "1,2", id="an answer too few"),
        pytest.param("1,2", "1,1", id="one answer twice"),
        pytest.param("1", "2x + z = 1", id="the right side of an equation"),
        pytest.param("11a+c", "7 = 11a+c", id="the right side with names in it"),
        pytest.param("11", "x = 5+5+1 = 7 = 11", id="a chain that contradicts itself"),
        pytest.param("x = 5", "y = 5", id="another name"),
        pytest.param("x", "y", id="two names"),
        pytest.param("x_1", "x_2", id="two subscripts"),
        pytest.param("ab", "a+b", id="a product and a sum"),
        pytest.param("|x|", "x", id="an absolute value"),
        pytest.param(r"\sqrt{x^2}", "x", id="the root of a square"),
        pytest.param("|x - 100|", "100 - x", id="a bend that is far out"),
        pytest.param("|x - 100|", "x - 100", id="the same bend, the other side"),
        pytest.param("|x - y|", "x - y", id="a bend between two names"),
        pytest.param(r"\sqrt{(x-y)^2}", "y - x", id="a root that is a bend"),
        pytest.param(r"\max(x, y)", "x", id="a maximum"),
        pytest.param("(-1)^n", "1", id="a sign that changes"),
        pytest.param("(x+1)^2", "x^2 + 1", id="a forgotten term"),
        pytest.param(r"\frac{a}{b+c}", r"\frac{a}{b} + c", id="forgotten brackets"),
        pytest.param("x < 1", "x > 1", id="the other direction"),
        pytest.param("x < 1", "x \\le 1", id="the edge included"),
        pytest.param("x < 1", "-x < -1", id="divided by minus one"),
        pytest.param("[0,1]", "[0,1)", id="an open end"),
        pytest.param(r"[0,1] \cup [2,3]", "[0,3]", id="a gap filled"),
        pytest.param("y = 2x", "y = 3x", id="two lines"),
        pytest.param("x + y = 1", "x + y = 2", id="two parallel lines"),
        pytest.param("x = 1", "x^2 = 1", id="a solution too many"),
        pytest.param(r"\infty", r"-\infty", id="the other infinity"),
        pytest.param(r"\infty", "10^{100}", id="a large number"),
        pytest.param(r"1 \pm 2", "1 + 2", id="half of plus-minus"),
        pytest.param("3:4", "4:3", id="a ratio turned around"),
        pytest.param("12:00", "1:00", id="two times of day"),
        pytest.param(r"\sqrt4, \frac42", "2, 3", id="two that are equal and two that are not"),
        pytest.param("1", "2^{10^{-60}}", id="a root of a huge index"),
        pytest.param("1", r"\pi^{10^{-60}}", id="a tiny exponent"),
        pytest.param("5", r"5 \text{ or 7}", id="two answers, one in words"),
        pytest.param("5", r"5 \text{ is wrong}", id="a remark"),
        pytest.param("5", r"5 \text{ if } x > 0", id="a condition"),
        pytest.param(r"x > 0 \text{ and } x < 5", r"\mathbb{R}", id="both and either"),
        pytest.param(r"\pm 1 \pm 2", r"\pm 3", id="two signs that may differ"),
        pytest.param("x = 2, y = 3", "x = 3, y = 2", id="values exchanged"),
        pytest.param("x = 2, y = 3", "3, 2", id="values exchanged, without names"),
        pytest.param("f(2)", "f(3)", id="two values of f"),
        pytest.param("f(2)", "2f", id="a value and a product"),
        pytest.param("f(x)", "g(x)", id="two functions"),
        pytest.param(r"\text{even}", r"\text{odd}", id="two words"),
        pytest.param("blue", "lube", id="the same letters"),
        pytest.param("A", "B", id="two choices"),
        pytest.param("ABC", "BCA", id="two triangles"),
        pytest.param("AB", "BA", id="names of two letters do not commute"),
        pytest.param("x \\equiv 1 \\pmod 5", "x \\equiv 1 \\pmod 7", id="another modulus"),
        pytest.param(
            r"\begin{pmatrix}1 & 2\end{pmatrix}",
            r"\begin{pmatrix}1 \\ 2\end{pmatrix}",
            id="a row and a column",
        ),
        pytest.param(r"\sqrt2", "1.41421356", id="the digits of a root"),
        pytest.param(r"\pi", "3.14159265358979", id="the digits of pi"),
        pytest.param(r"\pi", r"\frac{355}{113}", id="a fraction near pi"),
        pytest.param("e^{\\pi\\sqrt{163}}", "262537412640768744", id="Ramanujan's number"),
        pytest.param("1", r"1 + e^{-200}", id="a term below fifty digits"),
        pytest.param("1", r"\tanh 100", id="a function that saturates"),
        pytest.param(r"\sinh 80", r"\cosh 80", id="two functions that meet far out"),
        pytest.param("10^{40}", r"\sqrt{10^{80} + 1}", id="a root next to an integer"),
        pytest.param("0", r"\sqrt{10^{45} + 1} - \sqrt{10^{45}}", id="a tiny difference"),
        pytest.param("0", "e^{-300}", id="a tiny power"),
        pytest.param(r"\sin(10^{-30})", "10^{-30}", id="the sine of nearly nothing"),
        pytest.param(r"\sqrt{1" + "0" * 79 + "1}", "10^{40}", id="a long number next to a square"),
        pytest.param("2^{100} + 1", "2^{100}", id="one beside a large number"),
        pytest.param("97**98**99", "97**98**98", id="two towers"),
        pytest.param("x - x", "1", id="nothing and one"),
        pytest.param(r"\frac{x}{x-x}", "1", id="nowhere defined"),
        pytest.param("0", r"\frac{0}{0}", id="nothing by nothing"),
    ],
)
def test_what_differs_is_never_equal(gold: str, answer: str) -> None:
    for one, two in ((gold, answer), (answer, gold)):
        assert not same(one, two)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        pytest.param(r"45^\circ", r"\frac{\pi}{4}", id="degrees and radians"),
        pytest.param(r"90^\circ", "90", id="degrees without their sign"),
        pytest.param(r"90^{\circ}", r"90\text{ degrees}", id="degrees in words"),
        pytest.param(r"\sqrt{1/n}", r"1/\sqrt n", id="a root of a reciprocal"),
        pytest.param("(0, 12.5)", "0<x<12.5", id="an interval and its inequality"),
        pytest.param("1000", r"1\,000", id="a thin space"),
        pytest.param("101_2", "5", id="a base-2 numeral and its value"),
        pytest.param("(x+1)^2", "x^2+2x+1", id="an expansion"),
        pytest.param(r"\frac{1}{x} + \frac1y", r"\frac{x+y}{xy}", id="a common denominator"),
        pytest.param(r"\sin^2 t + \cos^2 t", "1", id="Pythagoras"),
        pytest.param(r"\sec^2 y", r"\tan^2(y)+1", id="Pythagoras, divided"),
        pytest.param("2^{x+1}", r"2 \cdot 2^x", id="a law of powers"),
        pytest.param(r"\sqrt{x^2}", "|x|", id="the root of a square"),
        pytest.param(r"\sqrt[3]{-8}", "-2", id="a cube root of a negative number"),
        pytest.param(r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}", id="a rational denominator"),
        pytest.param("0", r"\sqrt2 + \sqrt3 - \sqrt{5+2\sqrt6}", id="an exact zero"),
        pytest.param(r"\log_2 8", "3", id="a logarithm"),
        pytest.param(r"\ln 8", r"3\ln 2", id="a law of logarithms"),
        pytest.param(r"e^{i\pi}", "-1", id="Euler"),
        pytest.param("(1+i)^2", "2i", id="a complex square"),
        pytest.param("n!", "n(n-1)!", id="factorials"),
        pytest.param(r"\binom n2", r"\frac{n(n-1)}2", id="binomials"),
        pytest.param("(-1)^n", "(-1)^{n+2}", id="a sign that changes"),
        pytest.param(r"0.\overline{3}", "1/3", id="a repeating decimal"),
        pytest.param("x = 5", "5", id="an assignment"),
        pytest.param("5", "x = 5", id="an assignment, answered"),
        pytest.param("5", "5 = x", id="an assignment turned around"),
        pytest.param("5", "x = 2 + 3 = 5", id="a chain"),
        pytest.param("1/3", r"x = 1/3 \approx 0.33", id="a chain with a rounded end"),
        pytest.param("y = 2x+1", "2x - y + 1 = 0", id="a line"),
        pytest.param("x^2/4 + y^2/3 = 1", "3x^2 + 4y^2 = 12", id="an ellipse"),
        pytest.param("2x = 10", "x = 5", id="an equation divided"),
        pytest.param("x < 1", "-x > -1", id="an inequality turned around"),
        pytest.param("x < 1", "1 > x", id="an inequality read backwards"),
        pytest.param("2x > 2", "x > 1", id="an inequality divided"),
        pytest.param(r"x \in [0,1)", r"0 \le x < 1", id="an element of an interval"),
        pytest.param("x < 1 or x > 2", r"(-\infty,1)\cup(2,\infty)", id="two rays"),
        pytest.param(r"x \ne 3", r"\mathbb{R} \setminus \{3\}", id="all but one"),
        pytest.param(r"[0,1]\cup[1,2]", "[0,2]", id="intervals that touch"),
        pytest.param(r"(1,2) \cup (0,1)", r"(0,1) \cup (1,2)", id="a union in another order"),
        pytest.param("1, 2", "2, 1", id="a list in another order"),
        pytest.param("x = 1 or x = 2", "2, 1", id="solutions"),
        pytest.param(r"\{1, 2\}", r"\{2, 1, 1\}", id="a set, one element twice"),
        pytest.param(r"1 \pm \sqrt2", r"1-\sqrt2, 1+\sqrt2", id="plus-minus"),
        pytest.param(r"\{1\pm\sqrt5,-2\}", r"\{-2,1+\sqrt5,1-\sqrt5\}", id="within a set"),
        pytest.param(r"(1, \sqrt4)", "(1, 2)", id="a pair"),
        pytest.param("x = 2, y = 3", "2, 3", id="values without names"),
        pytest.param("x = 2, y = 3", "y = 3, x = 2", id="values in another order"),
        pytest.param("p=5,q=2;p=7,q=2", "(7,2),(5,2)", id="systems of assignments"),
        pytest.param("(1;2)", "(1,2)", id="a semicolon in a pair"),
        pytest.param("(1,2),(3,4)", "(3,4),(1,2),(3,4)", id="a point named twice"),
        pytest.param(
            r"\begin{pmatrix}1 & 2\end{pmatrix}\begin{pmatrix}3\\4\end{pmatrix}",
            r"\begin{pmatrix}11\end{pmatrix}",
            id="a product of matrices",
        ),
        pytest.param(
            r"2\begin{pmatrix}1\\x\end{pmatrix} - \begin{pmatrix}0\\x\end{pmatrix}",
            r"\begin{pmatrix}2\\x\end{pmatrix}",
            id="a sum of matrices",
        ),
        pytest.param(r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", id="a column"),
        pytest.param("3:4", "6:8", id="a ratio"),
        pytest.param("1:2", "1/2", id="a ratio and its value"),
        pytest.param("f(2) < f(1)", "f(1) > f(2)", id="values of f"),
        pytest.param("f(1+1)", "f(2)", id="equal arguments"),
        pytest.param(r"11,\! 111,\! 111", "11111111", id="thousands as TeX sets them"),
        pytest.param("|AB| = 1", "1", id="a length given"),
        pytest.param(r"\frac{AB}{CD} = \frac12", "0.5", id="a ratio of lengths given"),
        pytest.param("A:B = 2:3", "2:3", id="a ratio given"),
        pytest.param("0 < f(x) < 1", "(0,1)", id="the values of f"),
        pytest.param(r"5\text{ cm}", "5", id="a unit left out"),
        pytest.param("5", r"5\text{ apples}", id="a unit added"),
        pytest.param(r"5\text{ cm}", r"5 \text{ centimeters}", id="a unit spelt out"),
        pytest.param(r"5\text{ m}", "5m", id="a unit read as a name"),
        pytest.param(r"x \equiv 3 \pmod 5", r"x \equiv 8 \pmod{5}", id="congruences"),
        pytest.param(r"\text{Blue}", "blue", id="a word"),
        pytest.param("C", r"\text{(C)}", id="a choice"),
        pytest.param("y(x) = x^2", "y(x) = x x", id="a function given"),
        pytest.param("P(x) = x^2", "x^2", id="a function, its value answered"),
        pytest.param("2", r"\sqrt{4}", id="a root that is whole"),
        pytest.param("720", "6!", id="a factorial"),
    ],
)
def test_what_is_the_same_is_equal(gold: str, answer: str) -> None:
    for one, two in ((gold, answer), (answer, gold)):
        assert same(one, two) is True


@pytest.mark.parametrize(
    ("gold", "answer", "grading", "correct"),
    [
        pytest.param("50\\%", "50", {}, False, id="percent are hundredths"),
        pytest.param("50\\%", "50", {"percent_sign": False}, True, id="the sign may be missing"),
        pytest.param("50\\%", "0.5", {"percent_sign": False}, True, id="and still be a half"),
        pytest.param("50\\%", "51", {"percent_sign": False}, False, id="but not any number"),
        pytest.param("90^\\circ", "90", {"degree_sign": True}, False, id="90 are radians"),
        pytest.param(
            "90^\\circ", "\\pi/2", {"degree_sign": True}, True, id="and radians are degrees"
        ),
        pytest.param("5 cm", "5", {"units": True}, False, id="the unit is asked for"),
        pytest.param("5", "5 cm", {"units": True}, True, id="no unit is asked for"),
        pytest.param("\\sqrt2", "1.414", {"rounded_digits": 4}, True, id="four digits of a root"),
        pytest.param("\\sqrt2", "1.415", {"rounded_digits": 4}, False, id="wrongly rounded"),
        pytest.param("\\sqrt2", "1.41", {"rounded_digits": 4}, False, id="three digits"),
        pytest.param("1/3", "0.3333", {"rounded_digits": 4}, True, id="four digits of a third"),
        pytest.param("1/3", "0.3334", {"rounded_digits": 4}, False, id="not of a third"),
        pytest.param("1,2", "2,1", {"ordered": True}, False, id="another order"),
        pytest.param("1,2", "1,\\sqrt4", {"ordered": True}, True, id="the same order"),
        pytest.param("2.5", "2,5", {}, False, id="two numbers"),
        pytest.param("2.5", "2,5", {"decimal_comma": True}, True, id="a decimal comma"),
        pytest.param("0,125", "1/8", {"decimal_comma": True}, True, id="three decimals"),
        pytest.param("x=5", "5", {"unwrap": False}, False, id="the equation is asked for"),
        pytest.param("x=5", "5=x", {"unwrap": False}, True, id="and is the same turned around"),
    ],
)
def test_a_policy_says_what_is_the_same(
    gold: str, answer: str, grading: dict[str, Any], correct: bool
) -> None:
    assert same(gold, answer, **grading) is correct


def test_the_reason_names_the_difference() -> None:
    verdict = grade("x^2", r"\boxed{x^3}")
    assert verdict.stage == "symbolic"
    assert verdict.reason == "x^3 is not x^2: another value at a random point"
    assert "unreadable" in grade("x^2", r"\boxed{x^2 2}").reason


# Properties. A corpus of all that stands in the tables above, and expressions that are made up


def corpus() -> list[str]:
    tables = (test_what_differs_is_never_equal, test_what_is_the_same_is_equal)
    rows = [row.values for table in tables for row in table.pytestmark[0].args[1]]  # type: ignore[attr-defined]
    return sorted({text for gold, answer in rows for text in (gold, answer)})


CORPUS = corpus()


@pytest.mark.parametrize("text", CORPUS)
def test_everything_is_what_it_is(text: str) -> None:
    assert grade(text, f"\\boxed{{{text}}}").correct
    try:
        tree = parse(text)
    except Unreadable:
        return
    assert compare(tree, tree, DEFAULT).equal


@pytest.mark.parametrize("text", CORPUS)
def test_a_tree_is_plain_data(text: str) -> None:
    try:
        tree = parse(text)
    except Unreadable:
        return
    for node in walk(tree):
        assert isinstance(node[0], str)
        assert all(isinstance(part, (tuple, str, int)) for part in node[1:])
    assert frozen(json.loads(json.dumps(tree))) == tree
    assert hash(tree) == hash(parse(text))


def frozen(value: Any) -> Any:
    return tuple(map(frozen, value)) if isinstance(value, list) else value


# Of a unit it has one: `5m` is 5 metres for the gold 5, and 5 times m is not 5.
UNITLESS = [text for text in CORPUS if text != "5m"]


@settings(PROPERTY, max_examples=1000)
@given(st.sampled_from(UNITLESS), st.sampled_from(UNITLESS))
def test_equality_has_no_direction(one: str, two: str) -> None:
    assert bool(same(one, two)) == bool(same(two, one))


LEAVES = st.one_of(st.integers(0, 9).map(num), st.sampled_from("xyz").map(var))


def expressions(*, functions: bool) -> st.SearchStrategy[Node]:
    def grow(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        shapes = [
            st.builds(lambda a, b: ("add", a, b), inner, inner),
            st.builds(lambda a, b: ("mul", a, b), inner, inner),
            st.builds(lambda a, b: ("div", a, b), inner, inner),
            st.builds(lambda a: ("neg", a), inner),
            st.builds(lambda a, n: ("pow", a, num(n)), inner, st.integers(1, 3)),
        ]
        if functions:
            shapes += [
                st.builds(lambda a, name: ("fn", name, a), inner, st.sampled_from(("sin", "cos"))),
                st.builds(
                    lambda a: ("root", ("add", ("mul", a, a), num(1)), num(2)),
                    inner,
                ),
            ]
        return st.one_of(shapes)

    return st.recursive(LEAVES, grow, max_leaves=8)


def latex(node: Node) -> str:
    kind, *parts = node
    if kind in ("num", "var"):
        return str(parts[0])
    if kind == "fn":
        return f"\\{parts[0]}({latex(parts[1])})"
    first, *others = map(latex, parts)
    last = others[-1] if others else ""
    return {
        "add": f"({first}) + ({last})",
        "mul": f"({first}) \\cdot ({last})",
        "div": f"\\frac{{{first}}}{{{last}}}",
        "neg": f"-({first})",
        "pow": f"({first})^{{{last}}}",
        "root": f"\\sqrt{{{first}}}",
    }[str(kind)]


def distribute(node: Node) -> Node:
    if node[0] == "mul" and node[2][0] == "add":
        _, left, (_, one, two) = node
        return ("add", ("mul", left, one), ("mul", left, two))
    return node


def square_out(node: Node) -> Node:
    if node[0] == "pow" and node[2] == num(2):
        return ("mul", node[1], node[1])
    return node


def split_fraction(node: Node) -> Node:
    if node[0] == "div" and node[1][0] == "add":
        _, (_, one, two), below = node
        return ("add", ("div", one, below), ("div", two, below))
    return node


REWRITES: tuple[Callable[[Node], Node], ...] = (
    distribute,
    square_out,
    split_fraction,
    lambda node: (node[0], node[2], node[1]) if node[0] in ("add", "mul") else node,
    lambda node: ("neg", ("neg", node)),
    lambda node: ("mul", num(1), node),
    lambda node: ("add", node, num(0)),
    lambda node: ("div", ("mul", num(6), node), num(6)),
    lambda node: ("add", ("mul", num(2), node), ("neg", node)),
    lambda node: ("mul", node[1], ("pow", node[2], ("neg", num(1)))) if node[0] == "div" else node,
)


def rewritten(node: Node, rng: random.Random) -> Node:
    """The same expression in other words, up to three changes at every level."""
    if node[0] in ("num", "var"):
        return node
    parts = [rewritten(p, rng) if isinstance(p, tuple) else p for p in node[1:]]
    result: Node = (node[0], *parts)
    if node[0] == "pow":
        result = ("pow", parts[0], node[2])
    for _ in range(rng.randint(0, 2)):
        result = rng.choice(REWRITES)(result)
    return result


def defined(node: Node) -> bool:
    """Whether a rational expression has a value at some random points."""
    rng = random.Random(0)
    for _ in range(4):
        try:
            exact(node, {name: Fraction(rng.randint(1, 10**6), 997) for name in "xyz"})
        except Undefined:
            return False
    return True


@settings(PROPERTY, max_examples=400)
@given(expressions(functions=False), st.randoms(use_true_random=False))
def test_rewriting_changes_nothing(node: Node, rng: random.Random) -> None:
    assume(defined(node))
    other = rewritten(node, rng)
    assume(len(latex(other)) < 2000)
    assert same(latex(node), latex(other)) is True


@settings(PROPERTY, max_examples=200)
@given(expressions(functions=True), st.randoms(use_true_random=False))
def test_rewriting_functions_never_makes_them_different(node: Node, rng: random.Random) -> None:
    other = rewritten(node, rng)
    assume(len(latex(other)) < 2000)
    assert same(latex(node), latex(other)) is not False


PERTURBATIONS: tuple[Callable[[Node], Node], ...] = (
    lambda node: ("add", node, num(1)),
    lambda node: ("add", node, ("div", num(1), num(10**9))),
    lambda node: ("add", node, ("neg", var("x"))),
    lambda node: ("add", node, ("div", num(1), ("pow", var("x"), num(9)))),
    lambda node: ("add", node, ("fn", "sin", var("x"))),
)


@settings(PROPERTY, max_examples=400)
@given(
    expressions(functions=True),
    st.sampled_from(PERTURBATIONS),
    st.randoms(use_true_random=False),
)
def test_a_perturbation_is_never_equal(
    node: Node, perturb: Callable[[Node], Node], rng: random.Random
) -> None:
    other = latex(perturb(rewritten(node, rng)))
    assume(len(other) < 2000)
    assert not same(latex(node), other)
    assert not same(other, latex(node))


@settings(PROPERTY, max_examples=300)
@given(expressions(functions=False), expressions(functions=False))
def test_two_rational_expressions_are_equal_exactly_when_their_values_are(
    one: Node, two: Node
) -> None:
    rng = random.Random(1)
    points = [{name: Fraction(rng.randint(1, 10**6), 991) for name in "xyz"} for _ in range(5)]
    assume(defined(one) and defined(two))
    try:
        equal = all(exact(one, point) == exact(two, point) for point in points)
    except Undefined:
        assume(False)
    assert (same(latex(one), latex(two)) is True) == equal


PIECES = (
    *("\\frac", "\\sqrt", "{", "}", "(", ")", "[", "]", "^", "_", "|", "x", "y", "f", "e", "i"),
    *("1", "2", "0.5", "+", "-", "\\cdot ", "/", "=", "<", "\\le ", ",", " or ", "!", "%", "\\pm "),
    *("\\{", "\\}", "\\cup ", "\\sin ", "\\log", "\\infty ", "\\text{ cm}", "\\text{blue}", "&"),
    *("\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "\\sum_{k=1}^", "\\int ", " dx", "\\to ", ":"),
    *(
        "\\overline{3}",
        "\\pmod ",
        "\\left(",
        "\\right)",
        "^\\circ",
        "'",
        "\x00",
        "\ud800",
        "π",
        "²",
    ),
)


@settings(PROPERTY, max_examples=500)
@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
)
def test_no_jumble_makes_it_raise(gold: str, answer: str) -> None:
    assert same(gold, answer) == same(gold, answer)
    assert same(gold, gold) is True


HOSTILE = {
    "a tower": "97**98**99",
    "a tower of names": "x" + "^x" * 40,
    "a tower of factorials": "9" + "!" * 40,
    "a factorial of a factorial": "((9!)!)!",
    "a large factorial": "(10^9)!",
    "a large binomial": r"\binom{10^{12}}{10^6}",
    "a large exponent": "1e100000",
    "a power of a power": "((9^{999})^{999})^{999}",
    "a long product": "*".join(["(9^{900})"] * 150),
    "a long sum of fractions": "+".join(f"1/{k}" for k in range(3, 300)),
    "a determinant": r"\begin{vmatrix}" + r"\\".join(["&".join("x" * 15)] * 15) + r"\end{vmatrix}",
    "a wide matrix": r"\begin{pmatrix}" + "&".join("1" * 900) + r"\end{pmatrix}",
    "a union of 200 intervals": r"\cup".join(f"({k},{k}.5)" for k in range(200)),
    "many roots": r"\{" + ",".join(f"\\sqrt{{{k}}}" for k in range(190)) + r"\}",
    "many names": "+".join(f"x_{{{k}}}^2" for k in range(100)),
    "nested roots": r"\sqrt{2+" * 40 + "2" + "}" * 40,
    "nested sines": r"\sin(" * 40 + "x" + ")" * 40,
    "nested bars": "|" * 300 + "x" + "|" * 300,
    "nested braces": "{" * 1000 + "1" + "}" * 1000,
    "nested brackets": "(" * 1000 + "1" + ")" * 1000,
    "a long quotient": "/".join("1" * 900),
    "many signs": "-" * 1999 + "1",
    "many superscripts": "x" + "²" * 1900,
    "many primes": "x" + "'" * 1900,
    "many percent": "1" + "%" * 1900,
    "many commas": "," * 1900,
    "many digits": "9" * 2000,
    "a polynomial of high degree": "(x+1)^{9999}",
    "two polynomials of high degree": "(x+1)^{300}(x-1)^{300}",
    "an import": "__import__('os').system('false')",
    "a lambda": "(lambda: 1)()",
    "null bytes": "1\x00" * 500,
    "lone surrogates": "\ud800" * 500,
    "full-width digits": "１２３",
    "a right-to-left override": "\u202e321",
    "an unknown environment": r"\begin{tikzpicture}\end{tikzpicture}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_mathematics_is_decided_at_once(text: str) -> None:
    start = time.perf_counter()
    assert not same("7", text)
    assert not same(text, "7")
    assert not same(text, text + "+1")
    assert same(text, text) is True
    assert time.perf_counter() - start < 1.5


# The whole: caches, order, threads, sympy


def cold() -> None:
    _decide.cache_clear()
    gold_tree.cache_clear()
    _VERDICTS.clear()


def no_sympy(pairs: Sequence[tuple[Node, Node]], equal: str) -> list[bool | None]:
    return [None for _ in pairs]


def test_order_and_caches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "decide", no_sympy)
    rng = random.Random(0)
    pairs = [(gold, f"\\boxed{{{text}}}") for gold in CORPUS[::9] for text in CORPUS[::7]]
    cold()
    first = {pair: grade(*pair) for pair in pairs}
    for _ in range(2):
        rng.shuffle(pairs)
        golds, texts = zip(*pairs, strict=True)
        assert grade_many(golds, texts) == [first[pair] for pair in pairs]
        cold()


def test_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "decide", no_sympy)
    golds = CORPUS * 3
    texts = [f"\\boxed{{{text}}}" for text in (CORPUS[7:] + CORPUS[:7]) * 3]
    expected = grade_many(golds, texts)
    cold()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(grade, golds, texts)) == expected


def test_sympy_is_asked_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def decide(pairs: Sequence[tuple[Node, Node]], equal: str) -> list[bool | None]:
        assert equal == "sympy_equal"
        asked.append(list(pairs))
        return [{"6": True, "7": False}.get(answer[1]) for _, answer in pairs]

    monkeypatch.setattr(workers, "decide", decide)
    cold()
    gold = r"\sum_{k=1}^3 k"
    texts = [rf"\boxed{{{answer}}}" for answer in ("6", "7", "8", "6", "x^2 2")]
    for _ in range(2):  # the second time all is known, that nothing is known of 8 included
        verdicts = grade_many([gold] * 5, texts)
        assert [verdict.correct for verdict in verdicts] == [True, False, False, True, False]
        assert [verdict.stage for verdict in verdicts] == ["sympy"] * 4 + ["symbolic"]
        assert verdicts[2].reason.endswith(": undecided")
    assert asked == [[(parse(gold), num(digit)) for digit in (6, 7, 8)]]


def test_what_another_policy_decided_is_not_remembered() -> None:
    cold()
    assert not grade("50\\%", "#### 50").correct
    assert grade("50\\%", "#### 50", MathGrading(percent_sign=False)).correct
    assert not grade("7", "it is 7").correct
    assert grade("7", "it is 7", MathGrading(lenient=True)).correct


def test_it_decides_with_little_stack_left() -> None:
    def deep(levels: int) -> bool:
        if levels:
            return deep(levels - 1)
        cold()
        return grade("1", r"\boxed{" + r"\sqrt{" * 30 + "1" + "}" * 31).correct

    assert not deep(sys.getrecursionlimit() - 150 - len(inspect.stack(0)))
