"""Judging programs: what counts as the same, where the program stands, and what earns nothing."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_envs.errors import SandboxError
from grpo_envs.graders.code import (
    Case,
    CodeTests,
    grade_code,
    load_error,
    program_of,
    visible_part,
    well_formed,
)
from grpo_envs.graders.code.compare import EXACT, Rule, compare, same, same_output
from grpo_envs.sandbox import Calls, Limits, LocalPool, RunResult, Verdict
from tests.support.hostile_code import HACKS

STRICT, NEAR = Rule(strict=True), Rule(rel_tol=1e-6, abs_tol=1e-6)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(workers=2)
    yield pool
    pool.close()


# Comparison


class AlwaysEqual(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


NAN = math.nan


@pytest.mark.parametrize(
    ("claimed", "expected", "rule", "equal"),
    [
        (3, 3, EXACT, True),
        (3, 4, EXACT, False),
        (3.0, 3, EXACT, True),
        (3, 3.0, STRICT, True),
        (2**53 + 1, float(2**53), EXACT, False),
        ([10**400], [10**400], EXACT, True),
        ([10**400], [1.0], NEAR, False),
        (True, True, EXACT, True),
        (True, 1, EXACT, False),
        (1, True, EXACT, False),
        (0, False, EXACT, False),
        ([1, 0], [True, False], EXACT, False),
        ({1: 2}, {True: 2}, EXACT, False),
        ({1}, {True}, EXACT, False),
        ({1.0: 2}, {1: 2}, EXACT, True),
        (None, None, EXACT, True),
        (None, 0, EXACT, False),
        (None, False, EXACT, False),
        ("", None, EXACT, False),
        ("1", 1, EXACT, False),
        ("a", "a", EXACT, True),
        ("a", b"a", EXACT, False),
        (b"a", b"a", EXACT, True),
        (NAN, NAN, EXACT, True),
        (NAN, 1.0, NEAR, False),
        (1.0, NAN, NEAR, False),
        ([NAN], [1], EXACT, False),
        (math.inf, math.inf, EXACT, True),
        (math.inf, -math.inf, NEAR, False),
        (math.inf, 1e300, NEAR, False),
        (0.1 + 0.2, 0.3, EXACT, False),
        (0.1 + 0.2, 0.3, NEAR, True),
        (0.30001, 0.3, NEAR, False),
        (1_000_000, 1_000_001, NEAR, False),
        (1_000_000.0, 1_000_000.5, NEAR, True),
        ([0.1 + 0.2, "x"], [0.3, "x"], NEAR, True),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, NEAR, True),
        ((1, 2), [1, 2], EXACT, True),
        ([1, 2], (1, 2), EXACT, True),
        ((1, 2), [1, 2], STRICT, False),
        ([1, 2], (1, 2), STRICT, False),
        ([[1]], [(1,)], STRICT, False),
        ((1, 2), (1, 2), STRICT, True),
        ([1, 2], [2, 1], EXACT, False),
        ([1, 2], [1, 2, 3], EXACT, False),
        ([1, 2, 3], [1, 2], EXACT, False),
        ([], [], EXACT, True),
        ([], None, EXACT, False),
        ([], {}, EXACT, False),
        ([], set(), EXACT, False),
        ("ab", ["a", "b"], EXACT, False),
        ({1, 2}, {2, 1}, EXACT, True),
        (frozenset({1}), {1}, EXACT, True),
        ({1, 2}, {1, 3}, EXACT, False),
        ({1}, {1, 2}, EXACT, False),
        ({1, 2}, {1}, EXACT, False),
        ({"a": 1}, {"a": 1, "b": 2}, EXACT, False),
        ({"a": 1, "b": 2}, {"a": 1}, EXACT, False),
        ({"a": 1}, {"b": 1}, EXACT, False),
        ({"b": 2, "a": 1}, {"a": 1, "b": 2}, EXACT, True),
        ({"a": 1}, ["a"], EXACT, False),
        (1j, 1j, EXACT, True),
        (AlwaysEqual(7), 3, EXACT, False),
        (AlwaysEqual(3), 3, EXACT, False),
        ([AlwaysEqual(3)], [3], EXACT, False),
        (print, 3, EXACT, False),
    ],
)
def test_what_is_the_same(claimed: Any, expected: Any, rule: Rule, equal: bool) -> None:
    assert same(claimed, expected, rule) is equal


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """Tell True from 1, as `==` does not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list | tuple):
        return (type(value), [typed(item) for item in value])
    if isinstance(value, dict):
        return {typed(key): typed(item) for key, item in value.items()}
    return value


@given(PLAIN, PLAIN)
def test_strictly_the_same_is_equal_and_of_one_type(one: Any, other: Any) -> None:
    assert same(one, other, STRICT) is (typed(one) == typed(other))
    assert same(one, one, STRICT)
    assert same(one, one, NEAR)
    assert same(one, other) == same(other, one)


def test_nesting_beyond_reason_is_not_the_same() -> None:
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    assert not same(deep, [1])
    assert not same(deep, deep)


@pytest.mark.parametrize(
    ("claimed", "expected", "through", "wrong"),
    [
        (7, True, "bool", ""),
        ([], False, "bool", ""),
        (0, True, "bool", "False instead of True"),
        ([2, 1, 1], {1, 2}, "set", ""),
        ([2, 1], [1, 2], "sorted", ""),
        ([1, "a"], [1, "a"], "sorted", "sorted of [1, 'a']: TypeError"),
        (3, 3, "len", "len of 3: TypeError"),
        ([[1]], {1}, "set", "set of [[1]]: TypeError"),
        ([1, 2], (1, 2), "tuple", ""),
        (3.2, 3, "round", ""),
        (NAN, 3, "round", "round of nan: ValueError"),
        (4, 3, "", "4 instead of 3"),
        ([10**5000], 3, "", "a very long number instead of 3"),
    ],
)
def test_what_an_assertion_does_with_a_value(
    claimed: Any, expected: Any, through: str, wrong: str
) -> None:
    assert compare(claimed, expected, through, STRICT) == wrong


def test_keys_that_collide_take_no_minutes() -> None:
    colliding = [number * (2**61 - 1) for number in range(1, 30_000)]
    assert compare(colliding, {1}, "set", EXACT).endswith("ValueError")
    assert compare([1] * 30_000, {1}, "set", EXACT) == ""


@pytest.mark.parametrize(
    ("claimed", "expected", "rule", "equal"),
    [
        ("3\n", "3", EXACT, True),
        ("3", "3\n\n", EXACT, True),
        ("  1\t2 \r\n3", "1 2\n3\n", EXACT, True),
        ("1 2 3", "1 2\n3", EXACT, False),
        ("1\n2\n3", "1\n2", EXACT, False),
        ("1\n2", "1\n2\n3", EXACT, False),
        ("1\n\n2", "1\n2", EXACT, False),
        ("", "1", EXACT, False),
        ("", "\n", EXACT, True),
        ("yes", "Yes", EXACT, False),
        ("0.30000001", "0.3", EXACT, False),
        ("0.30000001 x", "0.3 x", NEAR, True),
        ("0.31", "0.3", NEAR, False),
        ("nan", "0.3", NEAR, False),
        ("1e0", "1", NEAR, True),
        ("1_0", "10", NEAR, False),
        ("inf", "1e999", NEAR, False),
        ("x", "0.3", NEAR, False),
    ],
)
def test_what_is_the_same_output(claimed: str, expected: str, rule: Rule, equal: bool) -> None:
    assert same_output(claimed, expected, rule) is equal


@given(
    st.lists(st.lists(st.text("ab1", min_size=1), min_size=1)), st.sampled_from([" ", "\t", "  "])
)
def test_white_space_does_not_matter_and_lines_do(lines: list[list[str]], space: str) -> None:
    text = "\n".join(" ".join(line) for line in lines)
    assert same_output("\n".join(space.join(line) + space for line in lines), text)
    assert not same_output(text + "\nx", text)


# The program


BLOCK = "```python\nx = 2\n```"


@pytest.mark.parametrize(
    ("completion", "program", "form"),
    [
        pytest.param(BLOCK, "x = 2", True, id="a block"),
        pytest.param(f"So:\n{BLOCK}\n", "x = 2", True, id="words before it"),
        pytest.param(f"{BLOCK}\nDone.", "x = 2", False, id="words after it"),
        pytest.param("```\nx = 2\n```", "x = 2", True, id="no language"),
        pytest.param("```py\nx = 2\n```", "x = 2", True, id="another name of Python"),
        pytest.param("```Python3\r\nx = 2\r\n```", "x = 2", True, id="lines of Windows"),
        pytest.param(
            "````\nx = '''\n```\n'''\n````", "x = '''\n```\n'''", True, id="longer fences"
        ),
        pytest.param(f"<think>{BLOCK}</think>{BLOCK}", "x = 2", True, id="a draft in the thoughts"),
        pytest.param(f"{BLOCK}\n<think>a</think>{BLOCK}", "x = 2", False, id="a block before them"),
        pytest.param(f"<think>hm</think>{BLOCK}", "x = 2", True, id="right after the thoughts"),
        pytest.param(f"<think>a</think><think>b</think>{BLOCK}", "x = 2", False, id="two thoughts"),
        pytest.param(f"<think>{BLOCK}", None, False, id="thoughts without an end"),
        pytest.param(f"<think>{BLOCK}</think>", None, False, id="thoughts alone"),
        pytest.param(f"```python\n1\n```\n{BLOCK}", "x = 2", False, id="the last of two"),
        pytest.param(f"{BLOCK}\n```text\n2\n```", "x = 2", False, id="output shown after it"),
        pytest.param(f"{BLOCK}\n```python\nx =", None, False, id="the last is cut off"),
        pytest.param("```python\nx = 2", None, False, id="cut off"),
        pytest.param("x = 2", None, False, id="no block"),
        pytest.param("`x = 2`", None, False, id="code in a line"),
        pytest.param("so ```python\nx = 2\n```", None, False, id="a fence within a line"),
        pytest.param("```python\n\n```", None, False, id="an empty block"),
        pytest.param("```bash\nls\n```", None, False, id="another language"),
        pytest.param("```python\nx = '\ud83d'\n```", None, False, id="half a character"),
        pytest.param("", None, False, id="nothing"),
    ],
)
def test_where_the_program_stands(completion: str, program: str | None, form: bool) -> None:
    assert program_of(completion) == program
    assert well_formed(completion) is form


@given(st.text("`\n python<think>/x"))
def test_no_text_breaks_extraction(text: str) -> None:
    program = program_of(text)
    assert program is None or program.strip()
    assert not well_formed(text) or program


# Verdicts


def call(*pairs: tuple[Any, Any], **more: Any) -> CodeTests:
    cases = tuple(Case(given=(x,), expected=y) for x, y in pairs)
    return CodeTests(kind="call", entry_point="f", cases=cases, **more)


SQUARES = call((21, 441), (2, 4), (-3, 9))
CHECK = """
def check(candidate):
    for x in (21, 2, -3):
        assert candidate(x) == x * x, x
"""
FORMS = {
    "call": SQUARES,
    "asserts": CodeTests(kind="asserts", entry_point="f", code=CHECK),
    "weak": CodeTests(kind="weak", entry_point="f", code=CHECK),
    "stdio": CodeTests(
        kind="stdio",
        cases=(Case(given="21", expected="441\n"), Case(given="-3\n", expected="9")),
    ),
}
RIGHT = "def f(x):\n    return x ** 2\n\nif __name__ == '__main__' and not __debug__:\n    pass"
READS = "import sys\nprint(int(sys.stdin.read()) ** 2)"


@pytest.mark.parametrize("form", FORMS)
def test_a_right_program_passes(form: str, pool: LocalPool) -> None:
    verdict = grade_code(FORMS[form], READS if form == "stdio" else RIGHT, pool)
    assert (verdict.kind, verdict.passed, verdict.ran) == (form, 1.0, True)
    assert verdict.failures == {}
    assert verdict.error == ""
    assert verdict.weak is (form == "weak")


@pytest.mark.parametrize("form", ["call", "asserts", "stdio"])
@pytest.mark.parametrize("name", HACKS)
def test_a_hack_earns_nothing(name: str, form: str, pool: LocalPool) -> None:
    assert grade_code(FORMS[form], HACKS[name], pool).passed == 0


def test_each_case_counts(pool: LocalPool) -> None:
    verdict = grade_code(SQUARES, "def f(x):\n    return x * 21", pool)
    assert verdict.passed == pytest.approx(1 / 3)
    assert verdict.failures == {1: "42 instead of 4", 2: "-63 instead of 9"}
    assert verdict.ran


def test_a_call_that_raises_is_one_failure(pool: LocalPool) -> None:
    verdict = grade_code(SQUARES, "def f(x):\n    return 18 // (x - 2) + 441 - 18 // 19", pool)
    assert verdict.passed == pytest.approx(1 / 3)
    assert "ZeroDivisionError" in verdict.failures[1]
    assert not verdict.ran


def test_what_came_before_an_endless_call_counts(pool: LocalPool) -> None:
    program = "def f(x):\n    while x < 0:\n        pass\n    return x * x"
    verdict = grade_code(SQUARES, program, pool, Limits(wall_s=1.0, cpu_s=1))
    assert verdict.passed == pytest.approx(2 / 3)
    assert "too" in verdict.failures[2]
    assert not verdict.ran


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("x = [", "SyntaxError"),
        ("raise ValueError('no')", "ValueError: no"),
        ("import nosuchmodule", "ModuleNotFoundError"),
        ("while True:\n    pass", "too"),
    ],
)
def test_what_ends_a_program_is_told(program: str, error: str, pool: LocalPool) -> None:
    limits = Limits(wall_s=1.0, cpu_s=1)
    assert error in grade_code(SQUARES, program, pool, limits).error
    assert error in load_error(SQUARES, program, pool, limits)
    assert not grade_code(SQUARES, program, pool, limits).ran


def test_a_program_without_end_is_not_run_on_every_input(pool: LocalPool) -> None:
    cases = tuple(Case(given="", expected="1") for _ in range(50))
    tests = CodeTests(kind="stdio", cases=cases)
    verdict = grade_code(tests, "while True: pass", pool, Limits(wall_s=0.5, cpu_s=1))
    assert verdict.passed == 0
    assert len(verdict.failures) == 50
    assert sum("not run" in failure for failure in verdict.failures.values()) == 48


def test_a_program_that_dies_after_its_answers_did_not_run_well(pool: LocalPool) -> None:
    program = "import atexit, os\natexit.register(os.abort)\ndef f(x):\n    return x * x"
    verdict = grade_code(SQUARES, program, pool)
    assert (verdict.passed, verdict.ran) == (1.0, False)


def test_standard_output_counts_only_if_the_program_ends_well(pool: LocalPool) -> None:
    verdict = grade_code(FORMS["stdio"], READS + "\nraise ValueError", pool)
    assert (verdict.passed, verdict.ran) == (0, False)


def test_a_tolerance_belongs_to_a_case(pool: LocalPool) -> None:
    cases = (
        Case(given=(), expected=0.3),
        Case(given=(), expected=0.3, abs_tol=1e-6),
        Case(given=(), expected=0.3, rel_tol=1e-6),
    )
    tests = CodeTests(kind="call", entry_point="f", cases=cases)
    assert list(grade_code(tests, "def f():\n    return 0.1 + 0.2", pool).failures) == [0]


def test_a_tuple_is_a_list_unless_strict(pool: LocalPool) -> None:
    program = "def f(x):\n    return x, x"
    assert grade_code(call((1, [1, 1])), program, pool).passed == 1
    assert grade_code(call((1, [1, 1]), strict=True), program, pool).passed == 0
    assert grade_code(call((1, (1, 1)), strict=True), program, pool).passed == 1


def test_values_that_no_json_has(pool: LocalPool) -> None:
    tests = call(({1: (2, b"x")}, {frozenset({1}), None, 1.5}))
    program = "def f(x):\n    assert x == {1: (2, b'x')}\n    return {frozenset({1}), None, 1.5}"
    assert grade_code(tests, program, pool).passed == 1


def test_a_call_cannot_change_the_arguments_of_the_next(pool: LocalPool) -> None:
    given_list = [1, 2]
    tests = call((given_list, 2), (given_list, 2))
    program = "def f(x):\n    x.append(0)\n    return len(x) - 1"
    assert grade_code(tests, program, pool).passed == 1
    assert given_list == [1, 2]


@pytest.mark.parametrize("form", ["call", "asserts", "weak"])
def test_what_the_prompt_shows_stands_before_the_program(form: str, pool: LocalPool) -> None:
    preamble = "def square(x):\n    return x * x"
    tests = CodeTests(
        kind=form,
        entry_point="f",
        preamble=preamble,
        cases=SQUARES.cases if form == "call" else (),
        code="def check(candidate):\n    assert candidate(5) == square(5)",
    )
    assert grade_code(tests, "def f(x):\n    return square(x)", pool).passed == 1
    assert grade_code(tests, "def f(x):\n    return square(x) + 1", pool).passed == 0


def test_weak_tests_share_the_process_and_say_so(pool: LocalPool) -> None:
    code = "def check(candidate):\n    assert candidate(3)(4) == 7"
    program = "def f(x):\n    return lambda y: x + y"
    weak = CodeTests(kind="weak", entry_point="f", code=code)
    assert grade_code(weak, program, pool).passed == 1
    assert grade_code(weak, program, pool).weak
    wrong = grade_code(weak, "def f(x):\n    return lambda y: x", pool)
    assert (wrong.passed, wrong.ran) == (0, True)
    assert grade_code(weak, "import os\nos._exit(0)", pool).passed == 0
    fair = CodeTests(kind="asserts", entry_point="f", code=code)
    assert grade_code(fair, program, pool).passed == 0  # a function does not pass by value


@pytest.mark.parametrize(
    ("program", "ran"),
    [("def f(x):\n    return 0", True), ("def f(x):\n    return x / 0", False), ("x = [", False)],
)
@pytest.mark.parametrize("form", ["call", "asserts", "weak"])
def test_a_wrong_program_may_run(form: str, program: str, ran: bool, pool: LocalPool) -> None:
    verdict = grade_code(FORMS[form], program, pool)
    assert (verdict.passed, verdict.ran) == (0, ran)
    assert verdict.failures or verdict.error


def test_the_visible_part_is_the_first() -> None:
    tests = call((1, 1), (2, 4), (3, 9), visible=2)
    assert [case.given for case in visible_part(tests).cases] == [(1,), (2,)]


# Backends


class Scripted:
    """A backend with scripted answers."""

    level = "scripted"

    def __init__(self, result: RunResult | None = None) -> None:
        self.result = result

    def run(
        self,
        program: str,
        *,
        stdin: str | None = None,
        calls: Calls | None = None,
        limits: Limits | None = None,
    ) -> RunResult:
        if self.result is None:
            raise SandboxError("the lights are off.")
        return self.result

    def judge(
        self, program: str, *, tests: str, entry_point: str, limits: Limits | None = None
    ) -> Verdict:
        raise SandboxError("the lights are off.")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("form", FORMS)
def test_a_sandbox_that_fails_is_no_verdict(form: str) -> None:
    with pytest.raises(SandboxError, match="the lights are off"):
        grade_code(FORMS[form], RIGHT, Scripted())


@pytest.mark.parametrize(
    "status", ["ok", "error", "wall", "cpu", "memory", "output", "killed", "refused"]
)
def test_cases_without_a_value_fail_whatever_the_status(status: str) -> None:
    verdict = grade_code(SQUARES, RIGHT, Scripted(RunResult(status=status)))
    assert (verdict.passed, verdict.ran) == (0, False)
    assert len(verdict.failures) == 3
    assert all(verdict.failures.values())
