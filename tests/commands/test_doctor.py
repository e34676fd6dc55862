"""The doctor sees why real runs failed, which were made to fail in known ways (failing_runs.py)."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_envs.doctor import diagnose
from grpo_envs.runs.record import Record, read_record
from tests.support.failing_runs import RUNS

FOLDER = Path(__file__).parents[1] / "data" / "runs"


@pytest.mark.parametrize("name", RUNS)
def test_the_first_finding_is_the_way_it_was_made_to_fail(name: str) -> None:
    found = diagnose(read_record(FOLDER / name))
    assert (found[0].name if found else None) == RUNS[name].finding
    for finding in found:
        assert any(character.isdigit() for character in finding.evidence)
        assert finding.turn


def test_at_least_ten_ways_are_known() -> None:
    assert len({run.finding for run in RUNS.values()} - {None}) >= 10
    assert {path.name for path in FOLDER.iterdir()} == RUNS.keys()


def test_the_command_says_it_in_words() -> None:
    command = [sys.executable, "-m", "grpo_envs.doctor", str(FOLDER / "truncated")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1. Most answers run out of tokens" in done.stdout
    assert "turn: sampler.max_new_tokens up" in done.stdout
    healthy = subprocess.run(
        [*command[:-1], str(FOLDER / "healthy")], capture_output=True, text=True, check=False
    )
    assert healthy.returncode == 0
    assert "Nothing is wrong" in healthy.stdout
    none = subprocess.run([*command[:-1], str(FOLDER)], capture_output=True, text=True, check=False)
    assert none.returncode == 2
    assert len(none.stderr.splitlines()) == 1
    assert "Give the folder of a run." in none.stderr


def made_of(steps: int, **columns: Callable[[int], float]) -> Record:
    """A run whose metrics are functions of the step."""
    names = {key: key.replace("__", "/") for key in columns}
    rows = [
        {"step": i, "reward/invalid": 0.0, **{names[k]: f(i) for k, f in columns.items()}}
        for i in range(1, steps + 1)
    ]
    about = {"weights": {"correct": 1.0}, "own": ["correct"]}
    return Record(Path("run"), rows, [], {}, about, "done")


def test_a_run_that_has_learnt_its_task_is_not_ill() -> None:
    learnt = made_of(
        40,
        reward__mean=lambda i: min(1.0, i / 30),
        reward__correct=lambda i: min(1.0, i / 30),
        group__zero_std=lambda i: float(i > 30),
    )
    assert [finding.name for finding in diagnose(learnt)] == []
    known = made_of(
        40,
        reward__mean=lambda i: 1.0,
        reward__correct=lambda i: 1.0 - (i % 2) / 100,
        group__zero_std=lambda i: 0.95,
    )
    assert [finding.name for finding in diagnose(known)] == ["too easy"]
