"""Objectives with the ratio to the policy that sampled: pi / mu, with mu = x.sampled_logps_BT.

This ratio is the product of the ratio to the policy before the step and the correction for the
sampler, so these objectives use neither: `agent.loss.ratio` stays `token` and
`agent.loss.correction` stays `auto` or `none`.
"""

import torch
from torch import Tensor

from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.ratios import clamped_exp


def dppo_tv(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """-rho A, and 0 where a token has left the trust region (DPPO, arXiv 2602.04879).

    The divergence is the total variation over two outcomes, the token and all others: |pi - mu|.
    Its bound is `clip_high` where the advantage is positive and `clip_low` where it is negative.
    """
    divergence_BT = x.logps_BT.detach().exp() - _sampled(x).exp()
    return _masked(divergence_BT.abs(), x, clip_low=clip_low, clip_high=clip_high)


def dppo_kl(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """As `dppo_tv` with the divergence KL(mu || pi) over two outcomes, the token and all others.

    mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi)).
    """
    logps_BT, sampled_BT = x.logps_BT.detach(), _sampled(x)
    mu_BT, least = sampled_BT.exp(), torch.finfo(logps_BT.dtype).tiny
    others_BT = _log_others(sampled_BT, least) - _log_others(logps_BT, least)
    divergence_BT = mu_BT * (sampled_BT - logps_BT) + (1 - mu_BT) * others_BT
    return _masked(divergence_BT, x, clip_low=clip_low, clip_high=clip_high)


def vespo(
    ratio_BT: Tensor,
    x: LossInputs,
    *,
    k_positive: float,
    lambda_positive: float,
    k_negative: float,
    lambda_negative: float,
) -> tuple[Tensor, Tensor]:
    """-sg[phi(W)] A lp with phi(W) = W^k exp(lambda (1 - W)) (VESPO, arXiv 2602.10693).

    W is the product of a completion's ratios; k and lambda depend on the sign of the advantage. phi
    is 1 on-policy and falls to 0 for small and for large W, so no clip is needed.
    """
    gaps_BT = (x.logps_BT.detach() - _sampled(x)).masked_fill(~x.mask_BT, 0.0)
    weight_B1 = clamped_exp(gaps_BT.sum(dim=1, keepdim=True))
    negative_BT = x.advantages_BT < 0
    k_BT = torch.where(negative_BT, k_negative, k_positive).to(weight_B1)
    lambda_BT = torch.where(negative_BT, lambda_negative, lambda_positive).to(weight_B1)
    phi_BT = (k_BT * weight_B1.log() + lambda_BT * (1 - weight_B1)).exp()
    loss_BT = -phi_BT * x.advantages_BT * x.logps_BT
    return loss_BT, torch.zeros_like(ratio_BT, dtype=torch.bool)


def _sampled(x: LossInputs) -> Tensor:
    """Return log mu inside the mask and log pi outside it."""
    return torch.where(x.mask_BT, x.sampled_logps_BT.to(x.logps_BT), x.logps_BT.detach())


def _masked(
    divergence_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return the loss, -rho A and 0 outside the trust region, and which tokens are outside."""
    a_BT, sampled_BT = x.advantages_BT, _sampled(x)
    up_BT = x.logps_BT.detach() > sampled_BT
    outside_BT = ((a_BT > 0) & up_BT & (divergence_BT > clip_high)) | (
        (a_BT < 0) & ~up_BT & (divergence_BT > clip_low)
    )
    loss_BT = -clamped_exp(x.logps_BT - sampled_BT) * a_BT
    return loss_BT.masked_fill(outside_BT, 0.0), outside_BT


def _log_others(logps_BT: Tensor, least: float) -> Tensor:
    """Return log(1 - p), the log-probability of all other tokens, bounded where p is 1."""
    return (-torch.expm1(logps_BT)).clamp(min=least).log()
