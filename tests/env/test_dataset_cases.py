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


# Files as programs write them


def golds(dataset: Path) -> list[str]:
    return [gold for _, gold in problems(MathEnv(dataset=str(dataset)))]


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        pytest.param(["P0,0,9", "P1,1,9"], "rows have more cells", id="a cell without a name"),
        pytest.param(["P0,0", "P1,1,9"], "Expected 2 fields in line 3", id="one row of three"),
    ],
)
def test_cells_of_csv_without_a_name_do_not_shift_the_columns(
    rows: list[str], cause: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(["prompt,gold", *rows]), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^env.dataset=.*rows.csv.*{cause}.*$"):
        MathEnv(dataset=str(tmp_path / "rows.csv"))


def test_csv_may_end_each_line_with_a_comma(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,gold,\nP0,0,\nP1,1,\n", encoding="utf-8")
    assert golds(tmp_path / "rows.csv") == ["0", "1"]


@pytest.mark.parametrize("own", ["test", "val", "valid", "dev"])
def test_a_folder_of_csv_is_read_as_text(own: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt,gold\nP0,007\nP1,1.50\n", encoding="utf-8")
    (tmp_path / f"{own}.csv").write_text("prompt,gold\nP2,2.0\n", encoding="utf-8")
    env = MathEnv("eval", dataset=str(tmp_path))
    assert env.rows is not None
    assert env.rows.count("train") == 2
    assert {env.problem(seed).gold for seed in range(2)} == {"2.0"}
    assert sorted(gold for _, gold in problems(env)) == ["007", "1.50", "2.0"]


@pytest.mark.parametrize("indent", [None, 1])
def test_json_lines_may_be_a_list(indent: int | None, tmp_path: Path) -> None:
    rows = [{"prompt": f"P{i}", "gold": 10**20 + i} for i in range(2)]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert golds(tmp_path / "rows.jsonl") == [str(10**20), str(10**20 + 1)]


def test_narrow_numbers_of_parquet_keep_the_digits_that_were_written(tmp_path: Path) -> None:
    import datasets

    narrow = {name: datasets.Value(name) for name in ("float32", "float64")}
    features = {"prompt": datasets.Value("string"), "gold": datasets.List(narrow["float32"])}
    rows = [
        {"prompt": f"P{i}", "gold": [i + 0.1], "of": {**dict.fromkeys(narrow, 0.7)}} for i in (1, 2)
    ]
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features | {"of": narrow}))
    path = tmp_path / "rows.parquet"
    table.to_parquet(str(path))
    env = MathEnv(dataset=str(path))
    assert [gold for _, gold in problems(env)] == ["1.1", "2.1"]
    assert env.problem(0).meta["of"] == {"float32": 0.7, "float64": 0.7}


def test_parquet_without_rows_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import pandas

    path = tmp_path / "rows.parquet"
    pandas.DataFrame(columns=["prompt", "gold"]).to_parquet(path)
    with pytest.raises(ConfigError) as caught:
        MathEnv(dataset=str(path))
    assert str(caught.value) == f"env.dataset={path}: the file is empty, it has no rows."
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ConfigError, match="cannot be read"):
        MathEnv(dataset=str(path))
    assert not caplog.text


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    import datasets

    rows = [{"prompt": f"P{i}", "gold": str(i)} for i in range(3)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert golds(tmp_path / "saved") == ["0", "1", "2"]


def test_an_object_of_another_layout_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"train": [{"prompt": "a"}], "test": []}', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        MathEnv(dataset=str(path))
    assert str(caught.value).startswith(f"env.dataset={path}: one JSON object with train, test.")
    assert str(caught.value).count("env.dataset") == 1


def test_csv_holds_objects_as_pandas_writes_them(tmp_path: Path) -> None:
    import pandas

    rows = [{"prompt": f"P{i}", "reward_model": {"ground_truth": str(i)}} for i in range(3)]
    path = tmp_path / "rows.csv"
    pandas.DataFrame(rows).to_csv(path, index=False)
    env = MathEnv(dataset=str(path), columns={"gold": "reward_model.ground_truth"})
    assert problems(env) == [(f"P{i}", str(i)) for i in range(3)]
    with pytest.raises(ConfigError, match=r"Did you mean 'reward_model.ground_truth'\?"):
        MathEnv(dataset=str(path), columns={"gold": "reward_model.groundtruth"})


@pytest.mark.parametrize(
    ("prompt", "gold", "cause"),
    [
        pytest.param(
            "[{'role': 'system', 'content': 'S'} {'role': 'user', 'content': 'Q'}]",
            "1",
            "'prompt' is a printed array of messages",
            id="an array of messages that pandas wrote into a CSV",
        ),
        pytest.param(
            "array([{'role': 'user', 'content': 'Q'}], dtype=object)",
            "1",
            "'prompt' is a printed array of messages",
            id="the repr of an array",
        ),
        pytest.param("half \ud800", "1", "'prompt' has half of a surrogate pair", id="no Unicode"),
    ],
)
def test_a_text_that_is_no_text_cannot_be_read(
    prompt: str, gold: str, cause: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "P0", "gold": "0"}, {"prompt": prompt, "gold": gold}]
    path = written({"file": "rows.jsonl", "rows_like": rows}, tmp_path)
    with pytest.raises(ConfigError, match=rf": row 2: {cause}.*1 of 2 rows cannot be read"):
        MathEnv(dataset=path)


def test_a_prompt_about_messages_is_a_text(tmp_path: Path) -> None:
    texts = ["[{'role': x} is Python with a mistake: role, content?", "{role} and {content}?"]
    rows = [{"prompt": text, "gold": "1"} for text in texts]
    path = written({"file": "rows.jsonl", "rows_like": rows}, tmp_path)
    assert [prompt for prompt, _ in problems(MathEnv(dataset=path))] == texts
