"""verifiers: the same rewards in an environment of its own, `VERIFIERS_PYTHON`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.door_answers import cases

PLAYER = Path(__file__).parents[1] / "support" / "in_verifiers.py"
PYTHON = os.environ.get("VERIFIERS_PYTHON", "")


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON, reason="VERIFIERS_PYTHON names no interpreter; `.ci/verifiers FOLDER` makes one"
)
def test_episodes_earn_our_rewards() -> None:
    played = {name: cases(name, 10) for name in ("math", "format", "countdown", "guess")}
    asked = {name: [case.answers for case in found] for name, found in played.items()}
    done = subprocess.run(
        [PYTHON, str(PLAYER)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    earned = {name: [case.total for case in found] for name, found in played.items()}
    assert json.loads(done.stdout) == earned
