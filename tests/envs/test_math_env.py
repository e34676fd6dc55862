"""The mathematics environment: right questions, true steps, parts that are earned."""

import json
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sympy

import grpo_envs
from grpo_env_math import MathEnv
from grpo_env_math.env import ANSWERS
from grpo_env_math.generate import LEVELS, MathRecipe, generate
from grpo_env_math.shape import bare_number, well_formed
from grpo_envs.errors import ConfigError
from grpo_envs.seeding import rng_for
from grpo_envs.types import Problem

DRAWS = 150


def truth(prompt: str) -> Fraction:
    """The answer to one of our questions, by a computer algebra system."""
    if match := re.fullmatch(r"What is ([-+*/\d]+)\?", prompt):
        return Fraction(str(sympy.sympify(match[1])))
    match = re.fullmatch(r"Solve (\d+)x([+-]\d+)=(-?\d+) for x\.", prompt)
    assert match, prompt
    x = sympy.Symbol("x")
    (root,) = sympy.solve(int(match[1]) * x + int(match[2]) - int(match[3]), x)
    return Fraction(str(root))


def steps(problem: Problem) -> list[str]:
    think = re.fullmatch(r"<think>(.*)</think>(?:<answer>|\\boxed\{)\S+", problem.solution, re.S)
    assert think, problem.solution
    return think[1].split("\n")


def drawn(env: MathEnv, count: int = DRAWS) -> list[Problem]:
    return [env.problem(seed) for seed in range(count)]


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_gold_is_the_true_answer(level: int, split: str) -> None:
    for problem in drawn(MathEnv(split, level=level)):
        assert Fraction(problem.gold) == truth(problem.prompt), problem.prompt


@pytest.mark.parametrize("level", LEVELS)
def test_every_step_is_true_and_leads_to_the_answer(level: int) -> None:
    for problem in drawn(MathEnv(level=level)):
        for step in steps(problem):
            left, right = step.split("=")
            assert sympy.sympify(left) == int(right), problem
        assert steps(problem)[-1].endswith(f"={problem.gold}")


@pytest.mark.parametrize("level", LEVELS)
def test_every_number_of_a_step_is_known_by_then(level: int) -> None:
    # A step may use the question's numbers and what the steps before found; nothing from nowhere.
    for problem in drawn(MathEnv(level=level)):
        known = set(re.findall(r"\d+", problem.prompt))
        for step in steps(problem):
            left, right = step.split("=")
            assert set(re.findall(r"\d+", left)) <= known, problem
            known.add(right.removeprefix("-"))


@pytest.mark.parametrize("level", LEVELS)
def test_there_is_one_step_for_each_operation(level: int) -> None:
    for problem in drawn(MathEnv(level=level)):
        operations = len(re.findall(r"[-+*/]", problem.prompt.partition("=")[0]))
        # An equation is undone in two steps: the sum, then the factor.
        assert len(steps(problem)) == (2 if level == 5 else operations), problem


def shape(prompt: str) -> tuple[int, set[str]]:
    """How many terms are added up, and which operators stand between the numbers."""
    expression = prompt.removeprefix("What is ").removesuffix("?")
    return len(re.split("[+-]", expression)), set(re.findall(r"[-+*/]", expression))


@pytest.mark.parametrize(
    ("level", "terms", "operators"),
    [
        pytest.param(1, {2, 3, 4}, "+", id="level 1: sums"),
        pytest.param(2, {2, 3, 4}, "+-", id="level 2: differences"),
        pytest.param(3, {1, 2, 3}, "+-*", id="level 3: products"),
        pytest.param(4, {1, 2, 3}, "+-*/", id="level 4: quotients"),
    ],
)
def test_a_level_asks_what_it_says(level: int, terms: set[int], operators: str) -> None:
    shapes = [shape(problem.prompt) for problem in drawn(MathEnv(level=level), 400)]
    assert {count for count, _ in shapes} == terms  # each of them comes up
    assert set().union(*(used for _, used in shapes)) == set(operators)
    assert all(used for _, used in shapes)  # "What is 7?" asks nothing


def test_level_5_asks_for_x() -> None:
    prompts = [problem.prompt for problem in drawn(MathEnv(level=5), 200)]
    assert all(re.fullmatch(r"Solve [2-9]x[+-]\d{1,2}=-?\d+ for x\.", p) for p in prompts)
    assert {re.search(r"x([+-])", p)[1] for p in prompts} == {"+", "-"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("terms", "digits", "operators"),
    [
        pytest.param([2, 2], 1, "+", id="two single digits"),
        pytest.param([5, 5], 3, "+-", id="five terms of three digits"),
        pytest.param(None, 2, "*", id="one product"),
        pytest.param(None, 2, "*/", id="products and quotients only"),
        pytest.param([2, 6], 15, "-", id="differences of long numbers"),
    ],
)
def test_terms_digits_and_operators_are_respected(
    terms: list[int] | None, digits: int, operators: str
) -> None:
    env = MathEnv(terms=terms, digits=digits, operators=operators)
    seen: set[str] = set()
    longest = 0
    for problem in drawn(env, 200):
        count, used = shape(problem.prompt)
        least, most = terms or (1, 1)  # nothing adds up products alone
        assert least <= count <= most
        seen |= used
        numbers = re.findall(r"(\d+)(/?)", problem.prompt)
        longest = max([longest, *(len(number) for number, over in numbers if not over)])
        # A dividend is the product of its quotient (up to `digits` digits) and a digit.
        assert all(len(number) <= digits + bool(over) for number, over in numbers)
        assert Fraction(problem.gold) == truth(problem.prompt)
    assert seen == set(operators)
    assert longest == digits


def test_equations_respect_the_digits() -> None:
    for problem in drawn(MathEnv(level=5, digits=1), 100):
        match = re.fullmatch(r"Solve (\d)x[+-](\d)=(-?\d+) for x\.", problem.prompt)
        assert match, problem.prompt
        assert 1 <= int(problem.gold) <= 9


@pytest.mark.parametrize("level", LEVELS)
def test_train_and_eval_share_no_question(level: int) -> None:
    # Level 5 has few questions: nearly all of them come up in 2,000 draws.
    env = MathEnv(level=level, digits=1 if level == 5 else None)
    train = {env.problem(seed, "train").prompt for seed in range(2000)}
    evaluation = {env.problem(seed, "eval").prompt for seed in range(2000)}
    assert not train & evaluation
    assert len(train) > len(evaluation) > 50


def test_eval_is_about_a_tenth_of_the_questions() -> None:
    env = MathEnv(level=5, digits=1)  # at most 2 * 8 * 9 * 9 = 1,296 questions
    train = {env.problem(seed, "train").prompt for seed in range(12_000)}
    evaluation = {env.problem(seed, "eval").prompt for seed in range(2000)}
    assert len(train | evaluation) == 1296
    assert len(evaluation) / 1296 == pytest.approx(0.1, abs=0.035)


def test_a_question_does_not_depend_on_the_answer_format_or_the_weights() -> None:
    plain = [problem.prompt for problem in drawn(MathEnv(), 20)]
    boxed = MathEnv(answer="boxed", rewards={"format": 0.0}, render_mode="ansi")
    assert [problem.prompt for problem in drawn(boxed, 20)] == plain


def test_generate_depends_on_the_generator_alone() -> None:
    recipe = LEVELS[4]
    assert [generate(rng_for(i), recipe) for i in range(50)] == [
        generate(rng_for(i), recipe) for i in range(50)
    ]
    texts = [generate(rng_for(i), recipe).text for i in range(50)]
    assert all(one != other for one, other in pairwise(texts))


# The answer and its reward


def asked(answer: str = "tag") -> tuple[MathEnv, Problem]:
    return MathEnv(answer=answer), Problem(prompt="What is 3+4?", gold="7", solution="")


@pytest.mark.parametrize("answer", ["tag", "boxed"])
@pytest.mark.parametrize(
    ("completion", "correct", "form"),
    [
        pytest.param("<think>3+4=7</think><answer>7</answer>", 1, 1, id="right and well formed"),
        pytest.param("<answer>7</answer>", 1, 1, id="without thinking"),
        pytest.param("<answer> 7.0 </answer>\n", 1, 1, id="another spelling, a line end"),
        pytest.param("It is <answer>7</answer>.", 1, 1, id="in a sentence"),
        pytest.param("<think>3+4=7</think>\\boxed{7}", 1, 1, id="right in a box"),
        pytest.param("So $\\boxed{7}$.", 1, 1, id="right in a box in a sentence"),
        pytest.param("<answer>\\boxed{7}</answer>", 1, 1, id="a box in a tag"),
        pytest.param("\\boxed{{7}}", 1, 1, id="a box with braces in it"),
        pytest.param("<answer>3+4</answer>", 0, 1, id="the question, not carried out"),
        pytest.param("<answer>x = 3+4</answer>", 0, 1, id="an equation that is not carried out"),
        pytest.param("<answer>x = 3+4 = 7</answer>", 1, 1, id="a chain that is carried out"),
        pytest.param("\\boxed{\\frac{14}{2}}", 0, 1, id="a quotient that is not carried out"),
        pytest.param("\\boxed{\\sqrt{49}}", 0, 1, id="a root that is not carried out"),
        pytest.param("<answer>7 cm</answer>", 1, 1, id="with a unit"),
        pytest.param("hm</think><answer>7</answer>", 1, 1, id="thinking that the prompt opened"),
        pytest.param("7", 0, 0, id="the right number alone"),
        pytest.param("3+4=7", 0, 0, id="the right sum alone"),
        pytest.param("<think>3+4=7</think>7", 0, 0, id="the right number after thinking"),
        pytest.param("<think><answer>7</answer></think>", 0, 0, id="an answer in the thinking"),
        pytest.param("<think><answer>7</answer>", 0, 0, id="thinking that never ends"),
        pytest.param("<answer>8</answer>", 0, 1, id="wrong and well formed"),
        pytest.param("\\boxed{8}", 0, 1, id="wrong in a box"),
        pytest.param("<answer>seven</answer>", 1, 1, id="a number in words"),
        pytest.param("<answer>eight</answer>", 0, 1, id="another in words"),
        pytest.param("<answer>heaven</answer>", 0, 1, id="a word"),
        pytest.param("<answer>7 or 8</answer>", 0, 1, id="two numbers in one tag"),
        pytest.param("<answer>8</answer><answer>7</answer>", 1, 0, id="two answers, right last"),
        pytest.param("<answer>7</answer><answer>8</answer>", 0, 0, id="two answers, wrong last"),
        pytest.param("\\boxed{8}\\boxed{7}", 1, 0, id="two boxes"),
        pytest.param("<answer>7</answer> I am sure.", 1, 0, id="text after the answer"),
        pytest.param("\\boxed{7} I am sure", 1, 0, id="text after the box"),
        pytest.param("<answer>7</answer></answer>", 1, 0, id="closed twice"),
        pytest.param("<answer><answer>7</answer>", 1, 0, id="opened twice"),
        pytest.param("<answer>7", 0, 0, id="not closed"),
        pytest.param("\\boxed{7", 0, 0, id="a box not closed"),
        pytest.param("<answer></answer>", 0, 0, id="an empty tag"),
        pytest.param("\\boxed{}", 0, 0, id="an empty box"),
        pytest.param("", 0, 0, id="nothing"),
        pytest.param(
            "<think>a</think><think>b</think><answer>7</answer>", 1, 0, id="thinking twice"
        ),
        pytest.param("</think><think></think><answer>7</answer>", 1, 0, id="thinking reversed"),
        pytest.param("#### 7", 1, 0, id="another way to answer"),
    ],
)
def test_the_parts_of_a_reward(completion: str, correct: int, form: int, answer: str) -> None:
    env, problem = asked(answer)
    assert env.score(problem, completion).parts == {"correct": correct, "format": form}


@pytest.mark.parametrize(
    ("completion", "correct", "form"),
    [
        pytest.param("7", 1, 1, id="the number"),
        pytest.param("7.", 1, 1, id="with a full stop"),
        pytest.param(" 7\n", 1, 1, id="with space around"),
        pytest.param("<think>3+4=7</think>7", 1, 1, id="after thinking"),
        pytest.param("<think>3+4=7</think>\n\n7.\n", 1, 1, id="after thinking, on its own line"),
        pytest.param("hm</think>7", 1, 1, id="thinking that the prompt opened"),
        pytest.param("14/2", 0, 1, id="not carried out"),
        pytest.param("3 1/2", 0, 1, id="a mixed number is one number"),
        pytest.param("8", 0, 1, id="wrong"),
        pytest.param("3+4=7", 1, 0, id="the sum and the number"),
        pytest.param("The answer is 7.", 1, 0, id="a sentence"),
        pytest.param("7 apples", 1, 0, id="a unit"),
        pytest.param("8\n7", 1, 0, id="two numbers, right last"),
        pytest.param("7\n8", 0, 0, id="two numbers, wrong last"),
        pytest.param("5 6 7 8 9", 0, 0, id="a list with the right one in it"),
        pytest.param("3+4", 0, 0, id="the question"),
        pytest.param("seven", 0, 0, id="a word"),
        pytest.param("", 0, 0, id="nothing"),
        pytest.param(".", 0, 0, id="a full stop"),
        pytest.param("8<think></think>7", 1, 0, id="a number before the thinking"),
        pytest.param("<think>a</think><think>b</think>7", 1, 0, id="thinking twice"),
        pytest.param("<think>3+4=7</think>", 0, 0, id="only thinking"),
        pytest.param("<think>3+4=7", 0, 0, id="thinking that never ends"),
        pytest.param("7<think>", 0, 0, id="thinking that never ends, behind the number"),
        pytest.param("<answer>7</answer>", 1, 0, id="a tag, which was not asked for"),
        pytest.param("\\boxed{7}", 1, 0, id="nor was a box"),
        pytest.param("<answer>8</answer> 7", 0, 0, id="a tag still wins"),
        pytest.param("9" * 10**6, 0, 0, id="a megabyte of digits"),
    ],
)
def test_the_parts_of_a_reward_for_plain_text(completion: str, correct: int, form: int) -> None:
    env, problem = asked("number")
    assert env.score(problem, completion).parts == {"correct": correct, "format": form}


def test_no_list_of_numbers_earns_the_maximum() -> None:
    """Only the last number counts, and a list costs the form."""
    env = MathEnv(answer="number", terms=[2, 2], digits=1)
    shotgun = " ".join(map(str, range(2, 19)))
    rewards = [env.score(problem, shotgun).parts for problem in drawn(env)]
    assert all(parts["correct"] == 0 or parts["format"] == 0 for parts in rewards)
    assert sum(parts["correct"] for parts in rewards) < len(rewards) / 10
    assert not bare_number(shotgun)


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param("\\boxed{8} <answer>7</answer>", id="a box, then a tag"),
        pytest.param("<answer>8</answer><think></think><answer>7</answer>", id="around thinking"),
    ],
)
def test_two_answers_of_two_kinds_are_not_well_formed(completion: str) -> None:
    assert not well_formed(completion)


@pytest.mark.parametrize(
    ("rewards", "maximum", "form_only"),
    [
        pytest.param(None, 1.1, 0.1, id="by default"),
        pytest.param({"correct": 2.0}, 2.1, 0.1, id="correct weighs more"),
        pytest.param({"format": 0.0}, 1.0, 0.0, id="the form weighs nothing"),
    ],
)
def test_weights(rewards: dict[str, float] | None, maximum: float, form_only: float) -> None:
    env = MathEnv(rewards=rewards)
    env.reset(seed=3)
    assert env.step(env.problem(3).solution)[1] == pytest.approx(maximum)
    env.reset(seed=3)
    assert env.step("<answer>no</answer>")[1] == pytest.approx(form_only)


@pytest.mark.parametrize(
    ("answer", "solution", "asks_for"),
    [
        pytest.param("tag", r"<think>.*</think><answer>-?\d+</answer>", "<answer></answer>"),
        pytest.param("boxed", r"<think>.*</think>\\boxed\{-?\d+\}", "\\boxed{}"),
        pytest.param("number", r"<think>.*</think>-?\d+", "a single number"),
    ],
)
def test_every_answer_format(answer: str, solution: str, asks_for: str) -> None:
    env = MathEnv(answer=answer, level=2)
    assert asks_for in env.system_prompt
    for problem in drawn(env, 30):
        assert re.fullmatch(solution, problem.solution, re.DOTALL)
        assert env.score(problem, problem.solution).parts == {"correct": 1.0, "format": 1.0}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_keeps_every_promise(level: int, answer: str) -> None:
    grpo_envs.check_env(MathEnv(level=level, answer=answer), problems=15)


def test_a_dataset_whose_questions_hold_their_answer_keeps_every_promise(tmp_path: Path) -> None:
    """In plain text the bare gold would stand in such a question: a false alarm of a leak."""
    rows = [{"prompt": f"What is {i} plus 0?", "gold": str(i)} for i in range(400, 440)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    grpo_envs.check_env(MathEnv(answer="number", dataset=str(path)), problems=15)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 6}, "env.level=6. Allowed: 1, 2, 3, 4, 5."),
        ({"level": 0}, "env.level=0. Allowed: 1, 2, 3, 4, 5."),
        ({"answer": "tags"}, "env.answer=tags. Allowed: tag, boxed, number. Did you mean 'tag'?"),
        ({"split": "test"}, "env.split=test. Allowed: train, eval."),
        ({"terms": [4, 2]}, "env.terms=[4, 2]. Allowed: [least, most] within 1 to 20."),
        ({"terms": [2]}, "env.terms=[2]. Allowed: [least, most] within 1 to 20."),
        ({"terms": [2, 3, 4]}, "env.terms=[2, 3, 4]. Allowed: [least, most] within 1 to 20."),
        ({"terms": [0, 2]}, "env.terms=[0, 2]. Allowed: [least, most] within 1 to 20."),
        ({"terms": [2, 21]}, "env.terms=[2, 21]. Allowed: [least, most] within 1 to 20."),
        ({"terms": [1, 2]}, "env.terms=[1, 2]: a sum needs at least 2 terms."),
        ({"digits": 0}, "env.digits=0. Allowed: 1 to 15."),
        ({"digits": 16}, "env.digits=16. Allowed: 1 to 15."),
        ({"operators": "+%"}, "env.operators='+%'. Allowed: some of +-*/="),
        ({"operators": ""}, "env.operators=''. Allowed: some of +-*/="),
        ({"operators": "+="}, "env.operators='+=': '=' stands alone."),
        (
            {"rewards": {"corect": 1.0}},
            "no reward component 'corect'. Allowed: correct, format, judge, length, "
            "length_among_right, repetition, rm. "
            "Did you mean 'correct'?",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("math", **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"level": "2"}, id="a level in quotes"),
        pytest.param({"digits": "2"}, id="digits in quotes"),
        pytest.param({"digits": 1.5}, id="one and a half digits"),
        pytest.param({"terms": 3}, id="one number of terms"),
        pytest.param({"terms": [2.0, 3.5]}, id="broken terms"),
        pytest.param({"terms": [3, 5], "operators": "*"}, id="terms that nothing adds up"),
    ],
)
def test_a_wrong_type_is_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^env\.{next(iter(arguments))}="):
        MathEnv(**arguments)


def test_a_level_is_overridden_piece_by_piece() -> None:
    assert MathEnv(level=3, digits=1).recipe == MathRecipe(operators="+-*", terms=[1, 3], digits=1)
    assert MathEnv(level=3, operators="+*").recipe == MathRecipe(operators="+*", terms=[1, 3])
    assert LEVELS[3] == MathRecipe(operators="+-*", terms=[1, 3], digits=2)
