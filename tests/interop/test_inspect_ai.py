"""inspect-ai: its own runs, with a model that says given answers."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.env.calls import write_call, write_unreadable
from grpo_envs.env.plugins import make
from grpo_envs.errors import ConfigError
from grpo_envs.interop import rows
from grpo_envs.types import Tool
from tests.interop.test_rows import FailingEnv
from tests.support.door_answers import cases

pytest.importorskip("inspect_ai", reason='needs pip install -e ".[inspect]"')
from grpo_envs.interop.inspect_ai import environment
from tests.support.in_inspect import run

pytestmark = [
    pytest.mark.slow,  # its import takes seconds
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # its streams
    pytest.mark.filterwarnings(
        "ignore:The 'initial' parameter:DeprecationWarning"
    ),  # it retries so
]


@pytest.mark.parametrize("name", ["countdown", "guess"])
def test_episodes_earn_our_rewards(name: str, tmp_path: Path) -> None:
    played = cases(name, 12)
    log = run(environment(name, split="train", rows=12), [c.answers for c in played], tmp_path)
    values = [sample.scores["reward"].value for sample in log.samples]
    assert [value["reward"] for value in values] == [case.total for case in played]
    assert {"correct", "format", "reward"} <= values[0].keys()
    said = [[m.text for m in sample.messages if m.role == "assistant"] for sample in log.samples]
    assert said == [[*case.answers] for case in played]


def test_a_model_is_shown_the_tools_and_calls_them(tmp_path: Path) -> None:
    played = cases("calculator", 12, by_tools=True)
    assert {len(case.answers) for case in played} == {1, 2}
    task = environment("calculator", split="train", rows=12)
    log = run(task, [case.answers for case in played], tmp_path)
    earned = [sample.scores["reward"].value["reward"] for sample in log.samples]
    assert earned == [case.total for case in played]
    (tool,) = make("calculator").problem(0).tools
    for sample in log.samples:
        asked = next(event for event in sample.events if event.event == "model")
        (shown,) = asked.tools
        assert (shown.name, shown.description) == (tool.name, tool.description)
        parameters = shown.parameters.model_dump(exclude_unset=True)
        assert parameters == {**tool.parameters, "additionalProperties": False}


def test_the_calls_of_a_turn_are_made_together(tmp_path: Path) -> None:
    """Each gets its result, also one that could not be read, and those beyond the limit."""
    three = write_call("calculator", {"expression": "1+2"})
    turn = three + write_unreadable("calculator(2)") + 4 * three
    task = environment("calculator", split="train", rows=1)
    log = run(task, [[turn, "<answer>3</answer>"]], tmp_path)
    (sample,) = log.samples
    said = [message for message in sample.messages if message.role == "tool"]
    assert [message.tool_call_id for message in said] == ["0", "1", "2", "3", "4", "5"]
    assert [message.text for message in said[:4:2]] == ["3", "3"]
    assert said[1].text.startswith("error: a call is")
    assert [message.text for message in said[4:]] == ["error: 2 calls not made: 4 in one turn."] * 2
    assert sample.scores["reward"].value["tool_calls"] == 5


def test_a_schema_that_inspect_would_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("calculator")
    about = {"type": "string", "contentEncoding": "base64"}
    parameters = {"type": "object", "properties": {"x": about}}
    tool = Tool(name="see", description="See.", parameters=parameters)
    monkeypatch.setattr(env, "_with_tools", lambda problem: replace(problem, tools=(tool,)))
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    with pytest.raises(ConfigError, match="tool see: its JSON Schema has keys that Inspect leaves"):
        environment("calculator", rows=1)


def test_an_invalid_reward_is_unscored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = FailingEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    log = run(environment("failing", split="train", rows=3), [["1"], ["fail"], ["2"]], tmp_path)
    right, failed, wrong = (sample.scores["reward"] for sample in log.samples)
    assert (right.value["reward"], wrong.value["reward"]) == (1.0, 0.0)
    assert math.isnan(failed.value)
    assert (failed.reason, failed.explanation) == ("scoring_failed", "OSError: no sandbox")
    (whole,) = [score for score in log.results.scores if score.name == "reward"]
    assert whole.metrics["mean"].value == 0.5
    assert (whole.scored_samples, whole.unscored_samples) == (2, 1)
    assert "secret-gold" not in log.model_dump_json()


def test_parts_that_do_not_apply_count_nowhere(tmp_path: Path) -> None:
    mixed = environment("mixture", split="train", rows=8, of={"format": 1, "guess": 1})
    log = run(mixed, [["<answer>1</answer>"] * 99], tmp_path)
    scores = {score.name: score for score in log.results.scores}
    assert scores["reward"].scored_samples == 8
    assert 0 < scores["guess/quick"].scored_samples < 8


def test_another_solver_may_answer_single_answers_only(tmp_path: Path) -> None:
    from inspect_ai.solver import generate

    (case,) = cases("countdown", 1)
    task = environment("countdown", split="train", rows=1)
    log = run(task, [case.answers], tmp_path, solver=generate())
    assert log.samples[0].scores["reward"].value["reward"] == case.total
    log = run(environment("guess", rows=1), [["<answer>1</answer>"]], tmp_path, solver=generate())
    assert "env=guess: a conversation" in log.error.message


def test_a_conversation_that_a_limit_ends_has_what_it_earned(tmp_path: Path) -> None:
    answers = ["<answer>1</answer>", "<answer>2</answer>", "<answer>3</answer>"]
    task = environment("guess", split="train", rows=1)
    log = run(task, [answers], tmp_path, message_limit=4)
    (sample,) = log.samples
    assert sample.limit.type == "message"
    episode = rows.Episode(rows.rows_of("guess", {}, "train", 1)[0])
    episode.answer(answers[0])
    assert sample.scores["reward"].value["reward"] == episode.graded.total


def test_its_command_finds_the_task(tmp_path: Path) -> None:
    done = command(tmp_path, "-T", "env=countdown", "-T", "level=2", "-T", "rows=2")
    assert done.returncode == 0, done.stderr


def test_its_command_shows_a_mistake_as_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, "-T", "env=countdwn")
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    assert line.startswith("Error: no env 'countdwn'. Allowed: ")


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `inspect eval` without a model: nothing is generated."""
    task = ["grpo_envs/environment", "--model", "none", "--solver", "none_said.py@nothing"]
    solver = "from inspect_ai.solver import solver\n@solver\ndef nothing():\n"
    solver += "    async def solve(state, generate):\n        return state\n    return solve\n"
    (folder / "none_said.py").write_text(solver, encoding="utf-8")
    return subprocess.run(
        [Path(sys.executable).parent / "inspect", "eval", *task, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("countdown", {"levle": 1}), "Did you mean 'level'"),
        (("countdown", {"split": "test"}), "split=test. Allowed: train, eval"),
        (("mixture", {"of": {"math": {"levels": [1, 2]}}}), "its levels follow success"),
    ],
)
def test_a_mistake_is_one_line(arguments: Sequence[Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        environment(arguments[0], **arguments[1])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
