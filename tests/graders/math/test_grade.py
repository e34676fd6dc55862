"""The math grader: where the answer stands, which number it is, and that nothing breaks it."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grpo_envs.graders.math import MathGrading, Verdict, extract, grade, grade_many, parse_number
from grpo_envs.graders.math.numbers import clean

# The same examples in every run; no deadline, because a busy machine is no defect.
PROPERTY = settings(max_examples=200, deadline=None, derandomize=True)
MARKS = ("boxed{", "<answer>", "####", "final answer", "<think>", "fbox{")
"""With none of these in it, a text marks no answer."""


# Where the answer stands


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        pytest.param(r"so \boxed{7}.", "7", id="a box"),
        pytest.param(r"\boxed{1} no, \boxed{2}", "2", id="the last box wins"),
        pytest.param(r"\fbox{3}", "3", id="a framed box"),
        pytest.param(r"\boxed{ 7 }", "7", id="spaces in a box"),
        pytest.param(r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}", id="nested braces"),
        pytest.param(r"\boxed{\{1, 2\}}", r"\{1, 2\}", id="escaped braces"),
        pytest.param(r"\boxed{\}7}", r"\}7", id="an escaped closing brace alone"),
        pytest.param(r"\boxed{a\\}", r"a\\", id="an escaped backslash, then the end"),
        pytest.param(r"\boxed{\boxed{7}}", "7", id="a box in a box"),
        pytest.param(r"\boxed{7", None, id="a box that is not closed"),
        pytest.param(r"\boxed{1} and then \boxed{2", None, id="the last box is not closed"),
        pytest.param(r"\boxed{1} and then \boxed{\frac{2}", None, id="nor is this one"),
        pytest.param(r"\boxed{}", None, id="an empty box"),
        pytest.param(r"\boxed{1}\boxed{}", None, id="the last box is empty"),
        pytest.param("<answer>7</answer>", "7", id="a tag"),
        pytest.param("<answer>\n 7\n</answer>", "7", id="a tag over lines"),
        pytest.param("<answer>7</answer><answer>8</answer>", "8", id="the last tag wins"),
        pytest.param("<answer>7", None, id="a tag that is not closed"),
        pytest.param("<answer>7</answer> <answer>", None, id="the last tag is not closed"),
        pytest.param("7</answer>", None, id="a tag that is not opened"),
        pytest.param("</answer><answer>", None, id="tags the wrong way round"),
        pytest.param("<answer></answer>", None, id="an empty tag"),
        pytest.param("<Answer>7</Answer>", "7", id="a tag in capitals"),
        pytest.param("<result>7</result>", None, id="another tag"),
        pytest.param(r"<answer>\boxed{7}</answer>", "7", id="a box in a tag"),
        pytest.param(r"<answer>7</answer> or \boxed{8}", "8", id="tag, then box: the box"),
        pytest.param(r"\boxed{8} or <answer>7</answer>", "7", id="box, then tag: the tag"),
        pytest.param(r"\boxed{8} or <answer>7", None, id="box, then a tag that is not closed"),
        pytest.param("2 + 3 = 5\n#### 5", "5", id="hashes"),
        pytest.param("#### 5\nLet me check.", "5", id="hashes end with their line"),
        pytest.param("#### 5\n#### 6", "6", id="the last hashes win"),
        pytest.param("####", None, id="hashes with nothing behind"),
        pytest.param("#### 5 \\boxed{6}", "6", id="hashes, then box"),
        pytest.param("The final answer is 42.", "42.", id="in words"),
        pytest.param("Final Answer: 42\nDone.", "42", id="in words, with a colon"),
        pytest.param("Final answer: 1\nFinal answer: 2", "2", id="the last words win"),
        pytest.param(r"The final answer is $\boxed{42}$.", "42", id="words around a box"),
        pytest.param("it could be 7", None, id="a number is not an answer"),
        pytest.param("", None, id="nothing"),
        pytest.param("<answer>" + "7" * 2001 + "</answer>", None, id="too long for an answer"),
        pytest.param("x" * 40_000 + "<answer>7</answer>", "7", id="after a long text"),
        pytest.param("<answer>7</answer>" + "x" * 40_000, None, id="far from the end"),
    ],
)
def test_extract(completion: str, answer: str | None) -> None:
    assert extract(completion) == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        pytest.param("<think><answer>1</answer></think><answer>2</answer>", "2", id="after it"),
        pytest.param("<think><answer>1</answer></think> it is 2", None, id="only within"),
        pytest.param("<think><answer>1</answer>", None, id="never closed"),
        pytest.param("<think>a</think><think><answer>1</answer>", None, id="reopened"),
        pytest.param("a</think><answer>1</answer>", "1", id="opened by the prompt"),
        pytest.param("<think>a</think>b</think><answer>1</answer>", "1", id="closed twice"),
        pytest.param("<answer>1</answer><think>hm</think>", None, id="before it"),
        pytest.param("<answer>1</answer><think>hm", None, id="before one never closed"),
        pytest.param(r"<think>\boxed{</think>\boxed{3}", "3", id="a torn box within"),
    ],
)
def test_only_what_follows_the_thinking_counts(completion: str, answer: str | None) -> None:
    assert extract(completion) == answer


def test_the_last_words_of_a_line_win() -> None:
    assert extract("The final answer is 1. No, the final answer is 2") == "2"


@pytest.mark.parametrize(
    ("completion", "answers"),
    [
        pytest.param(
            "<answer>The final answer is 7</answer>",
            {"7", "The final answer is 7"},
            id="words in a tag",
        ),
        pytest.param("<answer>#### 7</answer>", {"7", "#### 7"}, id="hashes in a tag"),
        pytest.param(r"\boxed{7} is my final answer.", {"7"}, id="words behind a box"),
        pytest.param("<answer>7</answer>\nThat is the final answer.", {"7"}, id="behind a tag"),
    ],
)
def test_prose_does_not_override_a_box_or_tag(completion: str, answers: set[str]) -> None:
    assert extract(completion) in answers


# The last number, where nothing marks an answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        pytest.param("7", "7", id="a number"),
        pytest.param(" 7\n", "7", id="a number and space"),
        pytest.param("3.", "3.", id="a number and a full stop"),
        pytest.param("It is 3.", "3", id="a number that ends a sentence"),
        pytest.param("9 + 1 = 10", "10", id="an equation"),
        pytest.param("9+1=10.", "10", id="an equation without spaces"),
        pytest.param("10 apples and 3 pears", "3", id="two numbers: the last"),
        pytest.param("the answer is 7 (not 8)", "8", id="two numbers: the last, even if denied"),
        pytest.param("1 2 3 4 5 6 7", "7", id="a list: the last"),
        pytest.param("x = -4.", "-4", id="negative"),
        pytest.param("x=-4", "-4", id="negative without spaces"),
        pytest.param("x = \u22124", "\u22124", id="Unicode minus"),
        pytest.param("(-4)", "-4", id="in brackets"),
        pytest.param("covid-19", "19", id="a hyphen is no minus"),
        pytest.param("It is--7", "7", id="nor is a dash"),
        pytest.param("So 1,000 in all", "1,000", id="thousands"),
        pytest.param("So 3.5 in all", "3.5", id="decimal"),
        pytest.param("So .5 in all", ".5", id="decimal without a zero"),
        pytest.param("well...5", "5", id="dots are no decimal point"),
        pytest.param("It is 1/2.", "1/2", id="fraction"),
        pytest.param("2 1/2", "2 1/2", id="a mixed number alone"),
        pytest.param("3 / 4", "3 / 4", id="a fraction with spaces alone"),
        pytest.param(r"\frac{1}{2}", r"\frac{1}{2}", id="a LaTeX fraction alone"),
        pytest.param("It is 50%.", "50%", id="percent"),
        pytest.param("It costs $10!", "10", id="an amount"),
        pytest.param("It is **10**", "10", id="in bold"),
        pytest.param(r"so \(9 + 1 = 10\).", "10", id="a formula"),
        pytest.param("It is 10km away", "10", id="a unit without a space"),
        pytest.param("It is 10\n\nBecause I say so.", "10", id="text behind it"),
        pytest.param("The answer is 1", "1", id="cut by the end: read as it stands"),
        pytest.param("The answer is 1,", "1", id="cut behind a comma"),
        pytest.param("9 + 1 =", "1", id="cut behind an equals sign with spaces"),
        pytest.param("9+1=", None, id="cut behind an equals sign"),
        pytest.param("no number", None, id="no number"),
        pytest.param("ten", None, id="a number in words"),
        pytest.param("", None, id="nothing"),
        pytest.param("2^10", None, id="a power is not its exponent"),
        pytest.param("It is 7, or 2^10", None, id="nor is what stands before it"),
        pytest.param("9+1", None, id="a sum is not its last term"),
        pytest.param("7-8", None, id="a range"),
        pytest.param("1,2,3", None, id="a list without spaces"),
        pytest.param(r"it is \frac{1}{2}", None, id="a LaTeX fraction is not its denominator"),
        pytest.param("\u0661\u0662", None, id="other digits"),
        pytest.param("<think>7</think>", None, id="only in the thinking"),
        pytest.param("<think>8</think>7", "7", id="after the thinking"),
        pytest.param("7<think>8", None, id="thinking that never ends"),
        pytest.param("<think>it is 7", None, id="thinking that never ends, alone"),
        pytest.param("<answer>7</answer> 8", "7", id="a tag wins"),
        pytest.param(r"\boxed{7} 8", "7", id="a box wins"),
        pytest.param("#### 7\n8", "7", id="hashes win"),
        pytest.param("The final answer is 7\n8", "7", id="words win"),
        pytest.param("8 <answer>7", None, id="so does a tag that is not closed"),
        pytest.param("<answer></answer> 8", None, id="and an empty one"),
        pytest.param("9" * 401, None, id="too long for a number"),
        pytest.param("x" * 40_000 + " 7", "7", id="after a long text"),
        pytest.param("1234567" + " x" * 20_000, "1234567", id="far from the end, not cut"),
    ],
)
def test_the_lenient_mode_takes_the_last_number(completion: str, answer: str | None) -> None:
    assert extract(completion, lenient=True) == answer


@PROPERTY
@given(st.text(st.sampled_from("0123456789 .,-+/%^=x()$*\\{}\n"), max_size=30))
def test_what_the_lenient_mode_takes_is_a_number_that_stands_there(text: str) -> None:
    answer = extract(text, lenient=True)
    assert answer is None or (answer in text and parse_number(answer) is not None)


@PROPERTY
@given(st.text(), st.integers(-(10**12), 10**12))
def test_a_number_at_the_end_is_the_answer(before: str, number: int) -> None:
    assume(not any(mark in before.lower() for mark in MARKS))
    for text in (f"{before} {number}", f"{before}\n= {number:,}."):
        assert parse_number(extract(text, lenient=True) or "") == number


# Which number it is


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("7", Fraction(7), id="integer"),
        pytest.param("-7", Fraction(-7), id="negative"),
        pytest.param("+7", Fraction(7), id="plus"),
        pytest.param("\u22127", Fraction(-7), id="Unicode minus"),
        pytest.param("-0", Fraction(0), id="minus zero"),
        pytest.param("007", Fraction(7), id="leading zeros"),
        pytest.param(" 7. ", Fraction(7), id="spaces and a full stop"),
        pytest.param("$7$", Fraction(7), id="dollars around"),
        pytest.param("\\$7", Fraction(7), id="an amount"),
        pytest.param("0.5", Fraction(1, 2), id="decimal"),
        pytest.param(".5", Fraction(1, 2), id="decimal without a zero"),
        pytest.param("-.5", Fraction(-1, 2), id="negative decimal without a zero"),
        pytest.param("5.", Fraction(5), id="decimal point and nothing"),
        pytest.param("0.10", Fraction(1, 10), id="trailing zero"),
        pytest.param("0.1", Fraction(1, 10), id="a tenth, exactly"),
        pytest.param("1,131", Fraction(1131), id="thousands"),
        pytest.param("1,131.50", Fraction(2263, 2), id="thousands and decimals"),
        pytest.param("-12,345,678", Fraction(-12345678), id="millions"),
        pytest.param("1{,}131", Fraction(1131), id="thousands in LaTeX"),
        pytest.param(r"1\,000", Fraction(1000), id="thousands with a thin space"),
        pytest.param("3/4", Fraction(3, 4), id="fraction"),
        pytest.param("3 / 4", Fraction(3, 4), id="fraction with spaces"),
        pytest.param("-6/8", Fraction(-3, 4), id="a fraction is reduced"),
        pytest.param("0/5", Fraction(0), id="zero fifths"),
        pytest.param("1,000/3", Fraction(1000, 3), id="fraction with thousands"),
        pytest.param(r"\frac{3}{4}", Fraction(3, 4), id="frac"),
        pytest.param(r"\dfrac{3}{4}", Fraction(3, 4), id="dfrac"),
        pytest.param(r"\tfrac{3}{4}", Fraction(3, 4), id="tfrac"),
        pytest.param(r"\cfrac{3}{4}", Fraction(3, 4), id="cfrac"),
        pytest.param(r"\frac34", Fraction(3, 4), id="frac without braces"),
        pytest.param(r"\frac 3 4", Fraction(3, 4), id="frac with spaces"),
        pytest.param(r"\frac3{44}", Fraction(3, 44), id="frac with one brace"),
        pytest.param(r"\frac{ 3 }{ 4 }", Fraction(3, 4), id="frac with spaces in braces"),
        pytest.param(r"-\frac{3}{4}", Fraction(-3, 4), id="minus frac"),
        pytest.param(r"\frac{-3}{4}", Fraction(-3, 4), id="minus above"),
        pytest.param(r"\frac{3}{-4}", Fraction(-3, 4), id="minus below"),
        pytest.param(r"\frac{-3}{-4}", Fraction(3, 4), id="minus above and below"),
        pytest.param("2 1/2", Fraction(5, 2), id="mixed"),
        pytest.param("-2 1/2", Fraction(-5, 2), id="minus a mixed number"),
        pytest.param(r"2\frac{1}{2}", Fraction(5, 2), id="mixed with frac"),
        pytest.param(r"-2\frac12", Fraction(-5, 2), id="minus mixed with frac"),
        pytest.param("50%", Fraction(1, 2), id="percent"),
        pytest.param(r"50\%", Fraction(1, 2), id="percent in LaTeX"),
        pytest.param("12.5 %", Fraction(1, 8), id="percent with a space"),
        pytest.param("12 1/2%", Fraction(1, 8), id="percent of a mixed number"),
        pytest.param("1e3", Fraction(1000), id="scientific"),
        pytest.param("-1.5E-3", Fraction(-3, 2000), id="scientific, negative"),
        pytest.param("2*10^3", Fraction(2000), id="times a power of ten"),
        pytest.param(r"2 \times 10^{-3}", Fraction(1, 500), id="times in LaTeX"),
        pytest.param(r"2\cdot10^3", Fraction(2000), id="cdot"),
        pytest.param("2 \u00d7 10^3", Fraction(2000), id="a times sign"),
        pytest.param("9" * 400, Fraction(10**400 - 1), id="as long as is read"),
    ],
)
def test_a_number_is_read_exactly(text: str, value: Fraction) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("-", id="a sign"),
        pytest.param(".", id="a point"),
        pytest.param("%", id="percent of nothing"),
        pytest.param("12 34", id="two numbers"),
        pytest.param("12\u00a034", id="two numbers, no-break space"),
        pytest.param("12\n34", id="two lines"),
        pytest.param("1 131", id="thousands with a space"),
        pytest.param("1,31", id="a comma that groups no thousand"),
        pytest.param("11,31,000", id="groups of two"),
        pytest.param("1,1310", id="a group of four"),
        pytest.param(",131", id="a group with nothing before"),
        pytest.param("1, 131", id="a list"),
        pytest.param("1.2.3", id="two points"),
        pytest.param("--7", id="two signs"),
        pytest.param("1/0", id="a zeroth"),
        pytest.param(r"\frac{1}{0}", id="a zeroth in LaTeX"),
        pytest.param("0/0", id="zero zeroths"),
        pytest.param("1/2/3", id="two strokes"),
        pytest.param("1/-2", id="a sign below the stroke"),
        pytest.param("1//2", id="a double stroke"),
        pytest.param("7 apples", id="a unit"),
        pytest.param("x=7", id="an equation"),
        pytest.param("7=7", id="a true equation"),
        pytest.param("3+4", id="a sum"),
        pytest.param("9**9**9", id="a tower"),
        pytest.param("2^3", id="a power"),
        pytest.param("seven", id="a word"),
        pytest.param("nan", id="not a number"),
        pytest.param("inf", id="infinity"),
        pytest.param("1_000", id="Python's underscores"),
        pytest.param("0x10", id="hexadecimal"),
        pytest.param("\u0663", id="an Arabic-Indic digit"),
        pytest.param("\uff17", id="a full-width digit"),
        pytest.param("\u00b2", id="a superscript"),
        pytest.param("1e999999", id="a huge exponent"),
        pytest.param("1e-999999", id="a tiny exponent"),
        pytest.param("1e401", id="an exponent that is too large"),
        pytest.param("2*10^{9999}", id="a power of ten that is too large"),
        pytest.param("9" * 401, id="a digit too many"),
        pytest.param("9" * 5000, id="5,000 digits"),
        pytest.param(r"\frac{" + "9" * 5000 + "}{2}", id="5,000 digits in LaTeX"),
        pytest.param("5%%", id="percent twice"),
        pytest.param("\x007", id="a null byte"),
        pytest.param("7\ud83d", id="a lone surrogate"),
    ],
)
def test_what_is_not_one_number_is_none(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        pytest.param(r"\frac{1}{2}3", Fraction(1, 23), id="a digit behind a fraction"),
        pytest.param(r"\frac123", Fraction(1, 23), id="a digit behind a braceless fraction"),
        pytest.param(r"1\;2", Fraction(12), id="over a LaTeX space"),
        pytest.param(r"12\,34", Fraction(1234), id="over a thin space that groups no thousand"),
        pytest.param("$1$2", Fraction(12), id="over the end of a formula"),
    ],
)
def test_digits_that_stand_apart_are_not_joined(text: str, joined: Fraction) -> None:
    assert parse_number(text) != joined


@pytest.mark.parametrize("text", ["2*10^3}", "2*10^{3", "1e5}"])
def test_half_a_pair_of_braces_is_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_an_invisible_delimiter_is_no_decimal_point() -> None:
    assert parse_number(r"\left.7\right.") != Fraction(7, 10)


@pytest.mark.parametrize("text", ["-\\frac{-3}{4}", "-\\frac{3}{-4}"])
def test_minus_a_negative_fraction_is_positive(text: str) -> None:
    assert parse_number(text) == Fraction(3, 4)


@PROPERTY
@given(st.integers(-(10**30), 10**30))
def test_thousands_separators_change_nothing(number: int) -> None:
    assert parse_number(f"{number:,}") == parse_number(str(number)) == number


@PROPERTY
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(" \t\n\u00a0\u2009\u3000"))
def test_digits_are_never_joined_over_a_space(left: int, right: int, space: str) -> None:
    assert parse_number(f"{left}{space}{right}") is None


# Right or wrong


def spellings(value: Fraction) -> list[str]:
    """Ways to write one number; none of them changes it."""
    top, bottom = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    whole, rest = divmod(top, bottom)
    percent = value * 100
    texts = [
        f"{sign}{top}/{bottom}",
        f"{sign}{top} / {bottom}",
        f"{sign}{3 * top}/{3 * bottom}",
        f"{sign}{top:,}/{bottom:,}",
        f"{sign}\\frac{{{top}}}{{{bottom}}}",
        f"\\dfrac{{{sign}{top}}}{{{bottom}}}",
        f"${sign}\\tfrac{{{top}}}{{{bottom}}}$.",
        f"{sign}{top}/{bottom}".replace("-", "\u2212"),
        f"{percent.numerator}/{percent.denominator}%",
    ]
    if rest:
        texts += [f"{sign}{whole} {rest}/{bottom}", f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}"]
    if bottom == 1:
        texts += [str(value), f"{sign}{top:,}", f"{sign}{top}.00", f"{sign}{top}e0"]
    places = next((k for k in range(7) if 10**k % bottom == 0), None)
    if places is not None:
        scaled = top * 10**places // bottom
        digits = f"{scaled:0{places + 1}d}"
        decimal = f"{digits[:-places]}.{digits[-places:]}" if places else digits
        texts += [
            f"{sign}{decimal}",
            f"{sign}{decimal}e0",
            f"{sign}{scaled}e-{places}",
            f"{sign}{scaled} \\times 10^{{-{places}}}",
        ]
    return texts


FRACTIONS = st.builds(
    Fraction,
    st.integers(-(10**6), 10**6),
    st.one_of(st.integers(1, 10**4), st.sampled_from([1, 2, 4, 5, 8, 10, 100, 1000])),
)
FORMS = ("<answer>{}</answer>", "so \\boxed{{{}}}", "#### {}", "The final answer is {}")


@PROPERTY
@given(FRACTIONS, st.sampled_from(FORMS))
def test_every_spelling_of_a_number_is_that_number(value: Fraction, form: str) -> None:
    for text in spellings(value):
        assert parse_number(text) == value, text
        assert grade(str(value), form.format(text)).correct, text
        assert grade(text, form.format(value)).correct, text


@PROPERTY
@given(FRACTIONS, FRACTIONS, st.sampled_from(FORMS))
def test_no_spelling_of_another_number_is_that_number(
    gold: Fraction, other: Fraction, form: str
) -> None:
    assume(gold != other)
    for text in spellings(other):
        assert not grade(str(gold), form.format(text)).correct, text


@PROPERTY
@given(FRACTIONS, st.integers(1, 10**12))
def test_a_number_that_is_a_little_off_is_wrong(gold: Fraction, far: int) -> None:
    # A tolerance of 1e-9, as other graders have, would take the near ones.
    for other in (gold + Fraction(1, far), gold - Fraction(1, far)):
        assert not grade(str(gold), f"<answer>{other}</answer>").correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        pytest.param("1/2", "0.5", True, id="a fraction and its decimal"),
        pytest.param("1/3", "0.333", False, id="three digits of a third"),
        pytest.param("1/3", "0." + "3" * 300, False, id="three hundred digits of a third"),
        pytest.param("1e-7", "2e-7", False, id="two numbers that are both nearly zero"),
        pytest.param("1e-400", "0", False, id="too small for a float"),
        pytest.param("9007199254740993", "9007199254740992", False, id="one number as floats"),
        pytest.param("0.1", "0.1000000000000000055511151231257827", False, id="a float's tenth"),
        pytest.param("1e400", "1e400", True, id="infinite as floats"),
        pytest.param("1e400", "2e400", False, id="both infinite as floats"),
        pytest.param("50", "50%", False, id="a number and as many percent"),
        pytest.param("0.5", "50%", True, id="a number and its percent"),
        pytest.param("5", "-5", False, id="the sign"),
        pytest.param("5", "5 or 6", False, id="two answers"),
        pytest.param("5", "4, 5, 6", False, id="a list with the right one in it"),
        pytest.param("5", "1 2 3 4 5", False, id="every answer at once"),
        pytest.param("12", "1 2", False, id="its digits"),
        pytest.param("12", "121", False, id="its beginning"),
        pytest.param("21", "121", False, id="its end"),
        pytest.param("5", "5=5", False, id="an equation"),
        pytest.param("5", "nan", False, id="NaN"),
        pytest.param("nan", "nan", True, id="a gold in words is compared as text"),
        pytest.param("x + 1", "$x + 1$.", True, id="text without what carries no value"),
        pytest.param(r"\left(1,2\right)", "(1,2)", True, id="brackets that grow"),
        pytest.param("(1,2)", "(2,1)", False, id="other text"),
        pytest.param("x", "X", False, id="case matters in text"),
        pytest.param("1/0", "1/0", True, id="no number is the same text"),
    ],
)
def test_grade(gold: str, answer: str, correct: bool) -> None:
    assert grade(gold, f"<answer>{answer}</answer>").correct is correct


@pytest.mark.parametrize(
    ("gold", "completion", "verdict"),
    [
        pytest.param(
            "80",
            "it is 80",
            Verdict(correct=False, extracted=None, stage="extract", reason="no answer found"),
            id="no answer",
        ),
        pytest.param(
            "1/2",
            r"\boxed{0.50}",
            Verdict(correct=True, extracted="0.50", stage="number", reason="0.50 is 1/2"),
            id="a number",
        ),
        pytest.param(
            "80",
            "<answer>plenty</answer>",
            Verdict(correct=False, extracted="plenty", stage="number", reason="plenty is not 80"),
            id="not the number",
        ),
        pytest.param(
            "blue",
            "#### blue",
            Verdict(correct=True, extracted="blue", stage="text", reason="blue is blue"),
            id="text",
        ),
    ],
)
def test_the_verdict_says_what_was_compared(gold: str, completion: str, verdict: Verdict) -> None:
    assert grade(gold, completion) == verdict


def test_a_reason_stays_short() -> None:
    assert len(grade("1" * 3000, "<answer>" + "2" * 2000 + "</answer>").reason) < 200


def test_grade_many_is_the_loop_over_grade() -> None:
    golds, texts = ["1", "2", "3"], ["<answer>1</answer>", "2", "#### 4"]
    assert [verdict.correct for verdict in grade_many(golds, texts)] == [True, False, False]
    assert grade_many(golds, texts) == [grade(g, t) for g, t in zip(golds, texts, strict=True)]
    with pytest.raises(ValueError, match="zip"):
        grade_many(golds, texts[:2])


# Whatever comes

MARKUP = (
    *("\\boxed{", "}", "{", "\\", "<answer>", "</answer>", "<think>", "</think>", "#### ", "%"),
    *("final answer is ", "\\frac", "\\frac{1}", "1", "-", "/", ",", ".", " ", "\n", "$", "e", "^"),
    *("\\left", "\\,", "\\%", "\u2212", "\u00b2", "\U0001f600", "\ud83d", "\x00", "9" * 50),
)
ANYTHING = st.one_of(
    st.text(st.characters()),  # lone surrogates included
    st.lists(st.sampled_from(MARKUP), max_size=12).map("".join),
)


@settings(PROPERTY, max_examples=500)
@given(ANYTHING, ANYTHING)
def test_no_text_makes_it_raise(gold: str, completion: str) -> None:
    for text in (completion, f"<answer>{completion}</answer>", f"\\boxed{{{completion}}}"):
        verdict = grade(gold, text)
        assert not verdict.correct or verdict.extracted is not None
        assert verdict.extracted is None or verdict.extracted.strip() in text
    value = parse_number(completion)
    assert value is None or isinstance(value, Fraction)


@PROPERTY
@given(ANYTHING)
def test_a_text_without_an_answer_earns_nothing(text: str) -> None:
    assume(not any(mark in text.lower() for mark in MARKS))
    assert not grade("1", text).correct


HOSTILE = {
    "1 MB of digits": "9" * 10**6,
    "1 MB of numbers": "9 " * 500_000,
    "1 MB of digits that end in none": "9" * 10**6 + "x",
    "1 MB of points": "." * 10**6,
    "1 MB of equations": "9=" * 500_000,
    "1 MB of braces": "{" * 10**6,
    "1 MB of boxes": "\\boxed{" * 150_000,
    "1 MB of closed boxes": "\\boxed{" * 75_000 + "}" * 75_000,
    "1 MB of tags": "<answer>" * 125_000,
    "1 MB of closing tags": "</answer>" * 110_000,
    "1 MB of thinking": "<think>" * 140_000,
    "1 MB of no longer thinking": "</think>" * 125_000,
    "1 MB of hashes": "#" * 10**6,
    "1 MB of final answers": "final answer is " * 62_500,
    "1 MB of final and spaces": "final answer" + " " * 10**6,
    "1 MB of spaces": " " * 10**6,
    "1 MB of backslashes": "\\" * 10**6,
    "1 MB of fractions": "\\frac{1}{2}" * 90_000,
    "1 MB of thousands": "1" + ",000" * 250_000,
    "1 MB of signs": "-" * 10**6,
    "1 MB of emoji": "\U0001f600" * 250_000,
    "1 MB of surrogates": "\ud83d" * 330_000,
    "1 MB of null bytes": "\x00" * 10**6,
    "a tower": "9**9**9**9",
    "a huge exponent": "1e999999999",
    "a huge power": "2*10^{999999999}",
    "5,000 digits": "9" * 5000,
    "a fraction of 1,900 digits": "\\frac{" + "9" * 1900 + "}{2}",
    "code": "__import__('os').system('false')",
    "format strings": "%s%n{0}{x}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_a_wrong_answer(text: str) -> None:
    # A grader that is quadratic in any of these, or computes them, would not come back from here.
    for completion in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}", f"#### {text}"):
        assert not grade("7", completion).correct
        assert not grade("7", completion, MathGrading(lenient=True)).correct
    assert not grade(text[:3000], "<answer>7</answer>").correct


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_the_answer_behind_hostile_text_is_found(text: str) -> None:
    assert grade("7", f"<think>{text}</think><answer>7</answer>").correct


def test_a_hostile_gold_does_not_make_it_raise() -> None:
    gold = "\\frac{" + "9" * 5000 + "}{2}"
    assert clean(gold)
    assert not grade(gold, "<answer>7</answer>").correct


def test_it_gives_the_same_verdicts_in_threads() -> None:
    golds = [str(i) for i in range(200)]
    texts = [f"<answer>{i + i % 2}</answer>" for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(grade, golds, texts))
    assert verdicts == grade_many(golds, texts)
    assert sum(verdict.correct for verdict in verdicts) == 100
