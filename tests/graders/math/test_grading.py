"""Grading rules: answers that are carried out, math-verify in a worker, the part of sympy."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_math import MathEnv
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.graders.math import (
    DEFAULT,
    MathGrading,
    grade,
    grade_many,
    grading_from,
    prepare,
    readable,
    workers,
    zygote,
)
from grpo_envs.graders.math.evaluated import is_evaluated
from grpo_envs.graders.math.grade import _VERDICTS
from grpo_envs.graders.math.parse import parse

ROOT = Path(__file__).parents[3]
EVALUATED = MathGrading(evaluated=True)


def right(gold: str, answer: str, grading: MathGrading = DEFAULT) -> bool:
    return grade(gold, rf"\boxed{{{answer}}}", grading).correct


# Carried out


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        pytest.param("7", "3+4", id="the question"),
        pytest.param("7", "(3+4)", id="in brackets"),
        pytest.param("7", "14/2", id="a quotient that is whole"),
        pytest.param("7", r"\frac{14}{2}", id="a fraction that is whole"),
        pytest.param("7", "7/1", id="over one"),
        pytest.param("7", r"3.5 \times 2", id="a product"),
        pytest.param("7", "3.5*2", id="a product in plain text"),
        pytest.param("1024", "2^{10}", id="a power"),
        pytest.param("120", "5!", id="a factorial"),
        pytest.param("7", r"\sqrt{49}", id="a root"),
        pytest.param("5050", r"\sum_{k=1}^{100} k", id="a sum for sympy"),
        pytest.param("7", "x = 3+4", id="after a name"),
        pytest.param("7", "3+4 = x", id="before a name"),
        pytest.param("7", r"3+4 \text{ cm}", id="with a unit"),
        pytest.param("7", "--7", id="two signs"),
        pytest.param("7", r"6+\frac{3}{3}", id="no mixed number"),
        pytest.param("1/2", "2/4", id="not in lowest terms"),
        pytest.param("0.5", r"\frac{2}{4}", id="a decimal, not in lowest terms"),
        pytest.param("50%", "1-50%", id="percent"),
        pytest.param("(7, 2)", "(3+4, 2)", id="within a tuple"),
        pytest.param("(7, 2)", "(14/2, 2)", id="a quotient within a tuple"),
        pytest.param(r"\{1, 7\}", r"\{3+4, 1\}", id="within a set"),
        pytest.param("x = 7", "x = 3+4", id="within an equation"),
        pytest.param("7", r"\pm 7", id="two answers"),
        pytest.param("2000", r"2 \times 10^{2+1}", id="an exponent that is not carried out"),
    ],
)
def test_a_number_is_asked_for_where_the_gold_is_one(gold: str, answer: str) -> None:
    verdict = grade(gold, rf"\boxed{{{answer}}}", EVALUATED)
    assert not verdict.correct
    assert verdict.stage in ("number", "symbolic")  # sympy is not even asked


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        pytest.param("7", "7", id="the number"),
        pytest.param("7", "7.0", id="a decimal"),
        pytest.param("7", "+7", id="a sign"),
        pytest.param("-7", "-7", id="a minus"),
        pytest.param("7", "x = 7", id="after a name"),
        pytest.param("7", "7 = x", id="before a name"),
        pytest.param("7", "x = 3+4 = 7", id="a chain to it"),
        pytest.param("7", r"7\text{ cm}", id="with a unit"),
        pytest.param("1500", r"1.5 \times 10^3", id="scientific notation"),
        pytest.param("1500", "1.5e3", id="with an e"),
        pytest.param("0.0015", r"1.5 \cdot 10^{-3}", id="a negative exponent"),
        pytest.param("1,000", "1000", id="thousands"),
        pytest.param("3/2", r"1\frac12", id="a mixed number"),
        pytest.param("1/2", "0.5", id="a decimal for a fraction"),
        pytest.param("0.5", "1/2", id="a fraction for a decimal"),
        pytest.param(r"-\frac{5}{3}", "-5/3", id="a fraction"),
        pytest.param("50%", "1/2", id="percent"),
        pytest.param("(7, 2)", r"(7, 2.0)", id="a tuple"),
        pytest.param("2^{10}", "2^{10}", id="as the gold has it"),
        pytest.param("2^{10}", "1024", id="further than the gold"),
        pytest.param(r"2\sqrt2", r"\sqrt8", id="a gold with a root in it"),
        pytest.param("x+1", "1+x", id="a gold with a sum in it"),
        pytest.param("2/4", "2/4", id="a gold that is not in lowest terms"),
    ],
)
def test_what_is_carried_out_is_right(gold: str, answer: str) -> None:
    assert right(gold, answer, EVALUATED)


def test_without_the_policy_a_sum_is_its_value() -> None:
    assert right("7", "3+4")
    assert right("42", "84/2")


def test_numbers_of_any_length_are_looked_at_in_bounds() -> None:
    digits = "9" * 390
    assert is_evaluated(parse(f"{digits}/5"))
    assert not is_evaluated(("div", ("num", "9" * 9000), ("num", "7")))


# sympy's part


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give sympy time enough on a busy machine."""
    monkeypatch.setattr(workers._POOLS["sympy_equal"], "deadline", 20.0)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        pytest.param("55", r"S = \sum_{k=1}^{10} k = 55", True, id="a chain with an open link"),
        pytest.param("54", r"S = \sum_{k=1}^{10} k = 54", False, id="a link that is false"),
        pytest.param("54", r"S = \sum_{k=1}^{10} k = 55", False, id="another value at its end"),
        pytest.param(r"\{x : x^2 < 4\}", "(-2, 2)", True, id="a condition and its interval"),
        pytest.param(r"\{x : x^2 < 4\}", "(-2, 3)", False, id="a condition, another interval"),
        pytest.param(r"(1,\infty)", r"\{x \mid x>1\}", True, id="an interval and its condition"),
        pytest.param(r"\{1,2\}", r"\{x : x^2-3x+2=0\}", True, id="a set and its equation"),
        pytest.param(r"\{1,3\}", r"\{x : x^2-3x+2=0\}", False, id="another set"),
        pytest.param(r"\int_0^1 x dx, 3", "3, 1/2", True, id="a list in another order"),
        pytest.param(r"\int_0^1 x dx, 3", "3, 1/3", False, id="a list with another value"),
        pytest.param(r"\int_0^1 x dx, 3", "3, 3", False, id="a list with a value twice"),
        pytest.param(
            r"x=\int_0^1 x dx, y=\int_0^2 x dx", "2, 1/2", False, id="integrals in another order"
        ),
        pytest.param(
            r"x=\int_0^1 x dx, y=3", "3, 1/2", False, id="bare values in another order than names"
        ),
    ],
)
def test_what_the_first_stages_leave_open(gold: str, answer: str, correct: bool) -> None:
    assert right(gold, answer) is correct


def test_where_order_counts_sympy_keeps_it() -> None:
    ordered = MathGrading(ordered=True)
    assert right(r"\int_0^1 x dx, \int_0^2 x dx", "1/2, 2", ordered)
    assert not right(r"\int_0^1 x dx, \int_0^2 x dx", "2, 1/2", ordered)
    assert right(r"\int_0^1 x dx, \int_0^2 x dx", "2, 1/2")


# math-verify


def test_no_antlr_takes_part_in_a_verdict(tmp_path: Path) -> None:
    """An ANTLR that breaks on import changes nothing: ours is the parser, in sympy's worker too."""
    (tmp_path / "antlr4").mkdir()
    (tmp_path / "antlr4" / "__init__.py").write_text("raise SystemError('imported')")
    code = (
        "import sys; from grpo_envs.graders.math import grade\n"
        r"verdicts = [grade('55', r'\boxed{\sum_{k=1}^{10} k}'), grade('x', r'\boxed{\frac{2x}2}')]"
        "\nprint([(v.correct, v.stage) for v in verdicts], 'antlr4' in sys.modules)"
    )
    paths = ":".join([str(tmp_path), *(str(ROOT / root) for root in (".", "envs", "agents"))])
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[(True, 'sympy'), (True, 'symbolic')] False"


BEYOND = ("10", "10 @")  # we do not read the answer, math-verify does


@pytest.fixture
def math_verify() -> Iterator[MathGrading]:
    pytest.importorskip("math_verify")
    _VERDICTS.clear()
    yield MathGrading(math_verify=True)
    workers._POOLS["math_verify_equal"].close()


def test_math_verify_decides_what_we_cannot_read(math_verify: MathGrading) -> None:
    gold, answer = BEYOND
    verdicts = [grade(gold, rf"\boxed{{{answer}}}", grading) for grading in (DEFAULT, math_verify)]
    assert [verdict.correct for verdict in verdicts] == [False, True]
    assert [verdict.stage for verdict in verdicts] == ["symbolic", "math-verify"]


def test_math_verify_is_asked_about_nothing_else(math_verify: MathGrading) -> None:
    golds = ["7", "7", "x+1", r"\sum_{k=1}^{10} k", "7"]
    answers = ["7", "8", "1+x", "55", None]
    texts = [rf"\boxed{{{answer}}}" if answer else "nothing" for answer in answers]
    verdicts = grade_many(golds, texts, math_verify)
    stages = ["number", "number", "symbolic", "sympy", "extract"]
    assert [verdict.stage for verdict in verdicts] == stages
    assert workers._POOLS["math_verify_equal"]._zygote is None


def test_math_verify_runs_where_it_can_be_killed(math_verify: MathGrading) -> None:
    gold, answer = BEYOND
    assert right(gold, answer, math_verify)
    _VERDICTS.clear()
    running = workers._POOLS["math_verify_equal"]._zygote
    assert running is not None
    os.kill(running.process.pid, signal.SIGKILL)
    assert right(gold, answer, math_verify)  # started anew, asked again
    started = time.perf_counter()
    grade(gold, r"\boxed{" + "9^" * 300 + r"9 \zzz}", math_verify)
    assert time.perf_counter() - started < 8.0


def test_without_math_verify_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        zygote, "find_spec", lambda name: None if name == "math_verify" else find_spec(name)
    )
    with pytest.raises(GrpoEnvsError) as caught:
        prepare(MathGrading(math_verify=True))
    expected = 'math_verify is not installed: pip install -e ".[math-verify]".'
    assert str(caught.value) == expected


# Configuration


def test_the_environment_asks_for_what_is_carried_out_unless_told() -> None:
    strict, mild = MathEnv(), MathEnv(grading={"evaluated": False})
    problem = strict.problem(0)
    answer = f"<answer>{problem.prompt[len('What is ') : -1]}</answer>"
    assert strict.score(problem, answer).parts["correct"] == 0
    assert mild.score(problem, answer).parts["correct"] == 1
    assert MathEnv(answer="number").grading == MathGrading(evaluated=True, lenient=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"unit": True}, "no field of env.grading 'unit'. Allowed: ", id="a name"),
        pytest.param({"units": 1}, "env.grading.units=1. Allowed: true, false.", id="a number"),
        pytest.param(
            {"rounded_digits": True},
            "env.grading.rounded_digits=True. Allowed: a number above 0, or null.",
            id="no number",
        ),
    ],
)
def test_a_wrong_grading_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grading_from(given)
    assert str(caught.value).startswith(message)


def test_a_grading_from_a_configuration() -> None:
    assert grading_from({"rounded_digits": 3, "units": True}) == MathGrading(
        rounded_digits=3, units=True
    )
    assert grading_from(None, EVALUATED) is not DEFAULT
    assert grading_from({}, EVALUATED) == EVALUATED
    keywords = compose_run(["env.grading={rounded_digits: 3}"]).env_keywords
    env = grpo_envs.make("math", **keywords)
    assert isinstance(env, MathEnv)
    assert env.grading == MathGrading(evaluated=True, rounded_digits=3)


@pytest.mark.parametrize(
    "gold",
    ["y", "B", r"\text{Evelyn}", "no solution", r"\frac{\pi}{2}\text{ radians}", "x=5, y=6", "5 m"],
)
def test_golds_that_can_be_compared(gold: str) -> None:
    assert readable(gold) == ""


@pytest.mark.parametrize("gold", ["a dozen", "see solution", "It is 4", "", "-", r"\frac{1}{"])
def test_golds_that_cannot(gold: str) -> None:
    assert readable(gold)
