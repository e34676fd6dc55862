"""The loop: what is recorded when, what a failing grader does, what a resume takes over."""

import json
import logging
from pathlib import Path

import pytest

from grpo_envs.build import build
from grpo_envs.checkpoint import Checkpoints
from grpo_envs.config import compose_run
from grpo_envs.environments import make_envs
from grpo_envs.errors import ConfigError
from grpo_envs.trainer import RunStopped, Trainer
from grpo_envs.types import Problem, Reward

SMALL = [
    "model.size=tiny",
    "logger=files",
    "trainer.prompts_per_step=2",
    "trainer.eval_problems=4",
    "agent.group_size=2",
    "sampler.max_new_tokens=8",
]


def trainer(out: Path, *overrides: str) -> Trainer:
    cfg = compose_run([*SMALL, *overrides])
    return build(cfg, out, make_envs(cfg))


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_evaluations_and_checkpoints_come_when_they_are_due(tmp_path: Path) -> None:
    trainer(tmp_path, "trainer.steps=5", "trainer.eval_every=2", "trainer.save_every=3").run()
    assert steps(tmp_path / "eval.jsonl") == [0, 2, 4, 5]
    saved = sorted(p.name for p in (tmp_path / "checkpoints").glob("step_*"))
    assert saved == ["step_000003", "step_000005"]


def test_problems_are_new_in_every_step(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    first = made._problem_seeds()
    made.done = 1
    assert not set(first) & set(made._problem_seeds())
    assert len(first) == 2


class Scorer:
    """A grader whose machinery fails: for every answer, or for one text whenever it comes."""

    def __init__(self, *, always: bool) -> None:
        self.always = always
        self.bad: str | None = None

    def __call__(self, problem: Problem, answer: str) -> Reward:
        self.bad = answer if self.bad is None else self.bad
        if self.always or answer == self.bad:
            raise OSError("sandbox down")
        return Reward(parts={"correct": float(len(answer) % 2), "format": 0.0})


def test_too_many_invalid_rewards_stop_the_run_and_lose_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(tmp_path, "trainer.steps=4", "trainer.eval_problems=0")
    made._step()
    made._save()
    made.rollout.env.env.score = Scorer(always=True)  # type: ignore[attr-defined]
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RunStopped, match=r"100% .* step 2 .*max_invalid_fraction.*sandbox down"),
    ):
        made.run()
    assert "4 rewards are invalid: OSError: sandbox down" in caplog.text
    assert (tmp_path / "checkpoints" / "last").resolve().name == "step_000001"


def test_some_invalid_rewards_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=1", "trainer.eval_problems=0", "agent.group_size=4")
    made.rollout.env.env.score = Scorer(always=False)  # type: ignore[attr-defined]
    made.run()
    (row,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < row["reward/invalid"] <= 0.5
    completions = [json.loads(x) for x in (tmp_path / "completions.jsonl").read_text().splitlines()]
    invalid = [c for c in completions if not c["valid"]]
    assert invalid
    assert all(c["advantage"] == 0 and "sandbox down" in c["error"] for c in invalid)


def test_a_resume_takes_over_step_weights_and_moments(tmp_path: Path) -> None:
    first = trainer(tmp_path, "trainer.steps=2", "agent.lr=1e-3")
    first.run()
    second = trainer(tmp_path, "trainer.steps=4", "agent.lr=1e-3", f"resume={tmp_path}")
    assert second.done == 2
    for name, value in first.agent.policy.model.state_dict().items():
        assert value.equal(second.agent.policy.model.state_dict()[name])
    moments = [t.agent.state_dict()["optimizer"]["state"] for t in (first, second)]
    assert all(moments[0][i]["exp_avg_sq"].equal(moments[1][i]["exp_avg_sq"]) for i in moments[0])
    reference = second.agent.reference.model.state_dict()  # type: ignore[attr-defined]
    started = trainer(tmp_path / "new").agent.policy.model.state_dict()
    assert all(value.equal(started[name]) for name, value in reference.items())


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    """A run killed between two checkpoints repeats the steps after the first, not their rows."""
    made = trainer(tmp_path, "trainer.steps=4", "trainer.save_every=2", "trainer.eval_problems=0")
    for _ in range(3):
        made._step()
        if made.done == 2:
            made._save()
    for logger in made.loggers:
        logger.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward/me')  # cut off in the middle of a row
    again = trainer(tmp_path, "trainer.steps=4", "trainer.eval_problems=0", f"resume={tmp_path}")
    again.run()
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    assert steps(tmp_path / "completions.jsonl") == sorted([1, 2, 3, 4] * 4)


def test_a_checkpoint_that_was_being_written_is_not_taken(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=1", "trainer.eval_problems=0")
    made.run()
    half = tmp_path / "checkpoints" / ".step_000002.tmp"
    half.mkdir()
    (half / "trainer.json").write_text("{")
    step, folder, _ = Checkpoints(tmp_path).load(made.decisive)
    assert (step, folder.name) == (1, "step_000001")


def test_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint in it"):
        Checkpoints(tmp_path).load({})
