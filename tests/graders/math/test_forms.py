"""Right answers in another form, each beside wrong ones that look like it."""

from collections.abc import Callable, Iterable

import pytest

from grpo_envs.graders.math import DEFAULT, MathGrading, grade

Pairs = list[tuple[str, str]]

CASES = r"\begin{cases} x=%d \\ y=%d \end{cases}"
ABS = r"f(x)=\begin{cases} x & x>0 \\ -x & x\le 0\end{cases}"
RIGHT: dict[str, Pairs] = {
    "order": [
        ("x=1,y=2 or x=3,y=4", "x=3,y=4 or x=1,y=2"),
        ("x=1,y=2 or x=3,y=4", "y=4,x=3 or y=2,x=1"),
        ("x=1,y=2 or x=3,y=4", "x=3,y=4;x=1,y=2"),
        ("x=1,y=2 or x=3,y=4", "(3,4), (1,2)"),
        ("(1,2) or (3,4)", r"(3,4) \text{ or } (1,2)"),
        (
            r"x=2 \text{ and } y=3 \text{ or } x=5 \text{ and } y=6",
            r"x=5, y=6 \text{ or } x=2, y=3",
        ),
        (CASES % (1, 2) + r"\text{ or }" + CASES % (3, 4), CASES % (3, 4) + ", " + CASES % (1, 2)),
        ("f(x)=x or f(x)=2-x", "f(x)=2-x, f(x)=x"),
        (ABS, r"f(x)=\begin{cases} -x, & x\le 0 \\ x, & \text{if } 0<x \end{cases}"),
        ("a=1,b=2,c=3", "c=3,a=1,b=2"),
        ("2,3;4,5", "4,5;2,3"),
        ("1, 2 or 3", "3, 1, or 2"),
        ("x = 5 or 7", "x = 7 or x = 5"),
    ],
    "chains": [
        ("x>2", r"2x>4 \Rightarrow x>2"),
        ("x>2", r"3x - 1 > 5 \Rightarrow 3x > 6 \implies x > 2"),
        ("x<-3", r"-2x>6 \Rightarrow x<-3"),
        (r"x\le 5", r"x+1 \le 6 \iff x \le 5"),
        (r"(2,\infty)", r"2x>4 \Rightarrow x>2"),
        ("x=4", r"3x+5=17 \to 3x=12 \to x=4"),
        ("x=4", r"3x+5=17 \rightarrow 3x=12 \Rightarrow x=4"),
        ("x=4", "3x=12 → x=4"),
        ("x>2", r"2x>4 -> x>2"),
    ],
    "fractions of units": [
        (r"8 \frac{km}{h}", "8 km/h"),
        ("8 km/h", r"8\,\frac{\mathrm{km}}{\mathrm{h}}"),
        (r"9.8 \frac{m}{s^2}", r"9.8\ \mathrm{m/s^2}"),
        (r"60 \frac{\text{miles}}{\text{hour}}", "60 mph"),
        ("8", r"8 \frac{km}{h}"),
        (r"15 \min", "15 minutes"),
        ("30 s", r"30\ \sec"),
        (r"2.5\ \frac{g}{cm^{3}}", r"2.5\text{ g/cm}^3"),
        (r"2 \frac{x}{y}", r"\frac{2x}{y}"),
        (r"3 \frac{d}{dx} x^2", "6x"),
    ],
    "lengths": [
        ("AB=5", "|AB|=5"),
        ("|AB|=5", "AB=5"),
        ("5", "|AB|=5"),
        (r"AB=2\sqrt{3}", r"|\overrightarrow{AB}| = 2\sqrt{3}"),
        ("|PQ|=3", r"\lvert PQ\rvert=3"),
        ("|AB|=5,|BC|=6", "BC=6, AB=5"),
        ("|x|=5", "|x|=5"),
    ],
    "words": [
        ("7", "seven"),
        ("seven", "7"),
        ("42", "forty-two"),
        ("42", "forty two"),
        ("0", "zero"),
        ("99", r"\text{Ninety-nine}"),
        ("13", "Thirteen"),
        (r"7\text{ apples}", "seven apples"),
        ("700", "seven hundred"),
        ("7", "The answer is seven."),
        ("-3", "negative three"),
        ("seven", "Seven"),
    ],
    "exclusions": [
        (r"x\ge1, x\ne2", r"x\ne2, x\ge1"),
        (r"x\ge1 \text{ and } x\ne2", r"[1,2)\cup(2,\infty)"),
        (r"[1,2)\cup(2,\infty)", r"x\ge1, x\ne2"),
        (r"x>0, x\ne1, x\ne3", r"(0,1)\cup(1,3)\cup(3,\infty)"),
        (r"x\ge1, x\ne2", r"1\le x<2 \text{ or } x>2"),
        (r"x\ge1, x\ne1", "x>1"),
        (r"x\ge1, x\ne0", r"[1,\infty)"),
        (r"-1\le x\le 4, x\ne0", r"[-1,0)\cup(0,4]"),
        (r"x\ne2, x\ne3", r"x\neq3 \text{ and } x\neq2"),
    ],
}
WRONG: dict[str, Pairs] = {
    "order": [
        ("x=1,y=2 or x=3,y=4", "x=3,y=2 or x=1,y=4"),
        ("x=1,y=2 or x=3,y=4", "x=1,y=2"),
        ("x=1,y=2 or x=3,y=4", "(1,4), (3,2)"),
        ("(1,2) or (3,4)", "(2,1) or (3,4)"),
        ("(1,2)", "(2,1)"),
        ("x=1,y=2", "x=2,y=1"),
        (CASES % (1, 2) + r"\text{ or }" + CASES % (3, 4), CASES % (3, 2) + ", " + CASES % (1, 4)),
        ("f(x)=x or f(x)=2-x", "f(x)=2-x"),
        (ABS, r"f(x)=\begin{cases} -x & x>0 \\ x & x\le 0 \end{cases}"),
        (ABS, r"f(x)=\begin{cases} x & x>1 \\ -x & x\le 1 \end{cases}"),
        ("a=1,b=2,c=3", "a=3,b=2,c=1"),
        ("2,3;4,5", "4,3;2,5"),
        ("1, 2 or 3", "1 or 2"),
        ("x = 5 or 7", "x = 5"),
    ],
    "chains": [
        ("x>2", r"x>2 \Rightarrow 2x>4 \Rightarrow x>3"),
        ("x>2", r"2x>6 \Rightarrow x>2"),
        ("x>2", r"2x<4 \Rightarrow x>2"),
        ("x>2", r"2x>4 \Rightarrow x<2"),
        ("x>2", r"2x>4 \Rightarrow x\ge2"),
        ("x>2", r"2x>4 \Rightarrow"),
        ("x>2", r"x>2 \Rightarrow x>3"),
        ("x>2", r"y>3 \Rightarrow x>2"),
        ("x=4", r"3x+5=17 \to x=5"),
        ("x=4", r"3x+5=20 \to x=4"),
        ("x=4", r"3x+5=17 \to 3x=12"),
        ("x=4", r"x=4 \to 3x+5=17"),
        ("x=4", r"x \to 4"),
        ("4", r"3 \to 4"),
    ],
    "fractions of units": [
        (r"8 \frac{km}{h}", r"8 \frac{h}{km}"),
        (r"8 \frac{km}{h}", "8 m/h"),
        ("8 km/h", r"9 \frac{km}{h}"),
        (r"8 \frac{m}{s}", r"8 \frac{m}{s^2}"),
        ("8", r"8 \frac{k}{h}"),
        ("8", r"8 \frac{x}{y}"),
        ("8", r"\frac{km}{h}"),
        (r"15 \min", "15 seconds"),
        ("30", r"30 \sec x"),
        (r"3 \frac{d}{dx} x^2", "3x"),
    ],
    "lengths": [
        ("AB=5", "|AB|=6"),
        ("AB=5", "|AC|=5"),
        ("AB=-5", "|AB|=5"),
        ("|x|=5", "x=5"),
        ("x=5", "|x|=5"),
        ("A=5", "|A|=5"),
        ("|ab|=5", "ab=5"),
        ("|AB|=5,|BC|=6", "AB=6,BC=5"),
    ],
    "words": [
        ("7", "seventy"),
        ("7", "seventeen"),
        ("7", "not seven"),
        ("7", "seven or eight"),
        ("7", "seven hundred"),
        ("7", "seven halves"),
        ("7", "seven quarters"),
        ("7", "seven percent"),
        ("7", "seven and a half"),
        ("7", "seven minus one"),
        ("7", "less than seven"),
        ("7", "seventh"),
        ("20", "twenty fourteen"),
        ("20", "twenty one"),
        ("1", "no one"),
        ("2", "two thirds"),
        ("3", "negative three"),
        ("7", r"\text{seven}, 8"),
    ],
    "exclusions": [
        (r"x\ge1, x\ne2", r"x\ge1"),
        (r"x\ge1, x\ne2", r"x\ne2"),
        (r"x\ge1, x\ne2", r"x\ge2, x\ne1"),
        (r"x\ge1, x\ne2", r"x>1, x\ne2"),
        (r"x\ge1, x\ne2", r"y\ge1, y\ne2"),
        (r"x\ge1, x\ne2", r"x\ge1 \text{ or } x\ne2"),
        (r"[1,\infty)", r"x\ge1, x\ne2"),
        (r"1,2", r"x\ge1, x\ne2"),
        (r"x>0, x\ne1, x\ne3", r"x>0, x\ne1"),
        (r"x\ne2,x\ne3", r"x=2,x=3"),
    ],
}
ASKED = [DEFAULT, MathGrading(evaluated=True)]


@pytest.mark.parametrize("kind", RIGHT)
def test_the_same_in_another_form_is_right(kind: str) -> None:
    refused = [(gold, answer) for gold, answer in RIGHT[kind] if not paid(gold, answer, all)]
    assert refused == []


@pytest.mark.parametrize("kind", WRONG)
def test_what_only_looks_like_it_is_wrong(kind: str) -> None:
    assert [(gold, answer) for gold, answer in WRONG[kind] if paid(gold, answer, any)] == []
    assert len(WRONG[kind]) >= len(RIGHT[kind])


def paid(gold: str, answer: str, by: Callable[[Iterable[bool]], bool]) -> bool:
    """Return whether all gradings, or any of them, take the answer for the gold."""
    return by(grade(gold, rf"\boxed{{{answer}}}", asked).correct for asked in ASKED)
