"""A program for `torchrun`: weights in shards, compared with one process by test_full_shards.py."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig
from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import SamplerConfig
from grpo_envs.runtime import launch
from grpo_envs.runtime.processes import ALONE, Processes, connect
from grpo_envs.training.build import build, make_accelerator
from grpo_envs.training.environments import make_envs
from grpo_policy.models import TINY, load_policy
from grpo_policy.parts import whole_weights
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, SamplerParts
from grpo_policy.samplers.torch import TorchSampler
from tests.agents.test_agent import groups
from tests.conftest import make_random_policy
from tests.support.two_processes import SMALL

CASES: dict[str, dict[str, Any]] = {
    "a reference, old log-probabilities": {
        "epochs": 2,
        "sync_reference_every": 2,
        "weight_decay": 0.1,
    },
    "fewer rows than processes": {},
}
FULL = ["trainer.shard=full", 'sampler.name="apart"']
IN_BF16 = ["trainer.precision=bf16", "trainer.eval_problems=0", "agent.sync_reference_every=2"]
_SCORES = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5]]


def updated(accelerator: Accelerator, case: str) -> dict[str, Tensor]:
    """Make three steps in float64; return weights, metrics, moments and the parts' size."""
    policy = make_random_policy()
    policy.checkpoint_layers()
    given = groups(policy, _SCORES)
    if case == "fewer rows than processes":
        given = [
            replace(g, completions=g.completions[:1], rewards=g.rewards[:1]) for g in given[:1]
        ]
    agent_cfg: GrpoConfig = compose_run(["agent=grpo"]).agent
    loss = replace(agent_cfg.loss, beta=0.1, entropy=0.01)
    cfg = replace(
        agent_cfg, loss=loss, lr=1e-3, warmup_steps=0, micro_batch_tokens=60, **CASES[case]
    )
    agent = GrpoAgent(policy, cfg, accelerator, Decoding(max_new_tokens=15))
    found: dict[str, Tensor] = {}
    for step in range(3):
        metrics, _ = agent.update(given)
        found |= {
            f"{name} {step}": torch.tensor(value, dtype=torch.double)
            for name, value in metrics.items()
        }
        found[f"in sync {step}"] = torch.tensor(float(_in_sync(agent)))
    held = sum(_local(p).numel() for p in agent.learner.policy.model.parameters())
    found |= {name: value.clone() for name, value in whole_weights(policy.model)}
    state = agent.state_dict()
    if accelerator.is_main_process:
        for i, moments in state["optimizer"]["state"].items():
            found |= {f"{name} of {i}": value for name, value in moments.items()}
        if state["reference"] is not None:
            found |= {f"reference {name}": value for name, value in state["reference"].items()}
    return found | {"held": torch.tensor(held)}


def _in_sync(agent: GrpoAgent) -> bool:
    """Return whether this process's parts of policy and reference are equal."""
    assert agent.learner.reference is not None
    both = zip(agent.learner.policy.parameters(), agent.learner.reference.parameters(), strict=True)
    return all(_local(own).equal(_local(other)) for own, other in both)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


class ApartSampler(TorchSampler):
    """Samples with weights of its own, as an engine: they come in a file of the first process."""

    def sync(self, policy: Policy) -> None:
        """Write the file in the first process; read it in all."""
        own = self.policy
        if policy is not own:
            file = Path(os.environ["APART"]) / f"{policy.version}.pt"
            if launch.index() == 0:
                torch.save(policy.trained_weights(), file.with_suffix(".tmp"))
                file.with_suffix(".tmp").rename(file)
            while not file.is_file():
                time.sleep(0.01)
            with own.masters.in_place():
                own.model.load_state_dict(torch.load(file, weights_only=True), strict=False)
            own.masters.publish()
            own.version = policy.version
        TorchSampler.sync(self, own)


class Apart:
    """The entry point `apart`."""

    Config: ClassVar[type[SamplerConfig]] = SamplerConfig
    samples_with_policy: ClassVar[bool] = False

    @classmethod
    def make(cls, cfg: SamplerConfig, parts: SamplerParts) -> ApartSampler:
        own = load_policy(str(TINY))
        own.compute_in(parts.policy.dtype)
        return ApartSampler(own)


def write_site(folder: Path) -> Path:
    """Write what makes `apart` an installed sampler, for a folder on the path; return it."""
    info = folder / "apart-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apart\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[grpo_envs.samplers]\napart = tests.support.full_shards:Apart\n"
    )
    return folder


def train(out: Path, processes: Processes = ALONE, *more: str) -> None:
    """Make a run, or go on with it."""
    cfg = compose_run([*SMALL, 'sampler.name="apart"', *more])
    folder = out.with_name(f"{out.name} of {cfg.trainer.steps} weights")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["APART"] = str(folder)
    build(cfg, out, make_envs(cfg, processes), processes).run()


def go_on(out: Path, processes: Processes = ALONE, *more: str) -> None:
    """Go on with a run for two steps."""
    train(out, processes, "trainer.steps=5", f"resume={out}", *more)


def main(out: Path) -> None:
    """Make updates, and runs: some from their beginning, some that others began."""
    torch.set_num_threads(1)
    processes = connect("cpu")
    sys.path.insert(0, str(write_site(out / f"site {processes.index}")))
    trainer = compose_run([*SMALL, *FULL]).trainer
    for case in CASES:
        found = updated(make_accelerator(trainer), case)
        torch.save(found, out / f"{processes.index} {case}.pt")
    go_on(out / "begun", processes, FULL[0])
    if processes.count == 2:
        train(out / "full", processes, FULL[0])
        for kind in ("full", "optimizer"):
            train(out / f"bf16 {kind}", processes, *IN_BF16, f"trainer.shard={kind}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
