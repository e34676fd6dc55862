"""On-policy distillation: a teacher scores each token of the policy's own completions.

The advantage of a token gets an additional term, teacher_weight * log(teacher / policy). The mean
of log(teacher / policy) over the policy's samples is minus the reverse KL(policy || teacher) at the
token. A token has no share in the terms of later tokens (Lu et al., Thinking Machines 2025,
"On-Policy Distillation"). Shapes: P groups of G members are B completions of T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from grpo_agent.losses.kl import reference_gap
from grpo_policy.batch import Batch

if TYPE_CHECKING:
    from grpo_agent.config import GrpoConfig


def teacher_gap(batch: Batch, teacher_logps_BT: Tensor) -> Tensor:
    """Return log(teacher / policy) of each token in nats (B, T), clamped to +-20.

    Args:
        batch: The completions, with log-probabilities under the policy that sampled.
        teacher_logps_BT: The teacher's log-probabilities of the same tokens, at the same
            temperature.
    """
    return reference_gap(batch.sampled_logps_BT, teacher_logps_BT)


def taught(value: Tensor, gap_BT: Tensor, mask_PGT: Tensor, cfg: GrpoConfig) -> Tensor:
    """Return reward_weight A + teacher_weight log(teacher / policy) of each token (P, G, T).

    Args:
        value: A, the advantages from rewards: (P, G) or (P, G, T).
        gap_BT: The result of `teacher_gap`, with 0 where a token does not count in the loss.
        mask_PGT: True on the tokens that count in the loss.
        cfg: `reward_weight` and `teacher_weight`.
    """
    if value.ndim < mask_PGT.ndim:
        value = value[..., None] * mask_PGT
    return cfg.reward_weight * value + cfg.teacher_weight * gap_BT.view(mask_PGT.shape).to(value)
