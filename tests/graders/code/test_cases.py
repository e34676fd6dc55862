"""Every case of tests/data/cases/code: what is paid, what is refused, what is read.

The cases came in as they were found, in files by kind; more of each kind stand behind them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import DatasetError
from grpo_envs.graders.code import CodeTests, grade_code, program_of, read_tests
from grpo_envs.graders.code.entry import asserted_function
from grpo_envs.sandbox import Limits, LocalPool

FOLDER = Path(__file__).parents[2] / "data" / "cases" / "code"
LIMITS = Limits(wall_s=8.0, cpu_s=4)
SHORT = Limits(wall_s=1.5, cpu_s=1)
DOUBLE = {"kind": "call", "cases": [{"args": [2], "expected": 4}, {"args": [0], "expected": 0}]}


def cases(name: str) -> pytest.MarkDecorator:
    lines = next(FOLDER.glob(f"{name}_*.jsonl")).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows
    ids = [f"{name}-{number}" for number in range(1, len(rows) + 1)]
    return pytest.mark.parametrize("row", rows, ids=ids)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(workers=1)
    yield pool
    pool.close()


def passed(tests: CodeTests, program: str, pool: LocalPool, limits: Limits = LIMITS) -> float:
    return grade_code(tests, program, pool, limits).passed


@cases("01")
def test_tests_that_never_run_pay_nothing(row: dict[str, Any], pool: LocalPool) -> None:
    if row["want"] == "DatasetError":
        with pytest.raises(DatasetError, match=r"^a row: tests? .*[.]$") as caught:
            read_tests(row["tests"], row["entry_point"], "a row")
        assert "\n" not in str(caught.value)
        return
    try:
        tests = read_tests(row["tests"], row["entry_point"], "a row")
    except DatasetError:
        return
    assert passed(tests, row["wrong_program"], pool) == 0


@cases("02")
def test_limits_that_a_program_sets_are_its_own(row: dict[str, Any], pool: LocalPool) -> None:
    """SandboxError would come up here: the reward is valid."""
    tests = read_tests(DOUBLE, "f", "a row")
    before = set(pool._workers)
    paid = float("passed 1" in row.get("want", ""))
    assert passed(tests, row["program"], pool, SHORT) == paid
    assert not before or set(pool._workers) == before


@cases("03")
def test_what_python_swallows_pays_nothing(row: dict[str, Any], pool: LocalPool) -> None:
    tests = read_tests(row["tests"], row["entry_point"], "a row")
    assert passed(tests, row["program"], pool) == row["want"]


@cases("04")
def test_scripts_end_as_they_do_in_python(row: dict[str, Any], pool: LocalPool) -> None:
    assert passed(read_tests(row["tests"], "", "a row"), row["program"], pool) == row["want"]


@cases("05")
def test_the_entry_point_is_no_builtin_around_it(row: dict[str, Any]) -> None:
    assert asserted_function("\n".join(row["tests"])) == row["want"]
    assert read_tests(row["tests"], "", "a row").entry_point == row["want"]


@cases("06")
def test_right_programs_are_judged_right(row: dict[str, Any], pool: LocalPool) -> None:
    tests = read_tests(row["tests"], row["entry_point"], "a row")
    verdict = grade_code(tests, row["program"], pool, LIMITS)
    assert verdict.passed == row["want"], verdict


@cases("07")
def test_the_program_is_found(row: dict[str, Any], pool: LocalPool) -> None:
    program = program_of(row["completion"])
    tests = read_tests(row["tests"], "f", "a row")
    assert (program is not None and passed(tests, program, pool)) == row["want"]


@cases("08")
def test_imports_from_the_future_stand_first(row: dict[str, Any], pool: LocalPool) -> None:
    program = row.get("program", f"{row.get('program_begins')}\ndef f(x): return x + 1")
    tests = read_tests(row.get("tests", "assert f(1) == 2"), "f", "a row")
    preamble = row.get("preamble", "from typing import List")
    found = CodeTests(kind="call", entry_point="f", cases=tests.cases, preamble=preamble)
    assert passed(found, program, pool) == row["want"]


@cases("09")
def test_results_and_outputs_may_be_large(row: dict[str, Any], pool: LocalPool) -> None:
    if not row["tests"].startswith("{"):
        return  # in words: the same stands below, as tests
    names = {"range": range, "list": list, "map": map, "str": str}
    cell = eval(row["tests"], {"__builtins__": {}}, names)  # noqa: S307  a file of ours
    assert passed(read_tests(cell, "f", "a row"), row["program"], pool) == row["want"]
