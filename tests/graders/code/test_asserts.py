"""Tests out of datasets: literal assertions become calls, anything more stays test code."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_envs.errors import DatasetError
from grpo_envs.graders.code import Case, CodeTests, read_tests
from grpo_envs.graders.code.asserts import asserted_function, cases_of
from grpo_envs.graders.code.compare import Rule, same


def case(*args: Any, to: Any, **more: Any) -> Case:
    return Case(given=args, expected=to, **more)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("assert f(1, 2) == 3", case(1, 2, to=3)),
        ("assert candidate(1, 2) == 3", case(1, 2, to=3)),
        ("assert (f(1)) == (2)", case(1, to=2)),
        ("assert f(1) == 2, 'a message'", case(1, to=2)),
        ("assert f() == None", case(to=None)),
        ("assert f(-1, +2, 2**10, 1/4) == -0.5", case(-1, 2, 1024, 0.25, to=-0.5)),
        ("assert f([1, (2, 'x')], {'a': {3}}) == b'x'", case([1, (2, "x")], {"a": {3}}, to=b"x")),
        ("assert f('a' * 3 + 'b') == [0] * 4", case("aaab", to=[0, 0, 0, 0])),
        ("assert f(10 - 2 * 3, 7 // 2, 7 % 4) == 1", case(4, 3, 3, to=1)),
        ("assert f(list(range(3))) == set([1, 2])", case([0, 1, 2], to={1, 2})),
        ("assert f(float('inf')) == tuple([1])", case(math.inf, to=(1,))),
        ("assert f(sorted([2, 1])) == frozenset({1})", case([1, 2], to=frozenset({1}))),
        ("assert f(1) is True", case(1, to=True)),
        ("assert f(1) is None", case(1, to=None)),
        ("assert f(1)", case(1, to=True, through="bool")),
        ("assert not f(1)", case(1, to=False, through="bool")),
        ("assert set(f(1)) == {2}", case(1, to={2}, through="set")),
        ("assert sorted(f(1)) == [2]", case(1, to=[2], through="sorted")),
        ("assert len(f(1)) == 2", case(1, to=2, through="len")),
        ("assert tuple(candidate(1)) == tuple([2])", case(1, to=(2,), through="tuple")),
        ("assert bool(f(1)) is False", case(1, to=False, through="bool")),
        ("assert abs(f(1) - 2.5) < 1e-6", case(1, to=2.5, abs_tol=1e-6)),
        ("assert abs(2.5 - f(1)) <= 0.01", case(1, to=2.5, abs_tol=0.01)),
        ("assert math.isclose(f(1), 2.5)", case(1, to=2.5, rel_tol=1e-9)),
        ("assert math.isclose(2.5, f(1), rel_tol=0.001)", case(1, to=2.5, rel_tol=0.001)),
        (
            "assert isclose(f(1), 0, rel_tol=0, abs_tol=1e-3)",
            case(1, to=0, rel_tol=0.0, abs_tol=1e-3),
        ),
        ("x = [1]\nassert f(x) == x", case([1], to=[1])),
        ("import math\nassert f(1) == 2", case(1, to=2)),
        ("assert True, 'it is defined'\nassert f(1) == 2", case(1, to=2)),
        (
            "METADATA = {'author': g()}\n\ndef check(candidate):\n    '''Words.'''\n"
            "    assert candidate(1) == 2\n",
            case(1, to=2),
        ),
    ],
)
def test_a_literal_assertion_is_a_call(code: str, expected: Case) -> None:
    cases = cases_of(code, "f")
    assert cases == (expected,)
    assert repr(cases[0]) == repr(expected)  # 1, 1.0 and True are told apart


@pytest.mark.parametrize(
    "code",
    [
        "",
        "assert True",
        "assert False",
        "assert f(1) != 2",
        "assert f(1) > 2",
        "assert -f(1)",
        "assert f(1) in (1, 2)",
        "assert f(1) == 2 == 3",
        "assert f(1) == 2 and f(2) == 3",
        "assert f(1) is x",
        "assert f(1) == f(2)",
        "assert f(f(1)) == 2",
        "assert f(x) == 2",
        "assert f(x=1) == 2",
        "assert f(*[1]) == 2",
        "assert f({**{}}) == 2",
        "assert f(...) == 2",
        "assert f(1)[0] == 2",
        "assert f(1).x == 2",
        "assert g(1) == 2",
        "assert 2 == 2",
        "assert f(lambda x: x) == 2",
        "assert f([i for i in (1, 2)]) == 2",
        "assert f(f'{1}') == 2",
        "assert f(open('x')) == 2",
        "assert f(__import__('os')) == 2",
        "assert f(1 / 0) == 2",
        "assert f({[]: 1}) == 2",
        "assert f(2 ** 10 ** 10) == 2",
        "assert f((2 ** 9999) ** 9999) == 2",
        "assert f('x' * 10 ** 9) == 2",
        "assert f([0] * 10 ** 9) == 2",
        "assert f(list(range(10 ** 9))) == 2",
        "assert f('%99999999999d' % 1) == 2",
        "assert f(1 << 99999) == 2",
        "assert len(f(1), 2) == 2",
        "assert len(f(1)) > 2",
        "assert abs(f(1)) < 1e-6",
        "assert abs(f(1) - 2) < 5",
        "assert abs(f(1) - 2) > 0.1",
        "assert abs(f(1) - 'x') < 0.1",
        "assert abs(f(1) - f(2)) < 0.1",
        "assert math.isclose(f(1), 2, abs_tol=9)",
        "assert math.isclose(f(1), 2, 3)",
        "assert math.isclose(f(1), 2, tol=0.1)",
        "for i in range(3):\n    assert f(i) == i",
        "x = [1]\nf(x)\nassert x == [2]",
        "f = 3\nassert f(1) == 3",
        "candidate = 3\nassert f(1) == 3",
        "x, y = 1, 2\nassert f(x) == 3",
        "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)",
        "def helper(): pass\ndef check(candidate):\n    assert candidate(1) == helper()",
        "with x:\n    assert f(1) == 2",
        "assert f(1) ==",
        "assert f('\x00') == 2",
        "assert f(" + "(" * 500 + "1" + ")" * 500 + ") == 2",
        "assert f(" + "-" * 100_000 + "1) == 2",
    ],
    ids=lambda code: code[:40],
)
def test_anything_more_is_no_call(code: str) -> None:
    assert cases_of(code, "f") is None


def test_one_assertion_that_is_more_leaves_all_to_the_judge() -> None:
    assert cases_of("assert f(1) == 2\nassert f(2) > 3", "f") is None


def test_many_assertions_keep_their_order() -> None:
    cases = cases_of("\n".join(f"assert f({i}) == {-i}" for i in range(50)), "f")
    assert cases is not None
    assert [c.given for c in cases] == [(i,) for i in range(50)]


LITERAL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.sets(st.integers(), min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@given(LITERAL, LITERAL)
def test_what_python_writes_is_read_back(argument: Any, expected: Any) -> None:
    cases = cases_of(f"assert f({argument!r}) == {expected!r}", "f")
    assert cases is not None
    assert same((cases[0].given, cases[0].expected), ((argument,), expected), Rule(strict=True))


@given(st.text("assert f(1)=2candite\n:[]{}'*-"))
def test_no_text_breaks_the_reading(code: str) -> None:
    assert cases_of(code, "f") is None or "assert" in code
    asserted_function(code)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("assert g(1) == 2", "g"),
        ("x = h(1)\nassert set(g(1)) == set([1])", "g"),
        ("assert abs(g(1) - 2) < 0.1", "g"),
        ("assert math.isclose(g(1), 2)", "g"),
        ("assert not g(1)", "g"),
        ("g(1)", None),
        ("assert True", None),
        ("assert g(", None),
    ],
)
def test_the_function_that_is_tested(code: str, name: str | None) -> None:
    assert asserted_function(code) == name


# Cells


CALL = {"kind": "call", "cases": [{"args": [1, "a", [None]], "expected": {"k": 1.5}}]}
STDIO = {"kind": "stdio", "cases": [{"stdin": "1", "stdout": "2"}]}


@pytest.mark.parametrize("write", [dict, json.dumps, lambda cell: f" {json.dumps(cell)}"])
def test_an_object_of_calls(write: Any) -> None:
    tests = read_tests(write({**CALL, "visible": 1, "tolerance": 1e-6}), "f", "x: row 1")
    cases = (Case(given=(1, "a", [None]), expected={"k": 1.5}, rel_tol=1e-6, abs_tol=1e-6),)
    assert tests == CodeTests(kind="call", entry_point="f", cases=cases, visible=1)


def test_an_object_of_inputs() -> None:
    tests = read_tests(STDIO, "", "x: row 1")
    assert tests == CodeTests(kind="stdio", cases=(Case(given="1", expected="2"),))
    assert read_tests({**STDIO, "code": None}, "f", "x").entry_point == ""  # as Parquet fills up


@pytest.mark.parametrize(
    ("code", "inner"),
    [
        ("def check(candidate):\n    assert candidate(1) > 2", "assert candidate(1) > 2"),
        ("assert f(1) > 2", "assert f(1) > 2"),
        ("assert f('''a\nb''') > 2", r"assert f('a\nb') > 2"),
    ],
)
@pytest.mark.parametrize("form", ["text", "object", "list"])
def test_test_code(code: str, inner: str, form: str) -> None:
    cell: Any = {"text": code, "object": {"kind": "asserts", "code": code}, "list": [code]}[form]
    tests = read_tests(cell, "f", "x: row 1")
    assert (tests.kind, tests.entry_point) == ("asserts", "f")
    assert tests.code.startswith("def check(candidate):\n    ")
    assert inner in tests.code


def test_a_list_of_assertions_is_strict_calls() -> None:
    tests = read_tests(["assert g(1) == (2,)", "assert g(2) == (3,)"], "", "x: row 1")
    cases = (Case(given=(1,), expected=(2,)), Case(given=(2,), expected=(3,)))
    assert tests == CodeTests(kind="call", entry_point="g", cases=cases, strict=True)


def test_an_object_keeps_its_test_code() -> None:
    """Whoever writes `asserts` wants the judge, literal or not."""
    assert read_tests({"kind": "asserts", "code": "assert f(1) == 2"}, "", "x").kind == "asserts"


def test_weak_tests_must_be_asked_for() -> None:
    cell = {"kind": "weak", "code": "assert f(1)(2) == 3"}
    with pytest.raises(DatasetError) as caught:
        read_tests(cell, "f", "x: row 1")
    assert str(caught.value) == "x: row 1: tests of kind 'weak' run only with env.trust=weak."
    assert read_tests(cell, "f", "x: row 1", trust="weak").kind == "weak"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "tests '' are empty."),
        (None, "tests 'None' are empty."),
        ([], "tests '' are empty."),
        ({}, "tests of kind None. Allowed: stdio, call, asserts, weak."),
        (
            {"kind": "calls"},
            "tests of kind 'calls'. Allowed: stdio, call, asserts, weak. Did you mean 'call'?",
        ),
        ({"kind": "call"}, "tests have no cases."),
        ({"kind": "call", "cases": []}, "tests have no cases."),
        ({"kind": "stdio", "cases": []}, "tests have no cases."),
        ({"kind": "call", "cases": "x"}, "tests have no cases."),
        ({"kind": "call", "cases": [1]}, "case 1 is not {'args': ..., 'expected': ...}."),
        (
            {"kind": "call", "cases": [*CALL["cases"], {"args": [1]}]},
            "case 2 is not {'args': ..., 'expected': ...}.",
        ),
        (
            {"kind": "call", "cases": [{"args": 1, "expected": 1}]},
            "case 1: args '1' are not a list.",
        ),
        (
            {"kind": "stdio", "cases": [{"stdin": 1, "stdout": "1"}]},
            "case 1: stdin and stdout are texts.",
        ),
        ({**CALL, "visible": 2}, "visible 2. Allowed: 0 to 1."),
        ({**CALL, "visible": True}, "visible True. Allowed: 0 to 1."),
        ({**CALL, "tolerance": -1}, "tolerance -1. Allowed: 0 to below 1."),
        ({**CALL, "case": 1}, "tests have 'case'. Allowed: cases, kind, tolerance, visible."),
        ({"kind": "asserts", "code": ""}, "tests assert nothing: ''."),
        ({"kind": "asserts"}, "tests assert nothing: 'None'."),
        ({"kind": "asserts", "code": "f(1)"}, "tests assert nothing: 'f(1)'."),
        ("f(1)", "tests assert nothing: 'f(1)'."),
        ("assert f(", "tests are no Python ('(' was never closed (<unknown>, line 1))."),
        ('{"kind": ', "tests are no JSON (Expecting value: line 1 column 10 (char 9))."),
        ([1, 2], "tests are a list, but not of assertions."),
    ],
    ids=str,
)
def test_tests_that_cannot_be_read_are_one_line(cell: Any, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_tests(cell, "f", "rows.jsonl: row 7")
    assert str(caught.value).startswith("rows.jsonl: row 7")
    assert str(caught.value).removeprefix("rows.jsonl: row 7: ") == message


@pytest.mark.parametrize(("cell", "name"), [(CALL, ""), (CALL, "f(x)"), ("assert x.f(1) == 2", "")])
def test_a_function_without_a_name_is_one_line(cell: Any, name: str) -> None:
    with pytest.raises(DatasetError, match=r"^x: row 1: entry_point '.*' names no function\.$"):
        read_tests(cell, name, "x: row 1")
