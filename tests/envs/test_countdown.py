"""Countdown: puzzles that can be solved, and nothing but a solution that is paid as one."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_games.countdown import CountdownEnv, Goal
from grpo_env_games.puzzles import LEVELS, CountdownRecipe, generate
from grpo_envs.errors import ConfigError, DatasetError
from grpo_envs.seeding import rng_for, split_of
from grpo_envs.types import Problem
from grpo_policy.policy import Policy
from tests.support.hostile_arithmetic import HOSTILE, pythons

EVERY_LEVEL = pytest.mark.parametrize("level", LEVELS)


def drawn(env: CountdownEnv, count: int = 200) -> list[Problem]:
    return [env.problem(seed) for seed in range(count)]


def problem(numbers: tuple[int, ...], target: int) -> Problem:
    return Problem(prompt="", gold=Goal(numbers, target), solution="")


def correct(env: CountdownEnv, given: Problem, expression: str) -> float:
    return env.score(given, f"<answer>{expression}</answer>").parts["correct"]


def parts_of(given: Problem) -> tuple[list[str], str]:
    match = re.fullmatch(r"<think>(.*)</think><answer>(.*)</answer>", given.solution, re.DOTALL)
    assert match
    return match[1].split("\n"), match[2]


# Puzzles


@EVERY_LEVEL
def test_the_solution_makes_the_target_out_of_the_numbers(level: int) -> None:
    for given in drawn(CountdownEnv(level=level)):
        _, answer = parts_of(given)
        assert pythons(answer) == given.gold.target
        assert Counter(map(int, re.findall(r"\d+", answer))) == Counter(given.gold.numbers)
        assert set(answer) <= set("0123456789()" + LEVELS[level].operators)
        numbers = ", ".join(map(str, given.gold.numbers))
        assert given.prompt == f"Make {given.gold.target} from {numbers}."


@EVERY_LEVEL
def test_every_step_is_true_and_its_numbers_are_known(level: int) -> None:
    for given in drawn(CountdownEnv(level=level)):
        known = {*map(str, given.gold.numbers), str(given.gold.target), "2"}
        for step in parts_of(given)[0]:
            left, right = step.split("=")
            assert pythons(left) == int(right) > 0
            assert set(re.findall(r"\d+", left)) <= known, given
            known.add(right)


@EVERY_LEVEL
def test_a_level_asks_what_it_says(level: int) -> None:
    recipe = LEVELS[level]
    puzzles = [generate(rng_for(level, i), recipe) for i in range(400)]
    low, high = recipe.values
    assert {len(puzzle.numbers) for puzzle in puzzles} == {recipe.numbers}
    assert all(low <= number <= high for puzzle in puzzles for number in puzzle.numbers)
    assert all(0 < puzzle.target < 1000 for puzzle in puzzles)
    assert all(puzzle.target not in puzzle.numbers for puzzle in puzzles)
    used = [set(re.sub(r"[\d()]", "", puzzle.answer)) for puzzle in puzzles]
    assert set().union(*used) == set(recipe.operators)
    if level >= 3:
        assert any("(" in puzzle.answer for puzzle in puzzles)


def test_level_1_needs_no_luck_and_fits_into_the_bundled_models_answer(tiny: Policy) -> None:
    """The work says which number is subtracted: each step follows from those before it."""
    minus = Counter[int]()
    for given in drawn(CountdownEnv(), 400):
        steps, answer = parts_of(given)
        subtracted = answer.split("-")[1:]
        minus[len(subtracted)] += 1
        assert len(steps) == (4 if subtracted else 2)
        assert all(steps[-1].endswith(f"/2={number}") for number in subtracted)
        assert len(tiny.tokenizer(given.solution)["input_ids"]) + 1 <= 64
    assert set(minus) == {0, 1}
    assert 0.15 < minus[0] / 400 < 0.35  # adding all up is not often right


def test_there_are_thousands_of_puzzles_at_level_1() -> None:
    assert len({given.prompt for given in drawn(CountdownEnv(), 3000)}) > 2700


@pytest.mark.parametrize("operators", ["+", "-", "*", "+*", "-/", "+-", "*/"])
def test_operators_are_overridden(operators: str) -> None:
    env = CountdownEnv(operators=operators, values=[1, 40], numbers=2)
    assert f"with {' '.join(operators)} and" in env.system_prompt
    answers = [parts_of(given)[1] for given in drawn(env, 60)]
    assert set(re.sub(r"[\d()]", "", "".join(answers))) == set(operators)


def test_numbers_and_values_are_overridden() -> None:
    env = CountdownEnv(level=4, numbers=2, values=[3, 9])
    assert env.recipe == CountdownRecipe(numbers=2, values=[3, 9], operators="+-*/")
    for given in drawn(env):
        assert len(given.gold.numbers) == 2
        assert set(given.gold.numbers) <= set(range(3, 10))


def test_splits_share_no_puzzle() -> None:
    train = {given.prompt for given in drawn(CountdownEnv("train"), 2000)}
    held_out = {given.prompt for given in drawn(CountdownEnv("eval"), 500)}
    assert not train & held_out
    assert {split_of(prompt) for prompt in held_out} == {"eval"}


@pytest.mark.parametrize(("level", "use"), [*((level, "all") for level in LEVELS), (4, "some")])
def test_every_level_keeps_every_promise(level: int, use: str) -> None:
    grpo_envs.check_env(CountdownEnv(level=level, use=use), problems=10)


# Answers

PUZZLE = problem((3, 5, 4), 17)


@pytest.mark.parametrize(
    "expression",
    [
        "3*4+5",
        "5 + 4 * 3",
        "(3*4)+5",
        "((3*4+5))",
        "5*4-3",
        "-3+5*4",
        "5-(-3)*4",
        "+3*4+5",
        "3\u00d74+5",
        "3*4+5=17",
        "3*4+5 = 17",
        "3*4\n+5",
        *(r"3 \times 4 + 5", r"3\cdot4+5", r"$3 \times 4 + 5$", r"$$3\cdot 4+5$$", "$3*4+5 = 17$"),
        *(r"\(3 \times 4 + 5\)", r"\[3 \times 4 + 5\]", r"\( 3*4+5 \) = 17", "$3*4+5$ = $17$"),
        *("[3*4]+5", "{3*4}+5", "[(3*4)+5]", r"\{3*4\}+5", r"\left(3 \times 4\right)+5"),
        *(r"\bigl[3*4\bigr]+5", r"{3}\times{4}+{5}", r"3\,\times\,4\;+\;5", r"3 \* 4 + 5"),
        *(
            "3 \u22c5 4 + 5",
            "3 \u2217 4 + 5",
            "5*4 \u2013 3",
            "5*4\u22123",
            "\uff083*4\uff09\uff0b5",
        ),
        *(r"\displaystyle 3\times4+5", "3*4+5\u00a0=\u00a017"),
    ],
)
def test_an_expression_that_makes_17_from_3_5_and_4(expression: str) -> None:
    assert correct(CountdownEnv(level=4), PUZZLE, expression) == 1


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("17", id="the target"),
        pytest.param("17=17", id="the target twice"),
        pytest.param("3+5+4", id="another value"),
        pytest.param("3*4", id="a number missing"),
        pytest.param("3*4+5+0", id="a number added"),
        pytest.param("3*4+5*1", id="a factor added"),
        pytest.param("3*4+5+3-3", id="a number used twice"),
        pytest.param("5+5+4+3", id="one twice, none missing"),
        pytest.param("35-17-1", id="digits put together"),
        pytest.param("34-17", id="and the target used"),
        pytest.param("3*4+5=18", id="equal to something else"),
        pytest.param("3*4+5=", id="equal to nothing"),
        pytest.param("3*4+5=17=17", id="equal twice"),
        pytest.param("3*4+5=17.0", id="equal to a decimal"),
        pytest.param("17=3*4+5", id="the wrong way round"),
        pytest.param("3*4=12+5=17", id="a chain"),
        pytest.param("3*4+5, 5*4-3", id="two expressions"),
        pytest.param("3*4+5 or 17", id="words"),
        pytest.param("3*4+5.0", id="a decimal"),
        pytest.param("3*4+\u0665", id="an Arabic digit"),
        pytest.param("3*4+\uff15", id="a wide digit"),
        pytest.param("3 * 4 + 5 # 17", id="a comment"),
        pytest.param("\\boxed{3*4+5}", id="a box"),
        pytest.param("$3*4+5$ $5*4-3$", id="two formulas"),
        pytest.param("$3$*$4$+$5$", id="a formula for each number"),
        pytest.param("$3*4+5", id="a formula that is not closed"),
        pytest.param("$$", id="an empty formula"),
        pytest.param("[3*4)+5", id="brackets that do not match"),
        pytest.param("[3*4+5", id="a bracket too few"),
        pytest.param("3*4]+5", id="a bracket too many"),
        pytest.param(r"3\times4\div5", id="another value in LaTeX"),
        pytest.param(r"\frac{3*4+5}{1}", id="a number added in a fraction"),
        pytest.param(r"\frac{3}{4}", id="a number missing in a fraction"),
        pytest.param(r"\frac{3*4+5}", id="half a fraction"),
        pytest.param(r"3\times4+5=18", id="equal to something else in LaTeX"),
        pytest.param(r"3\,4-17", id="digits with a blank between them"),
        pytest.param(r"3\times\times4+5", id="an operator twice"),
        pytest.param(r"\text{3*4+5}", id="text"),
        pytest.param(r"3^{4}-64", id="a power in LaTeX"),
        pytest.param(r"\sqrt{3*4+5}", id="a root"),
        pytest.param("3 x 4 + 5 \\", id="a lone backslash"),
        pytest.param("{3,4,5}", id="a set"),
        pytest.param("3**4-64", id="a power"),
        pytest.param("(3*4+5", id="a parenthesis too few"),
        pytest.param("3*4+5)", id="a parenthesis too many"),
        pytest.param("3*4+5/(5-5)", id="nothing divided"),
    ],
)
def test_what_does_not_make_it(expression: str) -> None:
    assert correct(CountdownEnv(level=4), PUZZLE, expression) == 0


@pytest.mark.parametrize("expression", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_a_hostile_expression_is_wrong_at_once(expression: str) -> None:
    env = CountdownEnv(level=4)
    begun = time.perf_counter()
    assert correct(env, PUZZLE, expression) == 0
    assert env.score(PUZZLE, expression).total == 0
    assert time.perf_counter() - begun < 0.5


@pytest.mark.parametrize(
    ("numbers", "target", "expression", "with_all", "with_some"),
    [
        pytest.param((3, 5, 4), 20, "5*4", 0, 1, id="some of the numbers"),
        pytest.param((3, 5, 4), 20, "5*4*(4-3)", 0, 0, id="one of them twice"),
        pytest.param((3, 5, 4), 23, "5*4+3", 1, 1, id="all of them"),
        pytest.param((4, 4, 2), 10, "4+4+2", 1, 1, id="a number given twice"),
        pytest.param((4, 2, 2), 10, "4+4+2", 0, 0, id="another given twice"),
        pytest.param((20, 5, 4), 20, "20", 0, 0, id="a bare number"),
        pytest.param((20, 5, 4), 20, "(20)", 0, 0, id="in parentheses"),
        pytest.param((8, 3, 8, 3), 24, "8/(3-8/3)", 1, 1, id="through fractions"),
        pytest.param((8, 3, 8, 3), 24, "8*3", 0, 1, id="without them"),
        pytest.param((7, 3), 2, "7/3", 0, 0, id="nearly"),
        pytest.param((8, 3, 8, 3), 24, r"\frac{8}{3-\frac{8}{3}}", 1, 1, id="fractions in LaTeX"),
        pytest.param((8, 3, 8, 3), 24, r"$\dfrac8{3-\frac83} = 24$", 1, 1, id="without braces"),
        pytest.param((8, 3, 8, 3), 24, r"8 \div (3 - 8 \div 3)", 1, 1, id="division signs"),
        pytest.param((8, 3, 8, 3), 24, r"\frac{8}{3-\frac{8}{8}}", 0, 0, id="another fraction"),
        pytest.param((12, 4), 3, r"\frac 12 4", 0, 0, id="a fraction of two digits"),
    ],
)
def test_each_number_once_or_at_most_once(
    numbers: tuple[int, ...], target: int, expression: str, with_all: int, with_some: int
) -> None:
    for use, expected in (("all", with_all), ("some", with_some)):
        env = CountdownEnv(level=4, use=use)
        assert correct(env, problem(numbers, target), expression) == expected


def test_only_the_levels_operators_count() -> None:
    assert correct(CountdownEnv(level=1), PUZZLE, "3*4+5") == 0
    assert correct(CountdownEnv(operators="+*"), PUZZLE, "3*4+5") == 1
    assert correct(CountdownEnv(operators="+*"), PUZZLE, "5*4-3") == 0
    assert correct(CountdownEnv(operators="+*"), PUZZLE, r"5*4 - \frac{3}{1}") == 0
    assert correct(CountdownEnv(level=1), PUZZLE, r"3 \times 4 + 5") == 0


@pytest.mark.parametrize(
    ("completion", "correct", "form"),
    [
        pytest.param("<answer>3*4+5</answer>", 1, 1, id="bare"),
        pytest.param("<think>3*4=12</think><answer>3*4+5</answer>", 1, 1, id="after thinking"),
        pytest.param("<answer>3*4+5</answer> is 17", 1, 0, id="words behind it"),
        pytest.param("<answer>3+4+5</answer>", 0, 1, id="wrong in the right form"),
        pytest.param("<answer>3+4</answer><answer>3*4+5</answer>", 0, 0, id="two answers"),
        pytest.param("<answer>3*4+5</answer><answer>3*4+5</answer>", 0, 0, id="the same twice"),
        pytest.param("3*4+5", 0, 0, id="no tag"),
        pytest.param("<think><answer>3*4+5</answer>", 0, 0, id="only thought"),
        pytest.param("", 0, 0, id="nothing"),
    ],
)
def test_the_parts_of_a_reward(completion: str, correct: int, form: int) -> None:
    reward = CountdownEnv(level=4).score(PUZZLE, completion)
    assert reward.parts == {"correct": correct, "format": form}


def test_an_episode_says_why_an_answer_is_wrong() -> None:
    env = grpo_envs.make("countdown")
    env.reset(seed=1)  # Make 78 from 19, 29, 30.
    *_, info = env.step("<answer>19+29-30</answer>")
    assert info["detail"] == "it comes to 18"
    env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step("<answer>19+29+30</answer>")
    assert (terminated, truncated, info["detail"]) == (True, False, "")
    assert reward == pytest.approx(1.1)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 6}, "env.level=6. Allowed: 1, 2, 3, 4, 5."),
        ({"numbers": 1}, "env.numbers=1. Allowed: 2 to 6."),
        ({"numbers": 7}, "env.numbers=7. Allowed: 2 to 6."),
        ({"numbers": "3"}, "env.numbers=3. Allowed: 2 to 6."),
        ({"values": [9, 2]}, "env.values=[9, 2]. Allowed: [least, most] within 1 to 999."),
        ({"values": [0, 2]}, "env.values=[0, 2]. Allowed: [least, most] within 1 to 999."),
        ({"values": 5}, "env.values=5. Allowed: [least, most] within 1 to 999."),
        ({"operators": "+^"}, "env.operators=+^. Allowed: some of +-*/."),
        ({"operators": ""}, "env.operators=. Allowed: some of +-*/."),
        ({"use": "any"}, "env.use=any. Allowed: all, some."),
        (
            {"numbers": 2, "values": [7, 7], "operators": "-"},
            "env.numbers=2, env.values=[7, 7], env.operators='-': no target can be made.",
        ),
        (
            {"numbers": 2, "values": [7, 7], "operators": "+"},
            "env.values=[7, 7]: too few puzzles for two splits.",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("countdown", **arguments)
    assert str(caught.value) == message


# Datasets


def rows_in(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_a_dataset_of_numbers_and_targets(tmp_path: Path) -> None:
    rows = [{"nums": [3, 5, n], "target": 15 + n} for n in range(6, 40)]
    columns = {"numbers": "nums"}
    env = CountdownEnv(dataset=rows_in(tmp_path, rows), columns=columns)
    assert "with + - * / and" in env.system_prompt  # whatever the level
    for seed in range(20):
        given = env.problem(seed)
        last = given.gold.numbers[2]
        assert given.prompt == f"Make {15 + last} from 3, 5, {last}."
        assert correct(env, given, f"3*5+{last}") == 1
    grpo_envs.check_env(env, problems=10)


def test_numbers_of_a_table_without_lists(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f'"{n}, 5, 4",{n + 9}' for n in range(20)]
    path.write_text("\n".join(["numbers,target", *lines, "[1 2 3],6"]), encoding="utf-8")
    env = CountdownEnv(dataset=str(path))
    goals = {env.problem(seed).gold for seed in range(40)}
    assert Goal((7, 5, 4), 16) in goals
    assert Goal((1, 2, 3), 6) in {env.from_row(row).gold for row in (env.rows or exit()).all()}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"numbers": [3, -5], "target": 2},
            "row 2: numbers '[3, -5]' are not 2 to 20",
        ),
        ({"numbers": [3], "target": 3}, "row 2: numbers '[3]' are not 2 to 20"),
        (
            {"numbers": "three", "target": 3},
            "row 2: numbers 'three' are not 2 to 20",
        ),
        (
            {"numbers": [3, 4.5], "target": 3},
            "row 2: numbers '[3, 4.5]' are not 2 to 20",
        ),
        ({"numbers": [3, 4], "target": "x"}, "row 2: target 'x' is no whole number."),
        ({"numbers": [3, 4], "target": -1}, "row 2: target '-1' is no whole number."),
        ({"numbers": [3, 4], "target": None}, "row 2 has no 'target'."),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"numbers": "1, 2", "target": "3"}, _texts(row)]), encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        CountdownEnv(dataset=str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value is None else str(value) for key, value in row.items()}
