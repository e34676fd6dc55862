"""SftAgent: supervised training on demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from grpo_envs.training.agent import Parts, Update
from grpo_envs.types import Group
from grpo_policy.batch import collate
from grpo_policy.learner import Learner, LearnerSettings, Scored
from grpo_policy.models import hints
from grpo_sft.config import SftConfig

_FASTER = 10.0
"""The ratio of the default learning rate to the model's default for GRPO."""


class SftAgent:
    """Supervised fine-tuning (the first step of arXiv 2203.02155).

        L = -1/N sum_n log pi(o_n | q, o_<n)

    over the N tokens of a step's answers, without prompts and the environment's replies.
    """

    def __init__(self, cfg: SftConfig, parts: Parts) -> None:
        """Prepare the policy for training.

        Args:
            cfg: The agent's keys.
            parts: Has the policy; demonstrations are scored at temperature 1.
        """
        lr = _FASTER * hints(parts.policy).lr if cfg.lr is None else cfg.lr
        settings = LearnerSettings.of(cfg, lr=lr, steps=parts.plan.steps)
        self.learner = Learner(parts.policy, settings, parts.accelerator)

    @classmethod
    def make(cls, cfg: SftConfig, parts: Parts) -> Self:
        """Return the agent, see `grpo_envs.training.agent.Agent`."""
        return cls(cfg, parts)

    def describe(self) -> str:
        """Return the agent's most important numbers for the first line of the log."""
        return f"supervised, lr {self.learner.settings.lr:g}"

    def update(self, groups: Sequence[Group]) -> Update:
        """Make one update on the demonstrations; their advantages are logged as 0."""
        policy = self.learner.policy
        batch = collate(groups, policy.pad_id, policy.device)
        tokens = max(int(batch.mask_BT.sum()), 1)

        def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
            nats_BT = -scored.logps_BT * scored.batch.mask_BT
            entropy_BT = scored.entropy_BT.detach()
            values = {"loss/imitation": nats_BT.detach(), "policy/entropy": entropy_BT}
            return nats_BT.sum() / tokens, values

        metrics = self.learner.learn([(batch, loss)])
        return Update(metrics, [[0.0] * len(group.completions) for group in groups])

    def state_dict(self) -> dict[str, Any]:
        """Return the training state without the model's weights, for `load_state_dict`."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the optimiser's moments and the position in the schedule."""
        self.learner.load_state_dict(state)
