"""The doctor sees why real runs failed, which were made to fail in known ways (failing_runs.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

from grpo_envs.doctor import diagnose
from grpo_envs.record import read_record
from tests.failing_runs import RUNS

FOLDER = Path(__file__).parent / "runs"


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
