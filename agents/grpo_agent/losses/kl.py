"""KL(policy || reference) at each token, from y = log pi_ref - log pi (Schulman 2020)."""

from collections.abc import Callable

import torch
from torch import Tensor

from grpo_agent.losses.ratios import LOG_LIMIT


def k1(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """-y: unbiased; its gradient is 0 in expectation, so it belongs in the reward."""
    return -gap_BT


def k2(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """y^2 / 2: a little biased; on-policy its gradient is the reverse KL's."""
    return gap_BT.square() / 2


def k3(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """expm1(y) - y: unbiased and never negative (GRPO); its gradient is the forward KL's."""
    return torch.expm1(gap_BT) - gap_BT


def k3_ratio(gap_BT: Tensor, ratio_BT: Tensor) -> Tensor:
    """rho k3: value and gradient of the reverse KL, also off-policy (DeepSeek-V3.2, 2512.02556)."""
    return ratio_BT * k3(gap_BT, ratio_BT)


def reference_gap(logps_BT: Tensor, ref_logps_BT: Tensor) -> Tensor:
    """Return y = log pi_ref - log pi, clamped to +-20."""
    return (ref_logps_BT - logps_BT).clamp(-LOG_LIMIT, LOG_LIMIT)


KLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_ratio": k3_ratio,
}
