"""Cases of format constraints in tests/data/cases: each text with the verdict that it must get."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.graders.format import constraint_from

CASES = Path(__file__).parents[2] / "data" / "cases" / "code"


def rows(name: str) -> list[dict[str, Any]]:
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_text_gets_its_verdict() -> None:
    wrong = [
        (row["constraint"], row["text"], row["want"])
        for row in rows("10_format_words.jsonl")
        if constraint_from(row["constraint"]).check(row["text"]) != row["want"]
    ]
    assert wrong == []


def test_there_are_cases_of_every_kind() -> None:
    names = [row["constraint"]["name"] for row in rows("10_format_words.jsonl")]
    for name in ("words", "sentences", "table", "postscript", "sections", "code_block", "title"):
        assert names.count(name) >= 10, name


@pytest.mark.parametrize(
    "row", rows("11_json_schema_refused.jsonl"), ids=lambda row: json.dumps(row["schema"])[:60]
)
def test_a_schema_is_taken_or_refused_in_one_line(row: dict[str, Any]) -> None:
    declared = {"name": "json_schema", "schema": row["schema"]}
    if "refused" in row:
        with pytest.raises(ConfigError) as caught:
            constraint_from(declared)
        assert row["refused"] in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    constraint = constraint_from(declared)
    assert [constraint.check(text) for text in row.get("valid", ())] == [1] * len(
        row.get("valid", ())
    )
    assert not any(constraint.check(text) for text in row.get("invalid", ()))
