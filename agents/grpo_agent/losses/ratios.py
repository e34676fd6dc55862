"""Ratios: the probability under the policy, divided by that under the policy before the step.

Each function returns the ratio rho at each token, (B, T).
"""

from collections.abc import Callable

from torch import Tensor

from grpo_agent.losses.inputs import LossInputs

LOG_LIMIT = 20.0
"""Log ratios are clamped to +-20 before exp, so that one token cannot make the loss infinite."""


def token_ratio(x: LossInputs) -> Tensor:
    """Return pi / pi_old of each token (GRPO)."""
    return clamped_exp(x.logps_BT - x.old_logps_BT)


def sequence_ratio(x: LossInputs) -> Tensor:
    """Return the geometric mean of a completion's token ratios, at each of its tokens.

    (GSPO, arXiv 2507.18071, eq. 7.)
    """
    lengths_B1 = x.mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return clamped_exp(_log_ratio_sum(x) / lengths_B1).expand_as(x.logps_BT)


def sequence_product_ratio(x: LossInputs) -> Tensor:
    """Return pi / pi_old of the whole completion at each token (RLOO, arXiv 2402.14740)."""
    return clamped_exp(_log_ratio_sum(x)).expand_as(x.logps_BT)


def _log_ratio_sum(x: LossInputs) -> Tensor:
    return ((x.logps_BT - x.old_logps_BT) * x.mask_BT).sum(dim=1, keepdim=True)


def clamped_exp(log_ratio: Tensor) -> Tensor:
    """Return exp of log ratios, clamped to +-20 before."""
    return log_ratio.clamp(-LOG_LIMIT, LOG_LIMIT).exp()


RATIOS: dict[str, Callable[[LossInputs], Tensor]] = {
    "token": token_ratio,
    "sequence": sequence_ratio,
    "sequence_product": sequence_product_ratio,
}
