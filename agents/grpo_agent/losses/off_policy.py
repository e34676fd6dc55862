"""Objectives with the ratio rho = pi / mu; mu is the policy that sampled (`sampled_logps_BT`).

This ratio is the product of the ratio to the policy before the step and the correction for the
sampler. Therefore these objectives ignore `ratio_BT`, allow only `agent.loss.ratio=token`, and
allow only `auto` and `none` for `agent.loss.correction`.
"""

import torch
from torch import Tensor

from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.ratios import clamped_exp


def dppo_tv(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return -rho A, and 0 where the token is outside the trust region (DPPO, arXiv 2602.04879).

    The divergence is the total variation of two outcomes, the token and any other: |pi - mu|. A
    token is outside if its divergence is above `clip_high` and the update would raise it further
    (positive advantage, pi > mu), or above `clip_low` in the other direction.
    """
    divergence_BT = x.logps_BT.detach().exp() - _sampled(x).exp()
    return _masked(divergence_BT.abs(), x, clip_low=clip_low, clip_high=clip_high)


def dppo_kl(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return the loss of `dppo_tv` with another divergence, KL(mu || pi) of the two outcomes.

    It is mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi)), in nats.
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
    """Return -sg[phi(W)] A lp with phi(W) = W^k exp(lambda (1 - W)) (VESPO, arXiv 2602.10693).

    W is the product of a completion's ratios rho; k and lambda depend on the sign of the advantage.
    phi is 1 on-policy and tends to 0 for small and for large W, so the loss needs no clip.
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
    """Return the loss, which is 0 outside the trust region and else -rho A, and what is outside."""
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
