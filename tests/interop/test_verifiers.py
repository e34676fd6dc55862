"""verifiers: the same rewards in an environment of its own, `VERIFIERS_PYTHON`.

Its OpenEnv taskset plays a server that runs in a third one, `OPENENV_PYTHON`: the pins of both
exclude each other. `.ci/verifiers FOLDER` makes both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.env.plugins import make
from tests.support.door_answers import cases

SUPPORT = Path(__file__).parents[1] / "support"
PYTHON = os.environ.get("VERIFIERS_PYTHON", "")
SERVER = os.environ.get("OPENENV_PYTHON", "")


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON, reason="VERIFIERS_PYTHON names no interpreter; `.ci/verifiers FOLDER` makes one"
)
def test_episodes_earn_our_rewards() -> None:
    played = {name: cases(name, 10) for name in ("math", "format", "countdown", "guess")}
    played["calculator"] = cases("calculator", 20, by_tools=True)
    asked = {name: [case.answers for case in found] for name, found in played.items()}
    earned = {name: [case.total for case in found] for name, found in played.items()}
    assert run("in_verifiers.py", asked) == earned


@pytest.mark.slow
@pytest.mark.skipif(
    not (PYTHON and SERVER),
    reason="VERIFIERS_PYTHON, OPENENV_PYTHON name no interpreter: `.ci/verifiers FOLDER`",
)
@pytest.mark.parametrize("name", ["countdown", "guess"])
def test_its_openenv_taskset_plays_a_served_environment(name: str) -> None:
    # It takes the spaces at an answer's ends away, reads JSON and ends at an empty answer.
    played = [case for case in cases(name, 40) if all(map(is_plain, case.answers))]
    assert len({case.total for case in played}) > 2
    with served(name) as url:
        episodes = {case.seed: case.answers for case in played}
        found = run("in_verifiers_served.py", {"base_url": url, "episodes": episodes})
    env = make(name)
    assert found == [[case.total, env.problem(case.seed).prompt] for case in played]


def run(program: str, asked: object) -> Any:
    """Give a program in verifiers' environment its input; return what it prints."""
    done = subprocess.run(
        [PYTHON, str(SUPPORT / program)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def served(name: str) -> Iterator[str]:
    """Serve an environment by the command; yield its address."""
    command = [SERVER, "-m", "grpo_envs.serve", f"env={name}", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            (url,) = re.findall(r"at (\S+),", server.stdout.readline())
            yield url
        finally:
            server.terminate()
    assert server.returncode == 0


def is_plain(answer: str) -> bool:
    """Whether verifiers hands an answer on as it was written."""
    try:
        json.loads(answer)
    except json.JSONDecodeError:
        return bool(answer) and answer == answer.strip()
    return False
