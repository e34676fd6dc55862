"""The reader of arithmetic, against Python's own; and the one block of a completion."""

import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_envs.graders.arithmetic import DEEPEST, Unreadable, whole_number, work_out
from grpo_envs.graders.text import only_block
from tests.support.hostile_arithmetic import HOSTILE, MEGABYTE, pythons


def ours(text: str) -> Fraction | None:
    try:
        return work_out(text).value
    except Unreadable:
        return None


numbers = st.integers(0, 10**12).map(str)
spaces = st.sampled_from(["", " "])


def chains(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    link = st.tuples(spaces, st.sampled_from("+-*/"), spaces, inner).map("".join)
    return st.tuples(inner, st.lists(link, min_size=1, max_size=4).map("".join)).map("".join)


expressions = chains(
    st.recursive(
        numbers,
        lambda inner: st.one_of(
            chains(inner).map("({})".format),
            st.tuples(st.sampled_from("+-"), inner).map("".join),
        ),
        max_leaves=8,
    )
)


@given(expressions)
def test_an_expression_has_the_value_that_python_gives_it(text: str) -> None:
    assert ours(text) == pythons(text)


@given(st.text("0123456789+-*/() ", max_size=14))
def test_what_python_does_not_read_we_do_not_either(text: str) -> None:
    assert ours(text) == pythons(text)


@given(expressions)
def test_the_numbers_are_those_that_stand_there(text: str) -> None:
    if ours(text) is not None:
        assert list(work_out(text).numbers) == [int(n) for n in re.findall(r"\d+", text)]


@given(
    st.text(
        st.sampled_from("0123456789+-*/()=.,^ ex_\u0663\uff11\u00d7\u2212\n\x00\ud83d"), max_size=30
    )
)
def test_any_text_has_a_value_or_is_unreadable(text: str) -> None:
    value = ours(text)
    assert value is None or isinstance(value, Fraction)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("3*4+5", 17, id="product before sum"),
        pytest.param("5+3*4", 17, id="on the right, too"),
        pytest.param("20-5-4", 11, id="from left to right"),
        pytest.param("24/4/3", 2, id="quotients, too"),
        pytest.param("24/4*3", 18, id="and mixed"),
        pytest.param("20-(5-4)", 19, id="but parentheses first"),
        pytest.param("-2*3", -6, id="a sign"),
        pytest.param("2*-3", -6, id="a sign behind an operator"),
        pytest.param("2--3", 5, id="a sign behind a minus"),
        pytest.param("8/(3-8/3)", 24, id="through fractions, exactly"),
        pytest.param("1/3+1/3+1/3", 1, id="thirds"),
        pytest.param("6 \u00d7 4 \u00f7 3 \u2212 2 \u00b7 1", 6, id="other signs"),
        pytest.param(" 1 +\n1\t", 2, id="spaces"),
        pytest.param("(" * DEEPEST + "1" + ")" * DEEPEST, 1, id="as deep as it goes"),
    ],
)
def test_values(text: str, value: int) -> None:
    assert work_out(text).value == value


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_what_is_no_arithmetic_is_unreadable_at_once(text: str) -> None:
    begun = time.thread_time()
    with pytest.raises(Unreadable) as caught:
        work_out(text)
    assert time.thread_time() - begun < 0.2  # of the processor, as the machine may be busy
    assert len(str(caught.value)) < 80


def test_large_values_are_exact_and_bounded() -> None:
    text = "*".join(["9" * 18] * 50)  # what a thousand characters can hold
    assert work_out(text).value == (10**18 - 1) ** 50
    assert work_out("1/" + "/".join(["9" * 18] * 50)).value == Fraction(1, (10**18 - 1) ** 50)


@pytest.mark.parametrize("text", ["3*4", "-3", "3-4", "+3", "3/4"])
def test_operators_that_are_not_allowed(text: str) -> None:
    others = "+-*/".translate({ord(sign): None for sign in text})
    assert ours(text) is not None
    with pytest.raises(Unreadable, match="is not allowed here"):
        work_out(text, others)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("37", 37),
        (" 37\n", 37),
        ("-37", -37),
        ("+37", 37),
        ("\u221237", -37),
        ("1,999", 1999),
        ("1,999,000", 1999000),
        ("007", 7),
        ("9" * 40, 10**40 - 1),
        *((text, None) for text in ("", "-", "3 7", "3,7", "37.0", "1e3", "0x25", "36+1", "74/2")),
        *((text, None) for text in ("37.", "thirty", "\u0663\u0667", "\uff13", "--37", "9" * 41)),
        ("9" * MEGABYTE, None),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_whole_numbers(text: str, value: int | None) -> None:
    assert whole_number(text) == value


# The one block


@pytest.mark.parametrize(
    ("completion", "text", "neat"),
    [
        pytest.param("<answer>7</answer>", "7", True, id="bare"),
        pytest.param("<think>3</think><answer>7</answer>", "7", True, id="after thinking"),
        pytest.param("3</think><answer>7</answer>", "7", True, id="thinking began in the prompt"),
        pytest.param("So: <answer> 7\n</answer>.\n", "7", True, id="within a sentence"),
        pytest.param("<answer>7</answer> it is", "7", False, id="words behind it"),
        pytest.param("<answer></answer>", "", False, id="empty"),
        pytest.param("<answer>6</answer></think><answer>7</answer>", "7", False, id="one before"),
        pytest.param("<think></think><think></think><answer>7</answer>", "7", False, id="twice"),
        pytest.param(
            "<think><answer>6</answer></think><answer>7</answer>", "7", True, id="in thoughts"
        ),
    ],
)
def test_the_block_of_a_completion(completion: str, text: str, neat: bool) -> None:
    block = only_block(completion, "answer", "tool")
    assert block is not None
    assert (block.tag, block.text, block.neat) == ("answer", text, neat)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "7",
        "<answer>7",
        "7</answer>",
        "</answer>7<answer>",
        "<answer>7</answer><answer>8</answer>",
        "<answer>7</answer><answer>7</answer>",
        "<answer><answer>7</answer>",
        "<answer>7</answer></answer>",
        "<tool>7</tool><answer>7</answer>",
        "<tool><answer>7</answer></tool>",
        "<answer>7</tool>",
        "<think><answer>7</answer>",
        "<answer>7</answer><think>",
        "<Answer>7</Answer>",
        "<answer>" * 10**5,
    ],
    ids=lambda text: text[:40] or "nothing",
)
def test_there_is_no_one_block(completion: str) -> None:
    assert only_block(completion, "answer", "tool") is None
