"""The selection of tokens by objectives: by high entropy, or by high covariance.

Tokens are selected among all tokens of an update at once, from values of the policy before the
step. The selection does not depend on micro-batches, on the number of processes or on the order of
rows.
Shapes: B completions of an update, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.loss_options import options_of
from grpo_agent.step import Step
from grpo_envs.seeding import seed_for
from grpo_policy.batch import Batch


def singled_out(step: Step, cfg: LossConfig, number: int) -> Tensor | None:
    """Return the tokens that `clip_cov` or `kl_cov` selects (B, T); None for other objectives.

    Args:
        step: The rows of an update.
        cfg: The objective with its options: the share of tokens, and the bounds of `clip_cov`.
        number: The number of the training step; each step draws other tokens.
    """
    if cfg.objective not in ("clip_cov", "kl_cov"):
        return None
    options = options_of(cfg)
    logps_BT = step.batch.sampled_logps_BT.to(step.advantages_BT)
    covariance_BT = covariance(logps_BT, step.advantages_BT, step.counted_BT)
    if cfg.objective == "kl_cov":
        return highest(covariance_BT, step.counted_BT, options["share"])
    low, high = options["low"], options["high"]
    within_BT = step.counted_BT & (covariance_BT > low) & (covariance_BT < high)
    tokens = int(options["share"] * step.counted_BT.sum().item())
    drawn_BT = noise(step.batch, number).to(covariance_BT)
    share = max(1, tokens) / max(1, within_BT.sum().item())
    return highest(drawn_BT, within_BT, min(1.0, share))


def forks(step: Step, cfg: LossConfig) -> Tensor | None:
    """Return a mask (B, T) of the tokens with the highest entropy; None if all tokens count.

    (Beyond the 80/20 rule, arXiv 2506.01939, section 5.) The policy before the step has this
    entropy. The share of selected tokens is `cfg.top_entropy`.
    """
    if step.entropy_BT is None:
        return None
    return highest(step.entropy_BT, step.counted_BT, cfg.top_entropy)


def covariance(logps_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return (log pi - mean) (A - mean) of each token (B, T), with the means over the mask.

    The mean of this over the tokens is the covariance by which an update lowers the entropy
    (arXiv 2505.22617, eq. 10).
    """
    count = mask_BT.sum().clamp(min=1)
    logp_mean, a_mean = ((value * mask_BT).sum() / count for value in (logps_BT, advantages_BT))
    return (logps_BT - logp_mean) * (advantages_BT - a_mean)


def highest(values_BT: Tensor, mask_BT: Tensor, share: float) -> Tensor:
    """Return a mask (B, T) of the largest values: a share of the mask's tokens, at least one.

    Tokens whose value equals the smallest selected one are all selected.
    """
    values_N = values_BT[mask_BT]
    if not len(values_N):
        return torch.zeros_like(mask_BT)
    count = max(1, int(share * len(values_N) + 1e-9))
    return mask_BT & (values_BT >= values_N.topk(count).values[-1])


def noise(batch: Batch, number: int) -> Tensor:
    """Return a random number in [0, 1) for each token (B, T), seeded by the completion's tokens."""
    noise_BT = torch.zeros(batch.mask_BT.shape, dtype=torch.float64)
    rows = zip(batch.token_ids_BT.tolist(), batch.lengths_B.tolist(), strict=True)
    for place, (ids, length) in enumerate(rows):
        seed = seed_for("clip_cov", number, *ids[:length])
        drawn = torch.rand(
            length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        noise_BT[place, :length] = drawn
    return noise_BT.to(batch.mask_BT.device)
