"""verl: rows in the columns that it reads, and `compute_score` called as its managers call it.

Its own data set and reward manager run where `VERL_PYTHON` names an interpreter that has verl.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pyarrow import parquet

from grpo_envs.errors import ConfigError
from grpo_envs.interop import rows
from grpo_envs.interop.verl import GraderFailed, compute_score, rows_of
from grpo_envs.types import Problem, Reward
from grpo_policy.models import TINY
from tests.interop.test_rows import FailingEnv
from tests.support.door_answers import cases

PROGRAM = Path(__file__).parents[1] / "support" / "in_verl.py"
CHECK = PROGRAM.with_name("in_verl_command.py")
PYTHON = os.environ.get("VERL_PYTHON", "")


def score(row: dict[str, Any], answer: str, **more: Any) -> dict[str, float]:
    """As NaiveRewardManager of 0.9.1: keywords, and keys of its own in `extra_info`."""
    return compute_score(
        data_source=row["data_source"],
        solution_str=answer,
        ground_truth=row["reward_model"]["ground_truth"],
        extra_info={**row["extra_info"], "num_turns": 2, "rollout_reward_scores": {}},
        **more,
    )


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "grpo_envs.export_data", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_files_are_written_and_graded_from(tmp_path: Path) -> None:
    sizes = ("--rows", "12", "--held-out", "3", "--out", "my data")
    done = command("verl", "env=countdown", "env.level=1", *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in ("main_ppo", "pkg://grpo_envs.interop.verl", "name=compute_score", "'"):
        assert text in done.stdout
    read = {p.stem: parquet.read_table(p).to_pylist() for p in tmp_path.rglob("*.parquet")}
    assert {name: len(found) for name, found in read.items()} == {"train": 12, "test": 3}
    assert {row["extra_info"]["split"] for row in read["test"]} == {"eval"}
    for row, case in zip(read["train"], cases("countdown", 12), strict=True):
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["extra_info"]["index"] == case.seed
        scored = score(row, case.answers[0])
        assert scored.keys() == {"score", "valid", "correct", "format"}
        assert (scored["score"], scored["valid"]) == (case.total, 1.0)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VERL_PYTHON names none: pip install verl==0.9.1 .")
def test_verls_own_classes_read_and_grade(tmp_path: Path) -> None:
    sizes = ("--rows", "24", "--held-out", "1", "--out", ".")
    assert command("verl", "env=countdown", *sizes, cwd=tmp_path).returncode == 0
    played = cases("countdown", 24)
    done = subprocess.run(
        [PYTHON, str(PROGRAM), str(tmp_path / "train.parquet"), str(TINY)],
        input=json.dumps([case.answers[0] for case in played]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    pairs = zip(played, found, strict=True)
    graded = [(case.total, noted["reward_score"]) for case, (_, noted) in pairs if noted]
    assert len({own for own, _ in graded}) > 1
    assert all(own == theirs for own, theirs in graded)
    made = rows_of("countdown", {}, "train", 24)
    assert [shown for shown, _ in found] == [row["prompt"] for row in made]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VERL_PYTHON names none: pip install verl==0.9.1 .")
@pytest.mark.parametrize("rows", [24, 512])
def test_verl_takes_the_command_that_is_printed(tmp_path: Path, rows: int) -> None:
    sizes = ("--rows", str(rows), "--held-out", "1", "--out", "my data")
    printed = command("verl", "env=countdown", *sizes, cwd=tmp_path).stdout
    filled = printed.replace("=GPUS", "=8").replace("=MODEL", f"={TINY}")
    words = shlex.split(filled.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    done = subprocess.run(
        [PYTHON, str(CHECK), *words[3:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"steps": max(1, rows // 128), "loggers": "console"}


class NamedEnv(FailingEnv):
    """A part has the name of verl's score."""

    parts: ClassVar[dict[str, float]] = {"score": 0.5}

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"score": 1.0})


def test_a_part_does_not_hide_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    env = NamedEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    (row,) = rows_of("named", {}, "train", 1)
    assert score(row, "1")["score"] == 0.5


def test_an_invalid_reward_ends_the_run_unless_a_number_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = FailingEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    (row,) = rows_of("failing", {}, "train", 1)
    with pytest.raises(GraderFailed, match="train problem 0: the grader failed: OSError: no sand"):
        score(row, "fail")
    scored = score(row, "fail", invalid=-1.0)
    assert (scored["score"], scored["valid"]) == (-1.0, 0.0)
    assert math.isnan(scored["correct"])
    assert score(row, "1").keys() == scored.keys()


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("guess", {}, "env=guess: a conversation, for which verl needs an agent loop."),
        ("code", {"turns": 3}, "env=code: a conversation"),
    ],
)
def test_conversations_are_refused(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        rows_of(name, keywords, "train", 1)


def test_a_function_of_all_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailingEnv, "grades_each_alone", False)
    monkeypatch.setattr(rows, "_environment", lambda *_: FailingEnv())
    with pytest.raises(ConfigError, match="verl grades each alone"):
        rows_of("failing", {}, "train", 1)


def test_rows_of_others_are_refused() -> None:
    with pytest.raises(ConfigError, match="data_source=openai/gsm8k"):
        compute_score("openai/gsm8k", "7", "7", {})
    (row,) = rows_of("math", {}, "train", 1)
    with pytest.raises(ConfigError, match=r"countdown\. Allowed: grpo_envs/math"):
        score({**row, "data_source": "grpo_envs/countdown"}, "7")
    with pytest.raises(ConfigError, match="it has no env, keywords, split, seed"):
        compute_score("grpo_envs/math", "7", "7")


def test_a_mistake_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    for arguments, message in [
        (("verl", "env=guess"), "env=guess: a conversation"),
        (("verl", "env=countdown", "--rows", "0"), "--rows=0. Allowed: 1 or more."),
    ]:
        done = command(*arguments, "--out", "data", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    assert not list(tmp_path.iterdir())
    (tmp_path / "data").write_text("mine")
    done = command("verl", "env=countdown", "--rows", "2", "--out", "data", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--out data: " in done.stderr
