"""An environment of one's own on a dataset: its keys, conversations, other columns, the cache."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

from grpo_env_math import MathEnv
from grpo_env_mixture import MixtureEnv
from grpo_envs import (
    DatasetEnv,
    Problem,
    Reward,
    Row,
    ToolEnv,
    check_env,
    new_env,
    write_call,
)
from grpo_envs.config.help import keyword_docs
from grpo_envs.env import dataset_cache
from grpo_envs.env.installed import check_keywords, check_values, parameters_of
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, DatasetError, UnknownName
from grpo_envs.runtime.timing import Timer
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler
from tests.conftest import Write

ROWS = [
    {"prompt": f"What is {i}+{i}?", "gold": str(2 * i), "topic": f"t{i % 3}"} for i in range(20)
]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "It is 2."},
]


class Exact(DatasetEnv):
    """Asks for the gold."""

    read: ClassVar[list[int]] = []

    def __init__(self, split: str = "train", *, suffix: str = "", **keys: Any) -> None:
        self.suffix = suffix
        super().__init__(split, **keys)

    def from_row(self, row: Row) -> Problem:
        self.read.append(row.number)
        if row.text("gold") == "bad":
            raise DatasetError(f"{row.where}: its gold is bad.")
        return Problem(prompt=row.text("prompt") + self.suffix, gold=row.text("gold"), solution="")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.gold)})


class Odd(Exact):
    """Has an attribute that is no JSON value."""

    def __init__(self, **keys: Any) -> None:
        self.odd = object()
        super().__init__(**keys)


def drawn(env: DatasetEnv | MathEnv) -> list[Problem]:
    assert env.rows is not None
    return [
        env.problem(i, split) for split in ("train", "eval") for i in range(env.rows.count(split))
    ]


def test_it_has_the_keys_of_a_dataset(write: Write) -> None:
    path = write("rows.jsonl", [*ROWS, {"prompt": "?", "gold": "bad"}])
    with pytest.raises(DatasetError, match=r"1 of 21 rows cannot be read; env\.unreadable=drop"):
        Exact(dataset=path)
    env = Exact(dataset=path, unreadable="drop", held_out=0.5, columns={"gold": "gold"})
    assert env.rows is not None
    assert (env.rows.count("train"), env.rows.count("eval")) == (10, 10)
    assert {p.meta["topic"] for p in drawn(env)} == {"t0", "t1", "t2"}
    with pytest.raises(ConfigError, match=r"env.dataset is not set"):
        Exact()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, "half", True, float("nan")])
def test_a_share_that_is_none_is_refused(share: Any, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"env.held_out=.*Allowed: a share between 0 and 1"):
        Exact(dataset=write("rows.jsonl", ROWS), held_out=share)


def test_a_split_of_its_own_is_not_overruled(tmp_path: Path) -> None:
    for name in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in ROWS)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    assert Exact(dataset=str(tmp_path)).rows is not None
    with pytest.raises(ConfigError, match=r"env.held_out=0.2: .* has a split 'test' of its own"):
        Exact(dataset=str(tmp_path), held_out=0.2)


def test_a_share_of_nearly_all_leaves_a_prompt_to_train_on(write: Write) -> None:
    env = Exact(dataset=write("rows.jsonl", ROWS[:2]), held_out=0.99)
    assert env.rows is not None
    assert (env.rows.count("train"), env.rows.count("eval")) == (1, 1)


@pytest.mark.parametrize("keys", [{"held_out": 0.5}, {"columns": {}}, {"unreadable": "drop"}])
def test_keys_of_a_dataset_need_one(keys: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"env.{next(iter(keys))} is for a dataset"):
        MathEnv(**keys)


def test_new_env_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_env.write("capitals", tmp_path, new_env.DATASET_FILES)
    monkeypatch.syspath_prepend(str(folder))
    made = import_module("grpo_env_capitals").CapitalsEnv
    check_env(made(), problems=5)
    path = tmp_path / "mine.csv"
    path.write_text("question,answer,level\n1+1?,007,a\n2+2?,4,b\n", encoding="utf-8")
    env = made(dataset=str(path), columns={"prompt": "question", "gold": "answer"})
    assert {(p.prompt, p.gold, p.meta["level"]) for p in drawn(env)} == {
        ("1+1?", "007", "a"),
        ("2+2?", "4", "b"),
    }


# Conversations


def test_turns_stay_turns_without_the_answer(write: Write) -> None:
    env = MathEnv(dataset=write("rows.jsonl", [{"prompt": TALK, "gold": 2}, ROWS[1]]))
    problem = next(p for p in drawn(env) if p.messages)
    assert [(m["role"], m["content"]) for m in problem.messages] == [
        ("user", "Hello."),
        ("assistant", "Hi!"),
        ("user", "1+1?"),
    ]
    assert problem.prompt == "user: Hello.\n\nassistant: Hi!\n\nuser: 1+1?"
    assert env.system_prompt_of(problem) == "Be brief."


def test_what_is_put_behind_the_question_is_in_its_last_turn(write: Write) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"{i}?"}], "gold": str(i)} for i in range(2)]
    rows += [{"prompt": TALK, "gold": "2"}]
    env = Exact(dataset=write("rows.jsonl", rows), suffix=" Think.")
    asked = {problem.gold: problem.messages[-1]["content"] for problem in drawn(env)}
    assert asked == {"0": "0? Think.", "1": "1? Think.", "2": "1+1? Think."}


def test_the_model_sees_the_turns(write: Write, tiny: Any) -> None:
    env = MathEnv(dataset=write("rows.jsonl", [{"prompt": TALK, "gold": 2}, ROWS[1]]))
    problem = next(p for p in drawn(env) if p.messages)
    envs = GroupVectorEnv(env, 2, 2)
    split = "train" if env.problem(0).messages else "eval"
    env.split = split
    decoding = Decoding(max_new_tokens=4, temperature=1.0)
    rollout = Rollout(envs, tiny.chat, TorchSampler(tiny), decoding, seed=0)
    (group,) = rollout([0], Timer())
    assert group.prompt == problem.prompt
    text = tiny.chat.text(group.prompt_ids)
    assert "user\nHello.<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>" in text
    assert "user: Hello" not in text
    assert "It is 2" not in text


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([TALK[1], {"role": "tool", "content": "x"}, TALK[3]], "has a tool message before"),
        ([TALK[1], {"role": "assistant", "content": None}, TALK[3]], "has a assistant message"),
        (
            [TALK[1], {"role": "assistant", "content": "x", "tool_calls": [1]}, TALK[3]],
            "that is no plain text",
        ),
    ],
)
def test_turns_that_are_no_text_are_refused(turns: Any, message: str, write: Write) -> None:
    path = write("rows.jsonl", [ROWS[0], ROWS[1], {"prompt": turns, "gold": "1"}])
    with pytest.raises(DatasetError, match=message):
        MathEnv(dataset=path)
    two = {"prompt": ["topic", "talk"]}
    path = write("two.jsonl", [{"topic": "x", "talk": TALK, "gold": "1"}, ROWS[1]])
    with pytest.raises(DatasetError, match="one of them a conversation of several turns"):
        MathEnv(dataset=path, columns=two)


# Tools


def double(number: int) -> int:
    """Double a number.

    Args:
        number: What is doubled.
    """
    return 2 * number


class Asked(ToolEnv, DatasetEnv):
    """Questions of a dataset, and a tool."""

    tools: Sequence[Any] = [double]

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.gold)})


class Reversed(DatasetEnv, ToolEnv):
    """The same the other way round."""

    tools: Sequence[Any] = [double]
    score = Asked.score


@pytest.mark.parametrize("kind", [Asked, Reversed])
def test_a_dataset_and_tools_are_one_environment(kind: type[Asked], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"What is {i}+{i}?,{2 * i},t{i % 3}" for i in range(20)]
    path.write_text("\n".join(["question,gold,topic", *lines]), encoding="utf-8")
    env = kind(dataset=str(path), columns={"prompt": "question"}, held_out=0.5, turns=3)
    check_env(env, problems=5)
    problem = env.problem(0)
    number = int(problem.gold) // 2
    assert (problem.prompt, problem.meta["topic"]) == (
        f"What is {number}+{number}?",
        "t" + str(number % 3),
    )
    assert [tool.name for tool in problem.tools] == ["double"]
    assert env.max_turns == 3
    env.reset(seed=0)
    said, total, *_ = env.step(write_call("double", {"number": number}))
    assert (said, total) == (problem.gold, 0.0)
    _, total, terminated, _, info = env.step(said)
    assert (total, terminated, info["reward/answered"]) == (1.0, True, 1.0)


@pytest.mark.parametrize("kind", [Asked, Reversed])
def test_the_keywords_of_both_are_known(kind: type[Asked]) -> None:
    keywords = {"split", "turns", "tool_limits", "rewards", "render_mode"}
    keywords |= {"dataset", "columns", "unreadable", "held_out"}
    assert (
        parameters_of(kind).keys() == keyword_docs(kind).keys() - {"parts", "further"} == keywords
    )
    with pytest.raises(UnknownName, match=r"no env\.datset\. .* Did you mean 'dataset'"):
        check_keywords(kind, {"datset": "x"}, "env.")
    with pytest.raises(ConfigError, match=r"env\.held_out=much\. Allowed: a number or null"):
        check_values(kind, {"held_out": "much"}, "env.")


# Other columns


def test_other_columns_are_json(tmp_path: Path) -> None:
    import datasets

    rows = [{**row, "raw": b"x", "x": float("nan"), "deep": {"a": [1]}} for row in ROWS]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    problem = MathEnv(dataset=str(tmp_path / "rows.parquet")).problem(0)
    assert problem.meta == {"topic": problem.columns["topic"], "x": None, "deep": {"a": [1]}}
    assert problem.columns["raw"] == b"x"
    assert problem.columns["gold"] == problem.gold


def test_columns_of_a_mixtures_names_are_no_mixtures(write: Write) -> None:
    rows = [{**row, "env": "x", "level": "Level 5"} for row in ROWS]
    path = write("rows.jsonl", rows)
    assert MathEnv(dataset=path).problem(0).meta.keys() == {"level", "topic"}
    mixed = MixtureEnv(of={"rows": {"env": "math", "dataset": path}})
    problem = mixed.problem(0)
    assert (problem.meta["env"], problem.meta["level"]) == ("rows", "Level 5")
    assert mixed.range_of(problem) == pytest.approx((0, 1.1))


# Golds


@pytest.mark.parametrize(
    ("golds", "answer", "correct"),
    [
        ("all", "1/2, 3", 1.0),
        ("all", "3", 0.0),
        ("any", "3", 1.0),
        ("any", "0.5", 1.0),
        ("any", "4", 0.0),
        ("any", "1/2, 3", 0.0),
    ],
)
def test_a_list_of_golds_asks_for_all_or_any(
    golds: str, answer: str, correct: float, write: Write
) -> None:
    rows = [{"prompt": f"{i}?", "gold": ["1/2", "$3$"]} for i in range(3)]
    env = MathEnv(dataset=write("rows.jsonl", rows), golds=golds)
    problem = env.problem(0)
    said = [f"<answer>{answer}</answer>", "<answer>9</answer>", problem.solution]
    rewards = env.score_batch([problem] * 3, said)
    assert [reward.parts["correct"] for reward in rewards] == [correct, 0.0, 1.0]


# What is kept on disk


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(dataset_cache, "LEAST_ROWS", 20)
    return tmp_path / "cache" / "grpo-envs" / "datasets"


def read_again(make: Callable[[], Any]) -> bool:
    Exact.read.clear()
    make()
    return bool(Exact.read)


def test_a_large_dataset_is_read_once(kept: Path, write: Write) -> None:
    path = write("rows.jsonl", [*ROWS, {"prompt": "?", "gold": "bad"}])

    def make() -> Exact:
        return Exact(dataset=path, unreadable="drop")

    first = make()
    assert not read_again(make)
    assert drawn(make()) == drawn(first)
    (file,) = kept.glob("*")
    assert "What is" not in file.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8")[:50], encoding="utf-8")  # cut off
    assert read_again(make)
    assert drawn(make()) == drawn(first)


def test_what_changes_the_rows_reads_them_again(kept: Path, write: Write) -> None:
    path = write("rows.jsonl", ROWS)
    assert read_again(lambda: Exact(dataset=path))
    assert not read_again(lambda: Exact(dataset=path))
    assert read_again(lambda: Exact(dataset=path, held_out=0.3))
    assert read_again(lambda: Exact(dataset=path, suffix="!"))
    assert read_again(lambda: Exact(dataset=path, columns={"gold": "topic"}))
    stat = Path(path).stat()
    write("rows.jsonl", [*ROWS[:-1], {**ROWS[-1], "gold": "39"}])  # as long as it was
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Path(path).stat().st_size == stat.st_size
    assert read_again(lambda: Exact(dataset=path))


def test_what_json_cannot_tell_apart_is_not_kept(kept: Path, write: Write) -> None:
    path = write("rows.jsonl", ROWS)
    for _ in range(2):
        assert read_again(lambda: Odd(dataset=path))
    assert not list(kept.glob("*"))


def test_a_disk_that_takes_nothing_is_a_warning(
    kept: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("no folder", encoding="utf-8")
    Exact(dataset=write("rows.jsonl", ROWS))
    assert "not kept for the next run" in caplog.text
