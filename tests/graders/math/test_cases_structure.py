"""The cases of math_structure.jsonl: what is read, and when two values are the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.graders.math import grade_many, grading_from

CASES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data/cases/math_structure.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
KINDS = sorted({case["kind"] for case in CASES})
FORMS = {"boxed": "so \\boxed{{{}}}", "raw": "{}"}


def test_every_kind_has_right_and_wrong_answers() -> None:
    # What was paid wrongly has neighbours that are right, and the other way round.
    for kind in KINDS:
        expected = [case["expected"] for case in CASES if case["kind"] == kind]
        assert len(expected) >= 15, kind
        assert set(expected) == {True, False}, kind


@pytest.mark.parametrize("kind", KINDS, ids=[kind.split()[0] for kind in KINDS])
def test_cases(kind: str) -> None:
    cases = [case for case in CASES if case["kind"] == kind]
    wrong = []
    for policy in ({"evaluated": True}, {"evaluated": False}):
        part = [case for case in cases if case["policy"] == policy]
        completions = [FORMS[case["mode"]].format(case["answer"]) for case in part]
        golds = [case["gold"] for case in part]
        verdicts = grade_many(golds, completions, grading_from(policy))
        for case, verdict in zip(part, verdicts, strict=True):
            if verdict.correct is not case["expected"]:
                wrong.append((case["gold"], case["answer"], verdict.reason))
    assert wrong == []


def test_every_policy_is_tried() -> None:
    assert {json.dumps(case["policy"]) for case in CASES} == {
        '{"evaluated": true}',
        '{"evaluated": false}',
    }
