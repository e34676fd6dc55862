"""Datasets as people have them: conversations, nested names, lists, JSON of pandas, broken rows."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from grpo_env_math import MathEnv
from grpo_envs.errors import ConfigError

CASES = Path(__file__).parents[1] / "data" / "cases" / "data.jsonl"
ALL = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
HANDED = [case for case in ALL if "expected" in case]
OWN = [case for case in ALL if "expected" not in case]
UNREADABLE: list[dict[str, Any]] = [
    {"question": "Px", "answer": "a dozen"},
    {"question": "Py", "answer": None},
    {"question": "Pz", "answer": "x +"},
]


def named(case: Mapping[str, Any]) -> str:
    return f"{case['kind'][:6]} {case.get('about', case.get('expected', ''))}"


def written(case: Mapping[str, Any], folder: Path) -> str:
    path, rows = folder / case["file"], case["rows_like"]
    lines = rows if path.suffix == ".jsonl" else [rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def problems(env: MathEnv) -> list[tuple[str, str]]:
    """Prompts and golds in the order of the file; every solution earns the maximum."""
    assert env.rows is not None
    rows = sorted(env.rows.all(), key=lambda row: row.number)
    found = [env.from_row(row) for row in rows]
    rewards = env.score_batch(found, [problem.solution for problem in found])
    assert [reward.parts["correct"] for reward in rewards] == [1] * len(found)
    return [(problem.prompt, problem.gold) for problem in found]


@pytest.mark.parametrize("case", OWN, ids=named)
def test_a_dataset_is_read_or_refused(case: dict[str, Any], tmp_path: Path) -> None:
    path, unreadable = written(case, tmp_path), case.get("unreadable", "error")
    if "error" in case:
        with pytest.raises(ConfigError) as caught:
            MathEnv(dataset=path, columns=case["columns"], unreadable=unreadable)
        assert case["error"] in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    env = MathEnv(dataset=path, columns=case["columns"], unreadable=unreadable)
    assert problems(env) == list(zip(case["prompts"], case["golds"], strict=True))
    systems = {env.system_prompt_of(env.problem(seed)) for seed in range(3)}
    assert systems == {case.get("system", MathEnv.system_prompt or env.system_prompt)}


@pytest.mark.parametrize("case", HANDED, ids=named)
def test_what_users_reported(
    case: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = len(case["rows_like"]) if isinstance(case["rows_like"], list) else 12
    if case["kind"].startswith("DATA06"):
        case = {**case, "rows_like": [*case["rows_like"], *UNREADABLE]}
        with pytest.raises(ConfigError) as caught:
            MathEnv(dataset=written(case, tmp_path), columns=case["columns"])
        assert "3 of 6 rows cannot be read: row 4" in str(caught.value)
        assert "env.unreadable=drop leaves them out" in str(caught.value)
    path = written(case, tmp_path)
    with caplog.at_level(logging.WARNING):
        env = MathEnv(dataset=path, columns=case["columns"], unreadable="drop")
    assert ("3 of 6 rows cannot be read" in caplog.text) == case["kind"].startswith("DATA06")
    found = problems(env)
    assert len(found) == count
    for number, (prompt, gold) in enumerate(found):
        assert not prompt.startswith(("[", "{", "("))
        assert "boxed" not in prompt
        assert str(number) in prompt
        first = f"10000000000000000000{number}" if "DATA04" in case["kind"] else str(number)
        assert gold.strip("$").partition(",")[0].removesuffix(".0") == first


def test_a_list_of_golds_asks_for_all_of_them_in_any_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"P{i}", "gold": [f"${i}$", "-2"]} for i in range(2)]
    case = {"file": "rows.jsonl", "rows_like": rows}
    env = MathEnv(dataset=written(case, tmp_path))
    assert env.rows is not None
    problem = next(env.from_row(row) for row in env.rows.all() if row.number == 0)
    earned = {
        answer: env.score(problem, f"<answer>{answer}</answer>").parts["correct"]
        for answer in ("0, -2", "-2,0", r"\{0, -2\}", "0", "-2", "0, -2, 3", "0, 2")
    }
    assert [answer for answer, correct in earned.items() if correct] == [
        *("0, -2", "-2,0", r"\{0, -2\}")
    ]


def test_parquet_holds_conversations_and_lists(tmp_path: Path) -> None:
    import datasets

    rows = [
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"{i}?"},
            ],
            "reward_model": {"ground_truth": [str(i), "-1"], "style": "rule"},
        }
        for i in range(4)
    ]
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    env = MathEnv(dataset=str(path), columns={"gold": "reward_model.ground_truth"})
    assert problems(env) == [(f"{i}?", f"{i}, -1") for i in range(4)]
    assert env.problem(0).system_prompt == "Be brief."


def test_csv_holds_conversations_as_text(tmp_path: Path) -> None:
    import pandas

    chats = [[{"role": "user", "content": f"Task {i}?"}] for i in range(3)]
    path = tmp_path / "rows.csv"
    pandas.DataFrame({"prompt": chats, "gold": range(3)}).to_csv(path, index=False)
    assert problems(MathEnv(dataset=str(path))) == [(f"Task {i}?", str(i)) for i in range(3)]


def test_a_folder_of_json_keeps_long_numbers(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("test", 3)):
        rows = [{"prompt": f"P{i}", "gold": 10**20 + i} for i in range(start, start + 3)]
        written({"file": f"{name}.jsonl", "rows_like": rows}, tmp_path)
    env = MathEnv("eval", dataset=str(tmp_path))
    golds = {env.problem(seed).gold for seed in range(3)}
    assert golds == {str(10**20 + i) for i in range(3, 6)}


def test_a_row_keeps_its_number_where_others_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"P{i}", "gold": None if i % 3 == 0 else str(i)} for i in range(9)]
    env = MathEnv(
        dataset=written({"file": "rows.jsonl", "rows_like": rows}, tmp_path), unreadable="drop"
    )
    assert env.rows is not None
    assert sorted(row.number for row in env.rows.all()) == [1, 2, 4, 5, 7, 8]


def test_unreadable_is_one_of_two_words() -> None:
    with pytest.raises(ConfigError, match=r"env.unreadable=skip. Allowed: error, drop"):
        MathEnv(dataset="rows.jsonl", unreadable="skip")
