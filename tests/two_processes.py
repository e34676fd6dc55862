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
from grpo_agent.policy import Policy
from grpo_agent.sampler import Decoding, sample
from grpo_envs.config import compose_run
from grpo_envs.types import Group, Reward
from tests.conftest import make_random_policy

PRESETS = ("grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo", "reinforce_pp", "sapo")
SCORES = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5], [0.5, 0.5, 0.5, 0.5]]


def make_groups(policy: Policy) -> list[Group]:
    """Four groups of four, the later the longer: the processes have very different shares."""
    groups = []
    for p, row in enumerate(SCORES):
        prompt = policy.render("What is 1+2?" + "+3" * p)
        seeds = [100 * p + i for i in range(len(row))]
        completions = tuple(sample(policy, [prompt], seeds, Decoding(max_new_tokens=3 + 4 * p)))
        rewards = tuple(Reward(parts={"correct": score}) for score in row)
        groups.append(
            Group(key=p, prompt="", prompt_ids=prompt, completions=completions, rewards=rewards)
        )
    return groups


def config_of(preset: str) -> GrpoConfig:
    """The preset with one update a step: its gradient is what is compared."""
    agent: GrpoConfig = compose_run([f"agent={preset}"]).agent
    return replace(agent, lr=1e-3, minibatches=1, max_grad_norm=1e9, micro_batch_tokens=130)


def gradients(accelerator: Accelerator, preset: str) -> dict[str, Tensor]:
    """Make an update from this process's groups; return the gradient it was made with."""
    policy = make_random_policy()
    groups = make_groups(policy)
    share = len(groups) // accelerator.num_processes
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
    metrics, _ = agent.update(groups[start : start + share])
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
