"""Two thousand steps: memory and file descriptors stay where they were."""

import gc
import os
from pathlib import Path

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.trainer import Trainer

SMALL = [
    *("model.size=tiny", "logger=files", "trainer.prompts_per_step=2", "trainer.eval_problems=2"),
    *("trainer.save_every=500", "trainer.keep_checkpoints=1", "trainer.eval_every=200"),
    *("agent.group_size=2", "sampler.max_new_tokens=8"),
]


def resident() -> int:
    """Memory of this process [bytes]."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  no paths are wanted


@pytest.mark.slow
@pytest.mark.parametrize("env", ["math", "code"])
def test_two_thousand_steps_leave_nothing_behind(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = compose_run([*SMALL, f"env={env}", "trainer.steps=2000"])
    trainer = build(cfg, tmp_path, make_envs(cfg))
    step = Trainer._step
    seen: dict[int, tuple[int, int]] = {}

    def watched(self: Trainer) -> None:
        step(self)
        if self.done in (500, 2000):
            seen[self.done] = resident(), descriptors()

    monkeypatch.setattr(Trainer, "_step", watched)
    trainer.run()
    assert seen[2000][1] <= seen[500][1]
    grown = seen[2000][0] - seen[500][0]
    assert grown < 20 * 2**20, f"{grown / 2**20:.1f} MiB in 1,500 steps"
