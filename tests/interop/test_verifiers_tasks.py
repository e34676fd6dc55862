"""examples/verifiers_tasks, installed as its README says, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "verifiers_tasks"
TASKS = ("env=verifiers", "env.id=reverse_taskset", "env.return_range=[-1, 1]")
SCORES = """
import json, grpo_envs
env = grpo_envs.make("verifiers", id="reverse_taskset", return_range=[-1, 1], most=200)
problem = env.problem(0)
word = problem.prompt.removeprefix("Reverse ").rstrip(".")
broken = grpo_envs.make("verifiers", id="reverse_taskset", keywords={"broken": True}, most=200)
answers = (word[::-1], word, "")
rewards = env.score_batch([problem] * 3, answers)
failed = broken.score(broken.problem(0), "x")
print(json.dumps([
    problem.system_prompt, [r.total for r in rewards], rewards[1].note, failed.valid, failed.error
]))
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with verifiers, grpo-envs' core, the example and its taskset."""
    folder = tmp_path_factory.mktemp("verifiers")
    venv.create(folder, with_pip=True)
    found = folder / "bin" / "python"
    packages = (ROOT, EXAMPLE, EXAMPLE / "reverse")
    done = _run(found, "-m", "pip", "install", "--quiet", *map(str, packages), cwd=folder)
    assert done.returncode == 0, done.stderr
    return found


def _run(python: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = (str(python), *args)
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False
    )


def test_a_taskset_keeps_every_promise(python: Path, tmp_path: Path) -> None:
    done = _run(python, "-m", "grpo_envs.check", *TASKS, "env.most=500", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 of 15 promises held" in done.stdout


def test_its_rewards_are_those_of_the_tasks(python: Path, tmp_path: Path) -> None:
    done = _run(python, "-c", SCORES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        *("Only the letters.", [1.0, 0.0, 0.0], "letters 4", False),
        "TaskError: task ReverseTask scoring: OSError: no network",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["env.keywords={boxed: true}"], "ran needs a runtime. Allowed: tasks of one answer."),
        (["env.id=nowhere"], "env.id=nowhere cannot be loaded: ModuleNotFoundError: taskset"),
        (["env.id=null"], "env.id=None. Allowed: an installed taskset of verifiers."),
        (["env.keywords={lenth: 3}"], "1 validation error for ReverseConfig lenth"),
        (["env.return_range=[1, 0]"], "env.return_range=[1, 0]. Allowed: [least, most]"),
        (["env.most=0"], "env.most=0. Allowed: more tasks: train has none"),
    ],
)
def test_a_mistake_is_one_line(python: Path, tmp_path: Path, given: list[str], said: str) -> None:
    done = _run(python, "-m", "grpo_envs.check", *TASKS, *given, cwd=tmp_path)
    assert done.returncode != 0, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr
