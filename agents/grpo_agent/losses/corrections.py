"""Corrections for the sampler: the weights (B, T) that multiply the objective of each token.

They are functions of rho = pi_old / pi_sampler: the trainer's probability of a token, divided by
the sampler's. It differs from 1 if trainer and sampler have another precision or engine, or if the
policy was updated since sampling. The KL penalty has no such weight.
"""

from collections.abc import Callable

from torch import Tensor

from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.ratios import clamped_exp


def truncate(x: LossInputs, cap: float) -> Tensor:
    """Return min(rho, cap) of each token, with rho = pi_old / pi_sampler.

    (Truncated importance sampling, Yao et al. 2025.)
    """
    return sampler_ratio(x).clamp(max=cap)


def mask(x: LossInputs, cap: float) -> Tensor:
    """Return rho = pi_old / pi_sampler of each token, and 0 outside [1 / cap, cap].

    (IcePop, arXiv 2510.18855.)
    """
    return _within(sampler_ratio(x), cap)


def sequence_mask(x: LossInputs, cap: float) -> Tensor:
    """Return a completion's product of pi_old / pi_sampler, and 0 outside [1 / cap, cap].

    (MIS, Liu 2025.) Each token of the completion gets this value.
    """
    gaps_BT = _sampler_gaps(x)
    product_B1 = clamped_exp(gaps_BT.sum(dim=1, keepdim=True))
    return _within(product_B1, cap).expand_as(gaps_BT)


def sampler_ratio(x: LossInputs) -> Tensor:
    """Return rho of each token (B, T), with 1 outside the mask."""
    return clamped_exp(_sampler_gaps(x))


def _sampler_gaps(x: LossInputs) -> Tensor:
    """Return log rho of each token (B, T), with 0 outside the mask."""
    return (x.old_logps_BT - x.sampled_logps_BT).masked_fill(~x.mask_BT, 0.0)


def _within(ratio: Tensor, cap: float) -> Tensor:
    return ratio.masked_fill((ratio > cap) | (ratio < 1 / cap), 0.0)


CORRECTIONS: dict[str, Callable[[LossInputs, float], Tensor]] = {
    "truncate": truncate,
    "mask": mask,
    "sequence_mask": sequence_mask,
}
