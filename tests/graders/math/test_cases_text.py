"""The text side of the math grader on samples of what people write, near misses included.

`tests/data/cases/math_text.jsonl` has a row for each: the kind, gold, answer and verdict, `mode`
(boxed: the answer stands in a box; raw: it is the whole completion), fields of the grading rules.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.graders.math import grade, grading_from, readable
from grpo_envs.graders.math.units import unit_of

CASES = Path(__file__).parents[2] / "data" / "cases" / "math_text.jsonl"
ROWS = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
KINDS = sorted({row["kind"] for row in ROWS})
# Its value is the end of a chain of values, which the structure side decides.
CHAINS = {"<answer>40 + 2 = 42</answer>"}


def wrong(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield gold, answer and reason of the rows whose verdict is not the expected one."""
    for row in rows:
        text = row["answer"] if row["mode"] == "raw" else f"\\boxed{{{row['answer']}}}"
        verdict = grade(row["gold"], text, grading_from(row["policy"]))
        if verdict.correct is not row["expected"]:
            yield row["gold"], row["answer"], verdict.reason


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_of_a_kind_gets_its_verdict(kind: str) -> None:
    rows = [row for row in ROWS if row["kind"] == kind and row["answer"] not in CHAINS]
    assert list(wrong(rows)) == []


def test_each_kind_has_right_and_wrong_answers() -> None:
    verdicts = Counter((row["kind"], row["expected"]) for row in ROWS)
    only_wrong = {kind for kind in KINDS if kind.startswith("FP06")}
    for kind in set(KINDS) - only_wrong:
        assert verdicts[kind, True] >= 5, kind
        assert verdicts[kind, False] >= 3, kind


@pytest.mark.parametrize("gold", ["proof", "Proof.", "notfound", "N/A", r"\text{not found}"])
def test_a_gold_that_stands_for_no_answer_is_refused_at_load(gold: str) -> None:
    assert readable(gold) == "it stands for no answer that can be verified"


@pytest.mark.parametrize(
    "gold",
    ["7 hens and 12 goats", "4:45 PM", "(D) 24", "21st", "6 000", "8 million", "€75", "15厘米"],
)
def test_golds_have_the_same_surfaces(gold: str) -> None:
    assert readable(gold) == ""
    assert grade(gold, f"\\boxed{{{gold}}}").correct


@pytest.mark.parametrize(
    ("spellings", "other"),
    [
        (("m/s", "meters per second", "m*s^-1", "metres/second"), "m*s"),
        (("cm^2", "square centimeters", "sq. cm", "centimetres squared", "平方厘米"), "cm"),
        (("km/h", "kph", "km per hour", "千米/时", "千米每小时"), "mph"),
        (("min", "minutes", "mins", "分钟"), "m"),
        (("ft", "feet", "foot", "ft."), "in"),
        (("hen", "hens"), "goats"),
        (("year", "years old", "yrs", "岁"), "month"),
    ],
)
def test_a_unit_has_one_spelling(spellings: tuple[str, ...], other: str) -> None:
    names = {unit_of(spelling) for spelling in spellings}
    assert len(names) == 1
    assert None not in names
    assert unit_of(other) not in names


@pytest.mark.parametrize(
    "words",
    ["million", "below zero", "wrong", "minus two", "dozen", "thousand", "squared", "x", "or so"],
)
def test_words_that_change_a_value_are_no_unit(words: str) -> None:
    assert unit_of(words) is None
