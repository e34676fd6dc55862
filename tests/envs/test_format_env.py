"""The format environment: prompts that can be met, answers checked, parts that are earned."""

import dataclasses
import hashlib
import json
import random
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from grpo_env_format import FormatEnv
from grpo_env_format.build import build
from grpo_envs.env.conformance import check_env
from grpo_envs.errors import ConfigError, DatasetError
from grpo_envs.graders.format import CONSTRAINTS, constraint_from
from grpo_envs.graders.format.languages import NAMES
from grpo_envs.types import Problem
from tests.support.format_cases import CASES

DRAWS = 300
PIECES = re.compile(r"</?\w+>| ?[a-z]+|\d|[^\w\s]|\s+")
"""About the tokens of the bundled model, where every word of ours is one."""


def drawn(env: FormatEnv, count: int = DRAWS) -> list[Problem]:
    return [env.problem(seed) for seed in range(count)]


# Level 1: what the bundled model learned from


@pytest.mark.parametrize(
    ("seed", "prompt", "solution"),
    [
        (
            0,
            "write a json object with the keys hat map.",
            '<think>1 hat\n2 map</think><answer>{"hat":1,"map":2}</answer>',
        ),
        (
            2,
            "write exactly 3 numbers with the sum 38.",
            "<think>4+17=21\n21+17=38</think><answer>4 17 17</answer>",
        ),
        (
            3,
            "write these words in alphabetical order: fox sea cloud.",
            "<think>fox\nfox sea\ncloud fox sea</think><answer>cloud fox sea</answer>",
        ),
        (
            5,
            "write about cup and box. use exactly 5 words.",
            "<think>1 cup\n2 box\n3 fox\n4 star\n5 moon</think>"
            "<answer>cup box fox star moon</answer>",
        ),
        (
            10,
            "write about hat and stone. use exactly 14 letters.",
            "<think>hat 3\nstone 8\npen 11\nmap 14</think><answer>hat stone pen map</answer>",
        ),
    ],
)
def test_level_1_shows_its_work(seed: int, prompt: str, solution: str) -> None:
    problem = FormatEnv().problem(seed)
    assert (problem.prompt, problem.solution) == (prompt, solution)


def test_level_1_is_still_what_the_bundled_model_learned_from() -> None:
    """A change here asks for another pretraining."""
    text = "\0".join(problem.prompt + "\0" + problem.solution for problem in drawn(FormatEnv()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "120dcb6126649ee1"


def test_level_1_is_short() -> None:
    for problem in drawn(FormatEnv()):
        assert len(problem.prompt.split()) <= 25
        assert len(PIECES.findall(problem.solution)) <= 45


# All levels


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_a_solution_satisfies_all_and_nothing_and_the_prompt_satisfy_none(level: int) -> None:
    env = FormatEnv(level=level)
    for problem in [*drawn(env, 60), *(env.problem(seed, "eval") for seed in range(20))]:
        for answer, parts in (
            (problem.solution, {"satisfied": 1, "format": 1}),
            ("", {"satisfied": 0, "format": 0}),
            (problem.prompt, {"satisfied": 0, "format": 0}),
            ("<answer></answer>", {"satisfied": 0, "format": 0}),
            (f"<answer>{problem.prompt}</answer>", {"satisfied": 0, "format": 1}),
            (f"<answer>So: {problem.prompt.upper()} sun</answer>", {"satisfied": 0, "format": 1}),
        ):
            assert env.score(problem, answer).parts == parts, (problem.prompt, answer)


def test_levels_compose_more_and_more() -> None:
    counts = {
        level: {len(problem.gold) for problem in drawn(FormatEnv(level=level), 30)}
        for level in (1, 2, 3, 4, 5)
    }
    assert counts == {1: {1}, 2: {2}, 3: {3}, 4: {2}, 5: {4}}
    used = {
        c.name for level in (3, 4, 5) for p in drawn(FormatEnv(level=level), 80) for c in p.gold
    }
    structures = {"json_schema", "json_keys", "xml", "yaml", "table", "sections", "tags"}
    assert structures < used
    ifeval = {"language", "first_word", "repeat_prompt", "numbered_sections", "two_responses"}
    assert ifeval | {"avoids_phrases"} < used
    assert len(used) >= 20


@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_the_prompt_tells_every_constraint(level: int) -> None:
    for problem in drawn(FormatEnv(level=level), 30):
        for constraint in problem.gold:
            assert f" {constraint.instruction}." in problem.prompt


SLOW_LEVELS = [pytest.param(level, marks=pytest.mark.slow) for level in (3, 5)]


@pytest.mark.parametrize("level", [1, 2, 4, *SLOW_LEVELS])
def test_every_level_keeps_the_contract(level: int) -> None:
    check_env(FormatEnv(level=level), problems=6)


# The reward


THREE = [
    {"name": "words", "least": 3, "most": 5},
    {"name": "starts_with", "phrase": "Dear"},
    {"name": "length", "least": 4, "most": 4, "slope": 1},
]


@pytest.mark.parametrize(
    ("text", "fraction", "every"),
    [
        ("Dear fox and sea", 1, 1),
        ("Dear fox and", (1 + 1 + 0.5) / 3, 0),
        ("dear fox and sea", 2 / 3, 0),
        ("Dear fox", 1 / 3, 0),
        ("fox", 0, 0),
    ],
)
def test_satisfied_is_the_mean_or_all(text: str, fraction: float, every: float) -> None:
    for passed, value in (("fraction", fraction), ("all", every)):
        env = FormatEnv(constraints=THREE, passed=passed)
        reward = env.score(env.problem(0), f"<answer>{text}</answer>")
        assert reward.parts == pytest.approx({"satisfied": value, "format": 1})


@pytest.mark.parametrize(
    ("answer", "satisfied", "form"),
    [
        ("<think>a</think> <answer>Dear fox and sea</answer>\n", 1, 1),
        ("<answer>Dear fox and sea</answer>.", 1, 0),
        ("Here: <answer>Dear fox and sea</answer>", 1, 0),
        ("<answer>x</answer><answer>Dear fox and sea</answer>", 0, 0),
        ("<answer>Dear fox and sea", 0, 0),
        ("</answer>Dear fox and sea<answer>", 0, 0),
        ("<think><answer>Dear fox and sea</answer>", 0, 0),
        ("<think><answer>Dear fox and sea</answer></think>", 0, 0),
        ("<answer>Dear fox and sea</answer><think>a</think>", 0, 0),
        ("Dear fox and sea", 0, 0),
    ],
)
def test_what_stands_around_the_answer(answer: str, satisfied: float, form: float) -> None:
    env = FormatEnv(constraints=THREE)
    parts = env.score(env.problem(0), answer).parts
    assert parts == {"satisfied": satisfied, "format": form}


def test_all_of_the_text_can_be_the_answer() -> None:
    env = FormatEnv(constraints=THREE, answer="text")
    problem = env.problem(0)
    assert "<answer>" not in problem.solution + env.system_prompt
    best = {"satisfied": 1, "format": 1}
    assert env.score(problem, problem.solution).parts == best
    assert env.score(problem, "<think>a</think>Dear fox and sea").parts == best
    assert env.score(problem, "<answer>Dear fox and sea</answer>").parts["format"] == 0
    check_env(env, problems=5)


# Declared constraints


def test_declared_constraints_come_with_changing_topics() -> None:
    env = FormatEnv(constraints=THREE[:2])
    problems = drawn(env, 20)
    assert len({problem.prompt for problem in problems}) > 15
    assert problems[0].prompt.endswith(". use 3 to 5 words. start with the words Dear.")
    assert {constraint.name for constraint in problems[0].gold} == {"words", "starts_with"}
    check_env(env, problems=10)


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(CASES)])
def test_an_answer_to_each_constraint_is_built(case: tuple[str, dict[str, Any], Any, Any]) -> None:
    name, options, right, _ = case
    example = {"example": right[0]} if name == "regex" else {}
    constraint = constraint_from({"name": name, **options, **example})
    for seed in range(8):
        answer = build(random.Random(seed), [constraint])
        assert answer is not None
        assert constraint.check(answer) == 1


@pytest.mark.parametrize("language", NAMES)
def test_an_answer_in_each_language_is_built(language: str) -> None:
    constraints = [constraint_from({"name": "language", "language": language})]
    assert build(random.Random(1), constraints) is not None
    constraints.append(constraint_from({"name": "bullets", "least": 2, "most": 3}))
    assert build(random.Random(2), constraints) is not None


@pytest.mark.parametrize(
    "names",
    [
        [{"name": "first_word", "word": "fox", "paragraph": 2}, {"name": "words", "least": 20}],
        [{"name": "repeat_prompt", "prompt": "Why?"}, {"name": "sentences", "least": 3, "most": 3}],
        [{"name": "two_responses"}, {"name": "bullets", "least": 2, "most": 2}],
        [{"name": "numbered_sections", "least": 3, "word": "Day"}, {"name": "words", "most": 30}],
        [{"name": "language", "language": "fr"}, {"name": "postscript", "marker": "P.P.S."}],
        [{"name": "avoids_phrases", "phrases": ["old fox", "sea"]}, {"name": "title"}],
        [{"name": "words", "least": 20, "most": 20}, {"name": "sentences", "least": 4, "most": 4}],
        [{"name": "paragraphs", "least": 3, "most": 3}, {"name": "bullets", "least": 3, "most": 3}],
        [{"name": "json_keys", "keys": ["a", "b"]}, {"name": "words", "least": 9, "most": 9}],
        [{"name": "sections", "headings": ["A", "B"]}, {"name": "bullets", "least": 2, "most": 2}],
        [{"name": "title"}, {"name": "postscript"}, {"name": "starts_with", "phrase": "Dear"}],
        [{"name": "quoted"}, {"name": "case", "case": "upper"}, {"name": "distinct", "least": 6}],
        [{"name": "characters", "least": 50, "most": 50}, {"name": "ends_with", "phrase": "end."}],
    ],
    ids=lambda names: "+".join(one["name"] for one in names),
)
def test_answers_to_constraints_together_are_built(names: list[dict[str, Any]]) -> None:
    env = FormatEnv(constraints=names)
    for problem in drawn(env, 5):
        assert env.score(problem, problem.solution).parts == {"satisfied": 1, "format": 1}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"constraints": [*THREE, {"name": "case", "case": "lower"}]},
            "env.constraints: no answer was found that satisfies all of words, starts_with, "
            "length, case.",
        ),
        (
            {"constraints": [{"name": "regex", "pattern": "a+"}]},
            "env.constraints: no answer was found that satisfies all of regex. regex is met by "
            "its example=, a text that the pattern matches.",
        ),
        (
            {"constraints": [{"name": "tags", "tags": ["answer"]}]},
            "tags: <answer>: the reward component `format` checks these already.",
        ),
        ({"constraints": []}, "constraints=[]. Allowed: a list of {name: ..., <option>: ...}."),
        ({"level": 6}, "env.level=6. Allowed: 1, 2, 3, 4, 5. Did you mean"),
        ({"passed": "al"}, "env.passed=al. Allowed: fraction, all. Did you mean 'all'?"),
        ({"answer": "tags"}, "env.answer=tags. Allowed: tag, text. Did you mean 'tag'?"),
        (
            {"constraints": THREE, "dataset": "rows.jsonl"},
            "env.constraints and env.dataset exclude each other: set one.",
        ),
    ],
)
def test_configuration_errors(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        FormatEnv(**keywords)
    text = str(error.value)
    assert text == message or (message.endswith("mean") and text.startswith(message[:-13]))


# Rows of a dataset


def rows(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


GREETING = {"prompt": "Greet a fox.", "constraints": THREE[:2], "solution": "Dear old fox"}
OTHER = {**GREETING, "prompt": "Greet the sea."}
BARE = {"prompt": "fox", "constraints": [{"name": "avoids", "words": ["sea"]}]}


def test_rows_bring_prompts_and_constraints(tmp_path: Path) -> None:
    framed = {**GREETING, "prompt": "Again.", "solution": "<answer>Dear old fox</answer>"}
    text = {**GREETING, "prompt": "As text.", "constraints": json.dumps(THREE[:2])}
    env = FormatEnv(dataset=rows(tmp_path / "rows.jsonl", GREETING, BARE, framed, text))
    assert env.rows is not None
    found = {row.text("prompt"): env.from_row(row) for row in env.rows.all()}
    assert found["Greet a fox."].solution == "<answer>Dear old fox</answer>"
    assert found["Again."].solution == "<answer>Dear old fox</answer>"
    assert found["As text."].gold == found["Again."].gold
    assert found["fox"].solution == ""
    assert env.score(found["fox"], "<answer>a fox</answer>").parts["satisfied"] == 1
    assert env.score(found["fox"], "<answer>Fox</answer>").parts["satisfied"] == 0


def test_a_row_may_ask_for_its_own_prompt(tmp_path: Path) -> None:
    """What repeats a prompt satisfies nothing, except where that is asked for."""
    constraints = [{"name": "repeat_prompt", "prompt": "Tell me of the sea."}]
    row = {"prompt": "Tell me of the sea.", "constraints": constraints}
    env = FormatEnv(dataset=rows(tmp_path / "rows.jsonl", row, OTHER), answer="text")
    assert env.rows is not None
    problem = next(
        made for made in map(env.from_row, env.rows.all()) if made.prompt == row["prompt"]
    )
    for text, satisfied in (
        ("Tell me of the sea. It is blue.", 1),
        ("Tell me of the sea.", 0),
        ("Tell me of the sea. Tell me of the sea.", 0),
        ("It is blue. Tell me of the sea.", 0),
    ):
        assert env.score(problem, text).parts["satisfied"] == satisfied, text


def test_rows_declare_the_kinds_of_ifeval(tmp_path: Path) -> None:
    kinds = [
        {"name": "language", "language": "de"},
        {"name": "first_word", "word": "Der", "paragraph": 1, "paragraphs": 2},
        {"name": "postscript", "marker": "P.P.S."},
        {"name": "avoids_phrases", "phrases": ["die Katze"]},
    ]
    right = "Der Fuchs ist nicht im Haus.\n\nP.P.S. Er ist auch nicht am See."
    row = {"prompt": "Auf Deutsch!", "constraints": kinds, "solution": right}
    env = FormatEnv(dataset=rows(tmp_path / "rows.jsonl", row, OTHER))
    assert env.rows is not None
    problem = next(made for made in map(env.from_row, env.rows.all()) if len(made.gold) == 4)
    assert env.score(problem, problem.solution).parts == {"satisfied": 1, "format": 1}
    wrong = right.replace("Der Fuchs", "Und die Katze")
    assert env.score(problem, f"<answer>{wrong}</answer>").parts["satisfied"] == 0.5


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**GREETING, "prompt": " "}, "row 2 has no 'prompt'."),
        (
            {**OTHER, "constraints": [{"name": "wrods"}]},
            "row 2: constraints: constraint name=wrods. *Did you mean 'words'[?]",
        ),
        ({**OTHER, "constraints": "[{"}, "row 2: constraints: Expecting*"),
        ({**OTHER, "constraints": None}, "row 2: constraints: constraints=None. *"),
        (
            {**OTHER, "solution": "dear fox"},
            "row 2: the solution does not satisfy words, starts_with.",
        ),
        (
            {"prompt": "a", "constraint": []},
            "row 2: constraints: constraints=None. Allowed: a list of*",
        ),
    ],
)
def test_dataset_errors_name_the_row(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = rows(tmp_path / "rows.jsonl", GREETING, record)
    with pytest.raises(DatasetError) as error:
        FormatEnv(dataset=path)
    assert "\n" not in str(error.value)
    assert fnmatchcase(str(error.value), f"*rows.jsonl: {message}*"), str(error.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", {"prompt": "a", "rules": []})
    with pytest.raises(DatasetError, match=r"no column 'constraints'.*env.columns="):
        FormatEnv(dataset=path)


# The page


def test_the_page_lists_every_constraint_with_its_options() -> None:
    page = (Path(__file__).parents[2] / "envs" / "README.md").read_text(encoding="utf-8")
    section = page.partition("## `env=format`")[2].partition("\n## ")[0]
    listed = {}
    for name, options in re.findall(r"(?m)^\| `(\w+)` \| ([^|]*) \|", section):
        listed[name] = re.findall(r"`(\w+)`", options)
    assert listed == {
        name: [field.name for field in dataclasses.fields(kind)]
        for name, kind in CONSTRAINTS.items()
    }
