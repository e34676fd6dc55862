"""Problems out of files: every format, every mistake, and splits that share nothing."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

import grpo_envs
from grpo_env_math import MathEnv
from grpo_envs.env.dataset import Records, Row, Rows
from grpo_envs.errors import ConfigError, DatasetError, UnknownName

NEEDS = ("prompt", "gold")
LEFT_OUT = " cannot be read; env.unreadable=drop leaves it out."
REMEDY = " Give a local .jsonl, .json, .csv or .parquet file, or a reachable hub id."


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep `datasets` from writing to the user's cache: it reads the variable on import only."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


Write = Callable[[str, str], str]


def jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i}?", "gold": str(i)} for i in range(start, start + count)]


def prompts(rows: Rows, split: str) -> list[str]:
    return [rows.pick(seed, split).text("prompt") for seed in range(rows.count(split))]


# Formats


QUESTIONS = [
    {"prompt": "Naïve: 1+1? \U0001f600", "gold": "2"},
    {"prompt": "你好: 3/4?", "gold": "3/4"},
    {"prompt": 'With "quotes", commas\nand lines', "gold": "-5"},
    {"prompt": "Half?", "gold": "50%"},
]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    lines = ['"{}","{}"'.format(*(str(v).replace('"', '""') for v in r.values())) for r in rows]
    return "\n".join(["prompt,gold", *lines, ""])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".JSONL"])
def test_every_format_gives_the_same_problems(suffix: str, write: Write, tmp_path: Path) -> None:
    if suffix == ".parquet":
        path = str(tmp_path / "rows.parquet")
        datasets.Dataset.from_list(QUESTIONS).to_parquet(path)
    else:
        texts = {".json": json.dumps(QUESTIONS, indent=1), ".csv": as_csv(QUESTIONS)}
        path = write(f"rows{suffix}", texts.get(suffix, jsonl(QUESTIONS)))
    rows = Rows(path, needs=NEEDS)
    assert len(rows) == rows.count("train") + rows.count("eval") == 4
    by_number = sorted(rows.all(), key=lambda row: row.number)
    assert [row.values for row in by_number] == QUESTIONS
    assert {row.source for row in by_number} == {path}
    env = MathEnv(dataset=path)
    golds = {env.problem(seed, split).gold for split in ("train", "eval") for seed in range(4)}
    assert golds == {"2", "3/4", "-5", "50%"}


def test_columns_are_renamed(write: Write) -> None:
    path = write(
        "rows.jsonl", jsonl([{"question": f"q{i}", "answer": i, "id": 7} for i in range(3)])
    )
    rows = Rows(path, needs=NEEDS, columns={"prompt": "question", "gold": "answer"})
    assert {(row.text("prompt"), row.text("gold")) for row in rows.all()} == {
        ("q0", "0"),
        ("q1", "1"),
        ("q2", "2"),
    }


def test_one_column_may_be_renamed_alone(write: Write) -> None:
    path = write("rows.jsonl", jsonl([{"prompt": f"q{i}", "answer": i} for i in range(3)]))
    rows = Rows(path, needs=NEEDS, columns={"gold": "answer"})
    assert {row.text("gold") for row in rows.all()} == {"0", "1", "2"}


def test_cells_are_stripped_text() -> None:
    row = Row(number=0, source="rows.csv", values={"gold": "  7\n", "count": 0, "share": 0.5})
    assert [row.text(name) for name in ("gold", "count", "share")] == ["7", "0", "0.5"]


def test_a_worked_answer_ends_in_its_gold(write: Write) -> None:
    # The form of GSM8K: reasoning, then #### and the number, with a thousands separator.
    rows = [
        {"prompt": "Eggs?", "gold": "She sells 9 * 2 = <<9*2=18>>18.\n#### 18"},
        {"prompt": "Price?", "gold": "So it is 65 + 5.\n#### 70,000"},
        {"prompt": "Box?", "gold": r"Thus \boxed{\frac{3}{4}}."},
    ]
    env = MathEnv(dataset=write("rows.jsonl", jsonl(rows)))
    problems = [env.problem(s, split) for split in ("train", "eval") for s in range(3)]
    assert {problem.gold for problem in problems} == {"18", "70,000", r"\frac{3}{4}"}
    for problem in problems:
        assert env.score(problem, problem.solution).parts == {"correct": 1.0, "format": 1.0}


# Mistakes


@pytest.mark.parametrize(
    ("name", "text", "columns", "error", "message"),
    [
        pytest.param(
            "empty.jsonl",
            "",
            None,
            DatasetError,
            "env.dataset={path}: the file is empty, it has no rows.",
            id="empty file",
        ),
        pytest.param(
            "blank.csv",
            " \n\n",
            None,
            DatasetError,
            "env.dataset={path}: the file is empty, it has no rows.",
            id="blank file",
        ),
        pytest.param(
            "rows.txt",
            "a",
            None,
            ConfigError,
            "env.dataset={path}: not one of .jsonl, .json, .csv, .parquet.",
            id="a format that is not read",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"question": "a", "gold": "1"}, {"question": "b", "gold": "2"}]),
            None,
            DatasetError,
            "{path}: no column 'prompt'. Set env.columns={{prompt: ...}} to one of: "
            "question, gold.",
            id="no such column",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"promt": "a", "gold": "1"}, {"promt": "b", "gold": "2"}]),
            None,
            DatasetError,
            "{path}: no column 'prompt'. Did you mean 'promt'? Set env.columns={{prompt: ...}} "
            "to one of: promt, gold.",
            id="a column nearly so called",
        ),
        pytest.param(
            "rows.csv",
            "prompt,answer\na,1\nb,2\n",
            {"gold": "anwser"},
            DatasetError,
            "{path}: no column 'anwser'. Did you mean 'answer'? Set env.columns={{gold: ...}} "
            "to one of: prompt, answer.",
            id="a column that was named wrongly",
        ),
        pytest.param(
            "rows.csv",
            "prompt,gold\na,1\nb,2\n",
            {"glod": "gold"},
            UnknownName,
            "no column role in env.columns 'glod'. Allowed: gold, prompt. Did you mean 'gold'?",
            id="a role that there is not",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"prompt": "a", "gold": "1"}, {"prompt": "  ", "gold": "2"}]),
            None,
            DatasetError,
            "{path}: row 2 has no 'prompt'. 1 of 2 rows" + LEFT_OUT,
            id="an empty prompt",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"prompt": "a", "gold": 1}, {"prompt": "b", "gold": float("nan")}]),
            None,
            DatasetError,
            "{path}: row 2 has no 'gold'. 1 of 2 rows" + LEFT_OUT,
            id="a gold that pandas has no value of",
        ),
        pytest.param(
            "rows.csv",
            "question,gold\na,1\nb,2\n",
            "question",
            ConfigError,
            "env.columns=question. Allowed: names, as {{prompt: question}}.",
            id="columns that are no mapping",
        ),
        pytest.param(
            "rows.csv",
            "prompt,gold\na,1\nb,2\nc,\n",
            None,
            DatasetError,
            "{path}: row 3 has no 'gold'. 1 of 3 rows" + LEFT_OUT,
            id="an empty gold",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"prompt": "a", "gold": None}, {"prompt": "b", "gold": "2"}]),
            None,
            DatasetError,
            "{path}: row 1 has no 'gold'. 1 of 2 rows" + LEFT_OUT,
            id="a gold that is null",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([*numbered(6), {"prompt": "x?", "gold": "a dozen"}, *numbered(3, 10)]),
            None,
            DatasetError,
            "{path}: row 7: gold 'a dozen' cannot be graded: it is prose, not mathematics. "
            "1 of 10 rows" + LEFT_OUT,
            id="a gold that is no mathematics",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([*numbered(2), {"prompt": "x?", "gold": "a dozen\neggs"}]),
            None,
            DatasetError,
            "{path}: row 3: gold 'a dozen\\neggs' cannot be graded: it is prose, not mathematics. "
            "1 of 3 rows" + LEFT_OUT,
            id="a gold of two lines in a message of one",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"prompt": "a", "gold": "1"}]),
            None,
            DatasetError,
            "{path}: 1 distinct prompt; at least 2 are needed to split.",
            id="a single row",
        ),
        pytest.param(
            "rows.jsonl",
            jsonl([{"prompt": "a", "gold": "1"}] * 5),
            None,
            DatasetError,
            "{path}: 1 distinct prompt; at least 2 are needed to split.",
            id="the same row again and again",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(
    name: str,
    text: str,
    columns: dict[str, str] | str | None,
    error: type[Exception],
    message: str,
    write: Write,
) -> None:
    path = write(name, text)
    with pytest.raises(error) as caught:
        grpo_envs.make("math", dataset=path, columns=columns)
    assert str(caught.value) == message.format(path=path)


def test_a_missing_file_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        Rows("data/nowhere.jsonl", needs=NEEDS)
    assert str(caught.value) == (
        f"env.dataset=data/nowhere.jsonl: no such file (looked in {tmp_path})."
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("rows.json", '{"prompt": "a", "gold": \n{]', id="broken JSON"),
        pytest.param("rows.parquet", "PAR1 not really", id="broken Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_with_a_remedy(
    name: str, text: str, write: Write
) -> None:
    path = write(name, text)
    with pytest.raises(DatasetError) as caught:
        Rows(path, needs=NEEDS)
    message = str(caught.value)
    assert message.startswith(f"env.dataset={path}: cannot be read (")
    assert message.endswith(
        "Give a local .jsonl, .json, .csv or .parquet file, or a reachable hub id."
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("rows.json", "[]", id="an empty list"),
        pytest.param("rows.csv", "prompt,gold\n", id="a header alone"),
    ],
)
def test_a_file_without_rows_is_one_line(name: str, text: str, write: Write) -> None:
    path = write(name, text)
    with pytest.raises(DatasetError, match=r"no rows|no data") as caught:
        Rows(path, needs=NEEDS)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rows[1].jsonl", "row*.jsonl"])
def test_a_file_name_is_no_pattern(name: str, write: Write) -> None:
    write("row_of_somebody_else.jsonl", jsonl(numbered(9, start=100)))
    path = write(name, jsonl(numbered(4)))
    assert len(Rows(path, needs=NEEDS)) == 4


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # A closed port answers like no network does; the hub's own address might be reachable here.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DatasetError) as caught:
        Rows("openai/gsm8k", needs=NEEDS)
    message = str(caught.value)
    assert message.startswith(
        "env.dataset=openai/gsm8k: no such folder, and the hub cannot be reached ("
    )
    assert message.endswith(
        "Give a local .jsonl, .json, .csv or .parquet file, or a reachable hub id."
    )
    assert "\n" not in message


def test_what_is_neither_a_folder_nor_a_hub_id_is_one_line() -> None:
    with pytest.raises(DatasetError, match="no such folder, and not the form of a hub id"):
        Rows("not a / hub id", needs=NEEDS)


def test_progress_bars_are_as_they_were(write: Write) -> None:
    before = datasets.is_progress_bar_enabled()
    try:
        for switch in (datasets.enable_progress_bars, datasets.disable_progress_bars):
            switch()
            expected = datasets.is_progress_bar_enabled()
            Rows(write(f"{expected}.jsonl", jsonl(numbered(3))), needs=NEEDS)
            assert datasets.is_progress_bar_enabled() is expected
    finally:
        if before:
            datasets.enable_progress_bars()


# Splits and epochs


@pytest.mark.parametrize(
    ("count", "held_out"),
    [
        pytest.param(2, 1, id="of two, one"),
        pytest.param(10, 1, id="of ten, one"),
        pytest.param(200, 20, id="of two hundred, twenty"),
    ],
)
def test_a_tenth_of_the_rows_is_held_out(count: int, held_out: int, write: Write) -> None:
    rows = Rows(write("rows.jsonl", jsonl(numbered(count))), needs=NEEDS)
    assert (rows.count("train"), rows.count("eval")) == (count - held_out, held_out)
    train, evaluation = prompts(rows, "train"), prompts(rows, "eval")
    assert not set(train) & set(evaluation)
    assert sorted(train + evaluation) == sorted(row["prompt"] for row in numbered(count))


def test_a_repeated_question_never_straddles_the_splits(write: Write) -> None:
    table = [*numbered(40), *numbered(40), *numbered(40)]
    padded = [{**row, "prompt": f"  {row['prompt']}\n"} for row in numbered(40)]
    rows = Rows(write("rows.jsonl", jsonl([*table, *padded])), needs=NEEDS)
    train, evaluation = set(prompts(rows, "train")), set(prompts(rows, "eval"))
    assert not train & evaluation
    assert (len(train), len(evaluation)) == (36, 4)  # a tenth of the distinct questions
    assert (rows.count("train"), rows.count("eval")) == (144, 16)


def test_the_held_out_rows_do_not_depend_on_the_order_of_the_file(write: Write) -> None:
    forward = Rows(write("a.jsonl", jsonl(numbered(50))), needs=NEEDS)
    backward = Rows(write("b.jsonl", jsonl(numbered(50)[::-1])), needs=NEEDS)
    assert set(prompts(forward, "eval")) == set(prompts(backward, "eval"))


@pytest.mark.parametrize("split", ["train", "eval"])
def test_an_epoch_visits_each_row_once_and_the_next_in_another_order(
    split: str, write: Write
) -> None:
    rows = Rows(write("rows.jsonl", jsonl(numbered(120))), needs=NEEDS)
    size = rows.count(split)
    epochs = [
        [rows.pick(epoch * size + i, split).number for i in range(size)] for epoch in range(3)
    ]
    assert all(len(set(epoch)) == size for epoch in epochs)
    assert all(Counter(epoch) == Counter(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != sorted(epochs[0])  # shuffled from the start


def test_picks_are_the_same_in_another_reader(write: Write) -> None:
    path = write("rows.jsonl", jsonl(numbered(30)))
    one, other = (Rows(path, needs=NEEDS) for _ in range(2))
    seeds = [0, 5, 27, 28, 100, 2**40]
    assert [one.pick(s, "train") for s in seeds] == [
        other.pick(s, "train") for s in reversed(seeds)
    ][::-1]


def test_an_environment_on_rows_draws_from_its_split(write: Write) -> None:
    path = write("rows.jsonl", jsonl(numbered(100)))
    train, evaluation = MathEnv(dataset=path), MathEnv("eval", dataset=path)
    trained = {train.reset(seed=seed)[0] for seed in range(200)}
    evaluated = {evaluation.reset(seed=seed)[0] for seed in range(200)}
    assert (len(trained), len(evaluated)) == (90, 10)
    assert not trained & evaluated


def test_an_environment_on_rows_keeps_every_promise(write: Write) -> None:
    grpo_envs.check_env(MathEnv(dataset=write("rows.jsonl", jsonl(numbered(40, start=400)))))


@pytest.mark.parametrize("name", ["eval", "test", "validation"])
def test_a_folder_with_splits_of_its_own_keeps_them(
    name: str, write: Write, tmp_path: Path
) -> None:
    write("set/train.jsonl", jsonl(numbered(30)))
    write(f"set/{name}.jsonl", jsonl(numbered(5, start=100)))
    rows = Rows(str(tmp_path / "set"), needs=NEEDS)
    assert sorted(row.number for row in rows.all()) == sorted([*range(30), *range(5)])
    assert set(prompts(rows, "train")) == {row["prompt"] for row in numbered(30)}
    assert set(prompts(rows, "eval")) == {row["prompt"] for row in numbered(5, start=100)}


def test_a_folder_with_one_split_is_split_like_a_file(write: Write, tmp_path: Path) -> None:
    write("set/train.jsonl", jsonl(numbered(30)))
    rows = Rows(str(tmp_path / "set"), needs=NEEDS)
    assert (rows.count("train"), rows.count("eval")) == (27, 3)


def test_a_mistake_in_the_test_split_says_so(write: Write, tmp_path: Path) -> None:
    write("set/train.jsonl", jsonl(numbered(30)))
    write("set/test.jsonl", jsonl([{"prompt": "ok", "gold": "1"}, {"prompt": "x", "gold": "x +"}]))
    folder = str(tmp_path / "set")
    with pytest.raises(DatasetError) as caught:
        MathEnv(dataset=folder)
    assert (
        str(caught.value)
        == f"{folder} (test): row 2: gold 'x +' cannot be graded: it ends too early. "
        f"1 of 32 rows{LEFT_OUT}"
    )


def test_a_folder_without_data_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be read \(.*\)\. Give a local \.jsonl"):
        Rows(str(tmp_path), needs=NEEDS)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        pytest.param("gold", "0.12345678901234567890123", id="more digits than a float has"),
        pytest.param("gold", "007", id="leading zeros"),
        pytest.param("prompt", "NA", id="sodium, not a missing value"),
        pytest.param("prompt", "null", id="a word"),
    ],
)
def test_a_cell_of_csv_is_the_text_that_stands_there(column: str, cell: str, write: Write) -> None:
    row = {"prompt": "a", "gold": "1", column: cell}
    path = write("rows.csv", f"prompt,gold\n{row['prompt']},{row['gold']}\nother,2\n")
    rows = sorted(Rows(path, needs=NEEDS).all(), key=lambda row: row.number)
    assert rows[0].text(column) == cell


# Plain values


MIXED: list[dict[str, Any]] = [
    {"prompt": "a", "gold": [1, "x", None, {"k": [1.5]}], "more": 7},
    {"prompt": "b", "gold": {"kind": "call", "args": [[1], "y"]}},
    {"prompt": "c", "gold": 10**30, "more": None},
    {"prompt": "d", "gold": "text", "more": "8"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_plain_cells_keep_their_values_and_types(suffix: str, write: Write) -> None:
    text = jsonl(MIXED) if suffix == ".jsonl" else json.dumps(MIXED)
    path = write(f"rows{suffix}", text)
    rows = Rows(path, needs=NEEDS, optional=("more",))
    cells = {row.text("prompt"): row.values for row in rows.all()}
    assert {name: cell["gold"] for name, cell in cells.items()} == {
        str(row["prompt"]): row["gold"] for row in MIXED
    }
    assert [cells[name]["more"] for name in "abcd"] == [7, None, None, "8"]


def test_a_plain_file_is_split_and_shuffled_like_any_other(write: Write) -> None:
    path = write("rows.jsonl", jsonl(numbered(40)))
    parquet = str(Path(path).with_suffix(".parquet"))
    datasets.Dataset.from_list(numbered(40)).to_parquet(parquet)
    plain, other = Rows(path, needs=NEEDS), Rows(parquet, needs=NEEDS)
    for split in ("train", "eval"):
        assert prompts(plain, split) == prompts(other, split)


def test_plain_is_as_usual_for_other_formats(write: Write) -> None:
    path = write("rows.csv", "prompt,gold\na,007\nb,8\n")
    rows = Rows(path, needs=NEEDS).all()
    assert sorted(row.text("gold") for row in rows) == ["007", "8"]


def test_an_optional_column_is_none_where_there_is_none(write: Write) -> None:
    path = write("rows.jsonl", jsonl(numbered(9)))
    rows = Rows(path, needs=NEEDS, optional=("hint",))
    assert {row.values["hint"] for row in rows.all()} == {None}


def test_an_optional_column_that_is_named_must_be_there(write: Write) -> None:
    path = write("rows.jsonl", jsonl(numbered(9)))
    with pytest.raises(DatasetError) as caught:
        Rows(path, needs=NEEDS, optional=("hint",), columns={"hint": "golt"})
    assert str(caught.value) == (
        f"{path}: no column 'golt'. Did you mean 'gold'? "
        "Set env.columns={hint: ...} to one of: prompt, gold."
    )
    with pytest.raises(UnknownName, match="Allowed: gold, hint, prompt"):
        Rows(path, needs=NEEDS, optional=("hint",), columns={"hunt": "gold"})


def test_records_may_be_read_elsewhere() -> None:
    rows = Rows("mine", needs=NEEDS, records=Records([*numbered(20)]))
    assert (rows.count("train"), rows.count("eval")) == (18, 2)
    assert {row.source for row in rows.all()} == {"mine"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "rows.jsonl",
            '{"prompt": "a", "gold": 1}\n\n{"prompt": \n',
            "{path}: row 2 is no JSON (Expecting value: line 1 column 12 (char 11)).",
        ),
        (
            "rows.jsonl",
            '{"prompt": "a", "gold": 1}\n[1]',
            "{path}: row 2 is no object with columns.",
        ),
        ("rows.json", '[{"prompt": 1, "gold": 1}, 3]', "{path}: row 2 is no object with columns."),
        (
            "rows.json",
            '[{"prompt": ]',
            "env.dataset={path}: cannot be read (Expecting value: line 1 column 13 (char 12))."
            + REMEDY,
        ),
        (
            "rows.jsonl",
            "[" * 100_000,
            "{path}: row 1 is no JSON (maximum recursion depth exceeded while decoding a JSON "
            "array from a unicode string).",
        ),
        ("rows.jsonl", " \n", "env.dataset={path}: the file is empty, it has no rows."),
        ("rows.json", "[]", "{path}: empty, it has no rows."),
        (
            "rows.jsonl",
            '{"prompt": "a"}\n',
            "{path}: no column 'gold'. Set env.columns={{gold: ...}} to one of: prompt.",
        ),
    ],
)
def test_a_mistake_in_a_plain_file_is_one_line(
    name: str, text: str, message: str, write: Write
) -> None:
    path = write(name, text)
    with pytest.raises(DatasetError) as caught:
        Rows(path, needs=NEEDS)
    assert str(caught.value) == message.format(path=path)


def test_a_plain_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    for name, text in (("rows.jsonl", b'{"prompt": "\xff"}'), ("rows.csv", b"prompt,gold\n\xdf,2")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(
            DatasetError, match=rf"{name}: the file is not UTF-8\. Save it as UTF-8"
        ):
            Rows(str(tmp_path / name), needs=NEEDS)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_without_commas_says_what_separates_its_cells(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt{mark}gold\nP0{mark}0,5\n", encoding="utf-8")
    why = f"env.dataset={path}: its cells are separated by {mark!r}. Save it with commas."
    with pytest.raises(DatasetError) as caught:
        Rows(str(path), needs=NEEDS)
    assert str(caught.value) == why


def test_a_plain_file_that_is_missing_says_so() -> None:
    with pytest.raises(DatasetError, match="no such file"):
        Rows("missing.jsonl", needs=NEEDS)
