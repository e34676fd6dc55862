"""lm-evaluation-harness: its own runs, with its dummy model made to say given answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.interop import rows
from tests.interop.test_rows import FailingEnv
from tests.support.door_answers import cases

pytest.importorskip("lm_eval", reason='needs pip install -e ".[lm-eval]"')
from grpo_envs.interop.lm_eval import Task
from tests.support.in_lm_eval import run

pytestmark = [
    pytest.mark.slow,  # its import takes seconds
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
YAML = """\
task: countdown_2
class: !function grpo_envs.interop.lm_eval.Task
metadata: {env: countdown, keywords: {level: 2}, rows: 3}
"""


def test_answers_earn_our_rewards() -> None:
    played = cases("countdown", 12)
    found = run(Task("countdown", split="train", rows=12), [case.answers[0] for case in played])
    samples = found["samples"]["grpo_envs_countdown"]
    assert [sample["reward"] for sample in samples] == [case.total for case in played]
    assert {"correct", "format", "invalid"} <= samples[0].keys()
    mean = sum(case.total or 0.0 for case in played) / 12
    assert found["results"]["grpo_envs_countdown"]["reward,none"] == pytest.approx(mean)


def test_an_invalid_reward_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    env = FailingEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    found = run(Task("failing", split="train", rows=3), ["1", "fail", "2"])
    _, failed, _ = found["samples"]["grpo_envs_failing"]
    assert failed["metrics"] == ["invalid"]
    results = found["results"]["grpo_envs_failing"]
    assert (results["reward,none"], results["invalid,none"]) == (0.5, pytest.approx(1 / 3))
    assert "secret-gold" not in repr(found)


def test_prompts_are_those_of_a_run() -> None:
    asked: list[list[dict[str, Any]]] = []
    task = Task("countdown", split="train", rows=1)
    row = rows.rows_of("countdown", {}, "train", 1)[0]
    system, user = rows.messages_of(row)

    def template(messages: list[dict[str, Any]], **_: Any) -> str:
        asked.append(messages)
        return "rendered"

    run(task, ["1"], template=template)
    assert asked == [[system, user]]
    assert task.instances[0].args[0] == "rendered"
    plain = Task("countdown", split="train", rows=1)
    run(plain, ["1"])
    assert plain.instances[0].args[0] == f"{system['content']}\n\n{user['content']}\n"
    with pytest.raises(ConfigError, match="the environment has its own"):
        run(Task("countdown", rows=1), ["1"], system_instruction="Be brief.")


def test_its_command_reads_the_file_of_the_page(tmp_path: Path) -> None:
    done = command(tmp_path, YAML)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\|countdown_2\|.*correct", done.stdout), done.stdout


def test_its_command_ends_with_the_line_about_a_mistake(tmp_path: Path) -> None:
    """After a traceback of its own: it has no other form for errors."""
    done = command(tmp_path, YAML.replace("env: countdown", "env: countdwn"))
    assert done.returncode == 1
    assert "no env 'countdwn'. Allowed: " in done.stderr.splitlines()[-1]


def command(folder: Path, task: str) -> subprocess.CompletedProcess[str]:
    """Run `lm_eval run` with the file of a task, and its dummy model."""
    (folder / "countdown_2.yaml").write_text(task, encoding="utf-8")
    asked = ["--model", "dummy", "--tasks", "countdown_2", "--include_path", "."]
    return subprocess.run(
        [Path(sys.executable).parent / "lm_eval", "run", *asked],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_metadata_is_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"metadata=7. Allowed: env, split, rows and keywords\."):
        Task(config={"metadata": 7})


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("countdown", {"levle": 1}, "Did you mean 'level'"),
        ("guess", {}, "env=guess: a conversation, which lm-eval does not support."),
        ("countdown", {"split": "test"}, "split=test. Allowed: train, eval"),
    ],
)
def test_a_mistake_is_one_line(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Task(name, **keywords)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
