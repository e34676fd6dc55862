"""Datasets of programs in the layouts that people have: found by their columns, and all judged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from grpo_env_code import CodeEnv
from grpo_env_code.layouts import LAYOUTS, layout_of, prompt_of
from grpo_env_code.sampled import within
from grpo_envs.errors import ConfigError, DatasetError, UnknownName
from grpo_envs.graders.code import read_tests
from grpo_envs.types import Problem
from tests.conftest import Write

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "data" / "cases" / "code"
HANDED = sorted(CASES.glob("layout_*.jsonl"))
SAMPLES = [json.loads(line) for line in (CASES / "layouts.jsonl").read_text("utf-8").splitlines()]
READ = [sample for sample in SAMPLES if "error" not in sample]
REFUSED = [sample for sample in SAMPLES if "error" in sample]


def runs(kind: str) -> bool:
    """Whether the judge of this version runs tests of that kind."""
    try:
        if kind == "methods":
            read_tests(["assert Solution().f(1) == 1"], "Solution().f", "a probe")
            return True
        tests = read_tests("def test_one():\n    assert f(1) == 2\n", "f", "a probe")
    except DatasetError:
        return False
    from grpo_envs.graders.code import grade_code
    from grpo_envs.sandbox.shared import shared_pool

    return grade_code(tests, "def f(x):\n    return x", shared_pool("auto", None)).passed == 0


def is_judged(sample: Mapping[str, Any]) -> bool:
    methods = sample["entry_point"].startswith("Solution()")
    return (not methods or METHODS) and (not sample.get("after_merge") or FUNCTIONS)


METHODS, FUNCTIONS = runs("methods"), runs("functions")
"""Methods of `class Solution`, and pytest functions and TestCases."""


SUM = "print(sum(map(int, input().split())))"
DOUBLE = "def double(x):\n    return 2 * x"


def block(program: str) -> str:
    return f"```python\n{program}\n```"


def loaded(path: str, **keywords: Any) -> list[Problem]:
    env = CodeEnv(dataset=path, **keywords)
    assert env.rows is not None
    rows = sorted(env.rows.all(), key=lambda row: row.number)
    return [env.problem_of(row) for row in rows]


# The files that people have


@pytest.mark.parametrize("path", HANDED, ids=lambda path: path.stem)
def test_a_file_loads_as_it_is(path: Path) -> None:
    if path.stem == "layout_leetcodedataset" and not METHODS:
        pytest.skip("the judge runs no methods")
    if path.stem in ("layout_kodcode", "layout_bigcodebench") and not FUNCTIONS:
        pytest.skip("the judge runs no test functions")
    problems = loaded(str(path))
    assert len(problems) == 3
    env = CodeEnv()
    for problem in problems:
        assert problem.prompt
        alone = SUM if problem.gold.kind == "stdio" else DOUBLE
        answers = [problem.solution or block(alone), block("x = 1")]
        right, wrong = env.score_batch([problem] * 2, answers)
        assert right.parts == {"passed": 1, "runs": 1, "format": 1}
        assert wrong.valid
        assert wrong.parts["passed"] == 0


def form_of(sample: Mapping[str, Any]) -> tuple[str, str]:
    """The layout and the column of the prompt, which rows of a file share."""
    layout = layout_of(sample["row"])
    assert layout is not None
    return layout.name, prompt_of(layout, sample["row"])


def test_there_are_samples_of_every_layout() -> None:
    assert {one["layout"] for one in READ} == {layout.name for layout in LAYOUTS}
    assert all(form_of(sample)[0] == sample["layout"] for sample in SAMPLES)


@pytest.mark.parametrize("form", sorted(set(map(form_of, READ))), ids=": ".join)
def test_each_layout_is_found_and_judged(form: tuple[str, str], write: Write) -> None:
    """All samples of a layout stand in one file, whose rows differ as those of the sets do."""
    samples = [one for one in READ if form_of(one) == form and is_judged(one)]
    if not samples:
        pytest.skip("the judge runs none of its tests")
    twin = {**samples[0], "row": renamed(samples[0]["row"])}
    samples.append(twin)
    env = CodeEnv(dataset=write("rows.jsonl", [one["row"] for one in samples]))
    assert env.source.layout.name == form[0]
    problems = loaded(env.source.dataset)
    answers = [block(one[key]) for key in ("right", "wrong") for one in samples]
    rewards = env.score_batch([*problems, *problems], answers)
    assert all(reward.valid for reward in rewards), [r.error for r in rewards]
    passed = [reward.parts["passed"] for reward in rewards]
    for sample, problem, right, wrong in zip(
        samples, problems, passed, passed[len(samples) :], strict=False
    ):
        assert (right, wrong < 1) == (1, True), sample["about"]
        found = problem.gold.kind, problem.gold.entry_point, len(problem.gold.cases)
        assert found == (sample["kind"], sample["entry_point"], sample["cases"]), sample["about"]
        compare_rest(sample, problem)


def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with another prompt: a single one cannot be split in two."""
    text = json.dumps(row).replace("Task ", "Another task ").replace("Add: ", "Add again: ")
    changed: dict[str, Any] = json.loads(text)
    assert changed != row
    return changed


def compare_rest(sample: Mapping[str, Any], problem: Problem) -> None:
    about = sample["about"]
    assert problem.gold.visible == sample.get("visible", problem.gold.visible), about
    assert problem.meta.get("time_limit", 0) == sample.get(
        "time_limit", problem.meta.get("time_limit", 0)
    ), about
    assert sample.get("setup", "") in problem.gold.preamble, about
    assert problem.system_prompt == sample.get("system", problem.system_prompt), about
    assert bool(problem.solution) == sample.get("solution", bool(problem.solution)), about
    if sample["entry_point"]:
        assert sample["entry_point"].rpartition(".")[2] in problem.prompt, about


@pytest.mark.parametrize("sample", REFUSED, ids=lambda one: f"{one['layout']}: {one['about']}")
def test_a_row_that_cannot_be_read_is_one_line(sample: dict[str, Any], write: Write) -> None:
    same = [one for one in READ if form_of(one) == form_of(sample) and is_judged(one)]
    fine = [one["row"] for one in same[:3]]
    path = write("rows.jsonl", [*fine, sample["row"]])
    with pytest.raises(DatasetError) as caught:
        CodeEnv(dataset=path)
    text = str(caught.value)
    assert text.startswith(f"{path}: row {len(fine) + 1}: ")
    assert sample["error"] in text
    assert text.endswith(
        f" 1 of {len(fine) + 1} rows cannot be read; env.unreadable=drop leaves it out."
    )
    assert "\n" not in text
    assert len(loaded(path, unreadable="drop")) == len(fine)


def test_an_unknown_layout_names_what_was_found_and_what_is_wanted(write: Write) -> None:
    path = write("rows.jsonl", [{"promt": "a", "code": "b"}, {"promt": "c", "code": "d"}])
    with pytest.raises(DatasetError) as caught:
        CodeEnv(dataset=path)
    assert str(caught.value).startswith(
        f"{path}: no known layout has the columns promt, code. Did you mean 'promt'? Wanted: "
        "prompt and tests; set env.columns={prompt: ..., tests: ...}, or give rows in the layout "
        "of LiveCodeBench"
    )


def test_columns_of_the_configuration_come_before_the_layout(write: Write) -> None:
    row = next(one["row"] for one in READ if one["layout"] == "APPS, TACO")
    rows = [
        {**row, "mine": f"Mine {i}.", "checks": {"inputs": ["1 2"], "outputs": ["3"]}}
        for i in range(3)
    ]
    columns = {"prompt": "mine", "tests": "checks"}
    problems = loaded(write("rows.jsonl", rows), columns=columns)
    assert [problem.prompt for problem in problems] == ["Mine 0.", "Mine 1.", "Mine 2."]
    assert [len(problem.gold.cases) for problem in problems] == [1, 1, 1]
    assert all(problem.solution for problem in problems)  # the layout's
    with pytest.raises(UnknownName, match=r"env.columns 'promt'.*Did you mean 'prompt'"):
        CodeEnv(dataset="rows.jsonl", columns={"promt": "mine"})


def test_the_page_lists_every_layout() -> None:
    page = (ROOT / "envs" / "README.md").read_text(encoding="utf-8")
    section = page.partition("### Layouts of datasets")[2].partition("\n###")[0]
    for layout in LAYOUTS[1:]:
        columns = [name for entry in layout.has for name in entry.split("|")]
        line = next(line for line in section.splitlines() if line.startswith(f"| {layout.name} |"))
        assert all(f"`{name}`" in line for name in columns), layout.name


# Checkers


PAIRS = {"inputs": ["6", "35"], "outputs": ["2 3", "5 7"]}
BACKWARDS = block(
    "n = int(input())\na = next(a for a in range(2, n) if n % a == 0)\nprint(n // a, a)"
)


def is_product(stdin: str, stdout: str, expected: str) -> bool:
    a, b = map(int, stdout.split())
    return a * b == int(stdin) and min(a, b) > 1


@pytest.mark.parametrize("checker", ["unordered_words", "tests.envs.test_code_layouts:is_product"])
def test_a_checker_of_the_configuration(checker: str, write: Write) -> None:
    rows = [{"prompt": f"Factors {i}.", "tests": PAIRS} for i in range(3)]
    path = write("rows.jsonl", rows)
    env = CodeEnv(dataset=path, checker=checker)
    problem = loaded(path, checker=checker)[0]
    answers = [BACKWARDS, block("print(input(), 1)"), block("print('no number')"), block("1 / 0")]
    assert [env.score(problem, answer).parts["passed"] for answer in answers] == [1, 0, 0, 0]
    assert CodeEnv(dataset=path).score(loaded(path)[0], BACKWARDS).parts["passed"] == 0


def test_the_checker_of_a_row_comes_first_and_is_confined(write: Write, tmp_path: Path) -> None:
    """Code of a row writes no file of this machine, and says yes by True alone."""
    mark = tmp_path / "written"
    writes = f"open({str(mark)!r}, 'w').write('x')"
    code = f"def check(stdin, stdout, expected):\n    {writes}\n    return True"
    rows = [
        {"prompt": "Writes.", "tests": PAIRS, "checker": code},
        {"prompt": "One.", "tests": PAIRS, "checker": "def check(a, b, c):\n    return 1"},
        {"prompt": "Yes.", "tests": PAIRS, "checker": "def check(a, b, c):\n    return True"},
        {"prompt": "Hangs.", "tests": PAIRS, "checker": "def check(a, b, c):\n    while 1: pass"},
    ]
    path = write("rows.jsonl", rows)
    env = CodeEnv(dataset=path, checker="unordered_words", wall_s=2)
    problems = loaded(path, checker="unordered_words")
    rewards = env.score_batch(problems, [BACKWARDS] * 4)
    assert [reward.parts["passed"] for reward in rewards] == [0, 0, 1, 0]
    assert not mark.exists()


@pytest.mark.parametrize(
    ("checker", "message"),
    [
        ("unordered_line", "env.checker=unordered_line. Allowed: .*Did you mean 'unordered_lines'"),
        ("no.such.package:check", "env.checker=no.such.package:check: cannot be imported"),
        ("json:nothing", "env.checker=json:nothing: cannot be imported"),
        ({"tolerance": 2}, "env.checker={tolerance: 2}. Allowed: above 0"),
        ("def check(x):\n    return True", "env.checker defines no check"),
        (3, "env.checker=3. Allowed: unordered_lines"),
    ],
)
def test_a_checker_that_there_is_not(checker: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        CodeEnv(dataset="rows.jsonl", checker=checker)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"env.checker is for a dataset: set env.dataset\."):
        CodeEnv(checker="ignore_case")


# Limits and samples


@pytest.mark.parametrize(
    ("given", "cpu_s"),
    [
        (None, 5),
        (1, 2),
        (1.5, 3),
        ("2 seconds", 3),
        ("0.5 sec", 2),
        ({"seconds": 2, "nanos": 500_000_000}, 4),
        ('{"seconds": 1, "nanos": 0}', 2),
        (30, 5),
        ("unlimited", 5),
        (0, 5),
    ],
)
def test_the_time_limit_of_a_row_applies(given: Any, cpu_s: int, write: Write) -> None:
    rows = [{"prompt": f"Sum {i}.", "tests": PAIRS, "time_limit": given} for i in range(2)]
    env = CodeEnv(dataset=write("rows.jsonl", rows))
    assert env.limits.cpu_s == 5
    assert within(env.limits, env.problem(0)).cpu_s == cpu_s


def test_rows_whose_solutions_fail_are_left_out_on_demand(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": f"Sum {i}.", "tests": PAIRS, "solution": "print(1)" if i == 1 else None}
        for i in range(4)
    ]
    path = write("rows.jsonl", rows)
    with pytest.raises(DatasetError, match="row 2: its solution earns passed 0, runs 1"):
        CodeEnv(dataset=path)
    assert len(loaded(path, unreadable="drop")) == 3
    assert "row 2: its solution earns passed 0" in caplog.text
