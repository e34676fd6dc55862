"""Penalties for length and KL, subtracted from a reward before the advantage is computed.

Shapes: B completions of at most K turns, T tokens; K is 1 where a whole episode has one advantage.
"""

import torch
from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.losses.kl import KLS, reference_gap
from grpo_agent.reward_config import OverlongConfig


def overlong_penalty(
    lengths_BK: Tensor, truncated_BK: Tensor, max_tokens: int, cfg: OverlongConfig
) -> Tensor:
    """Return the length penalty of each turn (B, K), 0 or more.

    With a buffer this is DAPO's soft punishment (arXiv 2503.14476, eq. 13): 0 up to
    L_max - L_buffer tokens, then linear, `penalty` at L_max.

    Args:
        lengths_BK: Tokens of each turn's answer; of a completion's longest answer where K is 1.
        truncated_BK: True on a turn that reached the token limit.
        max_tokens: L_max.
        cfg: The kind of penalty and its size.
    """
    if cfg.truncated == "penalise":
        return truncated_BK * cfg.penalty
    buffer = cfg.buffer * max_tokens
    if buffer == 0:
        return torch.zeros_like(truncated_BK, dtype=torch.float32)
    over_BK = (lengths_BK - (max_tokens - buffer)) / buffer
    return over_BK.clamp(0, 1) * cfg.penalty


def kl_penalty(logps_BT: Tensor, ref_logps_BT: Tensor, mask_BT: Tensor, cfg: LossConfig) -> Tensor:
    """Return the sum of `token_kl` over each completion (B), for `kl_in=reward` (RLOO)."""
    return token_kl(logps_BT, ref_logps_BT, mask_BT, cfg).sum(dim=1)


def token_kl(logps_BT: Tensor, ref_logps_BT: Tensor, mask_BT: Tensor, cfg: LossConfig) -> Tensor:
    """Return beta * KL at each token (B, T), 0 outside the mask.

    Args:
        logps_BT: Log-probabilities under the policy that sampled.
        ref_logps_BT: Log-probabilities under the reference.
        mask_BT: True on the tokens that are summed.
        cfg: The estimator and its weight.
    """
    gap_BT = reference_gap(logps_BT, ref_logps_BT)
    kl_BT = KLS[cfg.kl](gap_BT, torch.ones_like(gap_BT)) * mask_BT
    return kl_BT * float(cfg.beta)
