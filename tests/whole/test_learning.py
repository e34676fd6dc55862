"""Does it learn, and only from what it should? The real model, environment and trainer."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.runtime.processes import RolloutFn
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import rng_for
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.source import InStep
from grpo_envs.training.trainer import Trainer
from grpo_envs.types import Group


def trainer(out: Path, *overrides: str) -> Trainer:
    cfg = compose_run(["env=math", "model=qwen", "model.size=tiny", "logger=files", *overrides])
    return build(cfg, out, make_envs(cfg))


def column(path: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_reward_rises_within_twelve_steps(tmp_path: Path) -> None:
    """A short form of the quick start, its learning rate raised to fit."""
    short = ["trainer.steps=12", "trainer.prompts_per_step=6", "trainer.eval_problems=0"]
    trainer(tmp_path, *short, "agent.lr=6e-4").run()
    rewards = column(tmp_path / "metrics.jsonl", "reward/mean")
    assert fmean(rewards[-4:]) > fmean(rewards[:4]) + 0.15
    lengths = column(tmp_path / "metrics.jsonl", "completion/length")
    assert fmean(lengths[-4:]) > fmean(lengths[:4])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_quick_start_learns(seed: int, tmp_path: Path) -> None:
    """The README's first command as it stands: 0.2 to 0.6 before, 0.85 or more after."""
    command = [sys.executable, "-m", "grpo_envs.run", "env=math", "model=qwen", f"seed={seed}"]
    subprocess.run([*command, "hydra.run.dir=out"], cwd=tmp_path, check=True, timeout=600)
    before, after = column(tmp_path / "out" / "eval.jsonl", "eval/accuracy")
    assert 0.2 <= before <= 0.6
    assert after >= 0.85


class Shuffled:
    """Gives the rewards of a group to its members in another order."""

    def __init__(self, rollout: RolloutFn) -> None:
        self.rollout = rollout

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        groups = self.rollout(seeds, timer)
        shuffled = []
        for group in groups:
            rewards = list(group.rewards)
            rng_for("shuffle", group.key).shuffle(rewards)
            shuffled.append(replace(group, rewards=tuple(rewards)))
        return shuffled


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_rewards_teach_nothing(seed: int, tmp_path: Path) -> None:
    """The control: the same rewards, given to the wrong answers. Nothing else can have taught."""
    control = trainer(tmp_path, f"seed={seed}")
    assert isinstance(control.source, InStep)
    control.source.rollout = Shuffled(control.source.rollout)
    control.run()
    before, after = column(tmp_path / "eval.jsonl", "eval/accuracy")
    assert after <= before + 0.1
