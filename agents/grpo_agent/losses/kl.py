"""Estimators of KL(policy || reference) in nats at each token (Schulman 2020).

`gap_BT` is y, `ratio_BT` is rho. All tensors are (B, T).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from grpo_agent.losses.ratios import LOG_LIMIT


def k1(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """Return -y with y = log pi_ref - log pi.

    It is unbiased. Its gradient is 0 in expectation, so it belongs in the reward.
    """
    return -gap_BT


def k2(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """Return y^2 / 2 with y = log pi_ref - log pi.

    It has a small bias. On-policy its gradient is that of the reverse KL.
    """
    return gap_BT.square() / 2


def k3(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """Return expm1(y) - y with y = log pi_ref - log pi (GRPO, arXiv 2402.03300, eq. 4).

    It is unbiased and never negative; its gradient is that of the forward KL.
    """
    return torch.expm1(gap_BT) - gap_BT


def k3_ratio(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """Return rho k3 with rho = pi / pi_old (DeepSeek-V3.2, arXiv 2512.02556).

    Its value and gradient are unbiased for the reverse KL, also off-policy.
    """
    return ratio_BT * k3(gap_BT, ratio_BT)


def reference_gap(logps_BT: Tensor, ref_logps_BT: Tensor) -> Tensor:
    """Return y = log pi_ref - log pi of each token (B, T), clamped to +-20 nats."""
    return (ref_logps_BT - logps_BT).clamp(-LOG_LIMIT, LOG_LIMIT)


KLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_ratio": k3_ratio,
}
