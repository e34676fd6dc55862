"""A program for `accelerate launch`: one update of each preset, gradients written to a file.

Every process takes its share of the same groups; see test_processes.py.
"""

import sys
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, SamplerConfig
from grpo_envs.composition import compose_run
from tests.conftest import make_random_policy
from tests.test_agent import PRESETS, groups

SCORES = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5], [0.5, 0.5, 0.5, 0.5]]


def config_of(preset: str) -> GrpoConfig:
    """The preset with one update a step: its gradient is what is compared."""
    agent: GrpoConfig = compose_run([f"agent={preset}"]).agent
    return replace(agent, lr=1e-3, minibatches=1, max_grad_norm=1e9, micro_batch_tokens=130)


def gradients(accelerator: Accelerator, preset: str) -> dict[str, Tensor]:
    """Make an update from this process's groups; return the gradient it was made with."""
    policy = make_random_policy()
    given = groups(policy, SCORES)
    share = len(given) // accelerator.num_processes
    start = accelerator.process_index * share
    agent = GrpoAgent(policy, config_of(preset), accelerator, SamplerConfig(max_new_tokens=15))
    with torch.no_grad():  # away from the reference, or the KL would be 0
        for parameter in policy.model.parameters():
            parameter.mul_(1.05)
    caught: dict[str, Tensor] = {}

    def catch(*_: object) -> None:
        for name, parameter in policy.model.named_parameters():
            assert parameter.grad is not None
            caught[name] = parameter.grad.clone()

    agent.optimizer.register_step_pre_hook(catch)
    metrics, _ = agent.update(given[start : start + share])
    shared = ("loss/total", "policy/entropy", "loss/kl", "optim/grad_norm")
    return caught | {name: torch.tensor(metrics[name]) for name in shared if name in metrics}


def main(out: str) -> None:
    """Write the gradients of every preset; all processes must have the same."""
    accelerator = Accelerator(cpu=True)
    torch.set_num_threads(1)
    found = {preset: gradients(accelerator, preset) for preset in PRESETS}
    print(f"process {accelerator.process_index} of {accelerator.num_processes}", flush=True)
    torch.save(found, f"{out}/{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
