"""REINFORCE (Williams 1992) with a moving average of the rewards as its baseline."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from grpo_envs.training.agent import Parts, Update
from grpo_envs.types import Group
from grpo_policy.batch import collate
from grpo_policy.learner import Learner, LearnerSettings, Scored
from lab_agents import ReinforceConfig


class ReinforceAgent:
    """Makes each completion likelier by how much its reward exceeds the baseline."""

    Config = ReinforceConfig

    def __init__(self, cfg: ReinforceConfig, parts: Parts) -> None:
        """Take charge of the policy."""
        self.cfg = cfg
        self.baseline = 0.0
        settings = LearnerSettings(
            lr=cfg.lr, max_grad_norm=cfg.clipping.norm, temperature=parts.decoding.temperature
        )
        self.learner = Learner(parts.policy, settings, parts.accelerator)

    @classmethod
    def make(cls, cfg: ReinforceConfig, parts: Parts) -> "ReinforceAgent":
        """Return the agent."""
        return cls(cfg, parts)

    def describe(self) -> str:
        """Return the learning rate and the baseline's decay."""
        return f"REINFORCE, lr {self.cfg.lr:g}, decay {self.cfg.decay:g}"

    def update(self, groups: Sequence[Group]) -> Update:
        """Make one update, then move the baseline."""
        policy = self.learner.policy
        batch = collate(groups, policy.pad_id, policy.device)
        rewards = [[reward.total for reward in group.rewards] for group in groups]
        advantages = [[reward - self.baseline for reward in row] for row in rewards]
        flat = [advantage for row in advantages for advantage in row]
        advantages_B = torch.tensor(flat, device=policy.device)
        tokens = int(batch.mask_BT.sum())

        def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
            loss_BT = -advantages_B[scored.rows_B][:, None] * scored.logps_BT
            total = (loss_BT * scored.batch.mask_BT).sum() / tokens
            return total, {"policy/entropy": scored.entropy_BT.detach()}

        metrics = self.learner.learn([(batch, loss)])
        mean = fmean(reward for row in rewards for reward in row)
        self.baseline = self.cfg.decay * self.baseline + (1 - self.cfg.decay) * mean
        return Update({**metrics, "lab/baseline": self.baseline}, advantages)

    def state_dict(self) -> dict[str, Any]:
        """Return the learner's state and the baseline."""
        return {"learner": self.learner.state_dict(), "baseline": self.baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""
        self.learner.load_state_dict(state["learner"])
        self.baseline = state["baseline"]
