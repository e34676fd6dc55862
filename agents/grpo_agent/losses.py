"""The GRPO loss, built from four independent choices: ratio, clipped objective, KL, aggregation.

    J = E[ 1/G sum_i 1/L_i sum_t ( min(rho A_i, clip(rho, 1-eps, 1+eps) A_i) - beta k3 ) ]

(DeepSeekMath, arXiv 2402.03300, eq. 3.) The loss is -J. A paper is a preset in conf/agent/ that
picks one value of each; a new mechanism is a function here.
Shapes: B completions, T completion tokens. Every tensor is (B, T) unless its name says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_agent.config import LossConfig

_LOG_LIMIT = 20.0
"""Log ratios are clamped to +-20 before exp: one wild token must not make an infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Everything a loss may look at."""

    logps_BT: Tensor
    """Log-probabilities under the policy being trained; the only one that carries gradient."""
    old_logps_BT: Tensor
    """Under the policy that sampled the completions."""
    ref_logps_BT: Tensor | None
    """Under the reference policy; None when beta is 0."""
    advantages_B: Tensor
    mask_BT: Tensor
    """True where the policy chose the token, end-of-turn token included."""
    weights_BT: Tensor
    """What each token counts in the step's loss, from `token_weights`; 0 outside the mask."""


def token_ratio(x: LossInputs) -> Tensor:
    """The importance ratio pi / pi_old of each token."""
    return (x.logps_BT - x.old_logps_BT).clamp(-_LOG_LIMIT, _LOG_LIMIT).exp()


def clipped_objective(ratio_BT: Tensor, advantages_B1: Tensor, cfg: LossConfig) -> Tensor:
    """-min(rho A, clip(rho) A): PPO's pessimistic bound, to be minimised."""
    clipped_BT = ratio_BT.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    return -torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)


def k3(logps_BT: Tensor, ref_logps_BT: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference): expm1(x) - x with x = ref - lp."""
    x_BT = (ref_logps_BT - logps_BT).clamp(-_LOG_LIMIT, _LOG_LIMIT)
    return torch.expm1(x_BT) - x_BT


def sequence_mean(mask_BT: Tensor) -> Tensor:
    """1/(B L_i): mean over a completion's tokens, then over completions (GRPO)."""
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return mask_BT / (lengths_B1 * mask_BT.shape[0])


RATIOS: dict[str, Callable[[LossInputs], Tensor]] = {"token": token_ratio}
AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {"sequence_mean": sequence_mean}


def token_weights(mask_BT: Tensor, cfg: LossConfig) -> Tensor:
    """Return the weight of each token in the loss of one optimiser step.

    Made once from the mask of the whole step: a micro-batch takes its rows of it and sums, so the
    result does not depend on how the step is cut.
    """
    return AGGREGATES[cfg.aggregate](mask_BT)


def policy_loss(x: LossInputs, cfg: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of these rows (a sum of weighted tokens) and detached metrics.

    The metrics are sums over the rows' weighted tokens too: added up over the micro-batches of a
    step they are the step's means.
    """
    advantages_B1 = x.advantages_B[:, None]
    ratio_BT = RATIOS[cfg.ratio](x)
    objective_BT = clipped_objective(ratio_BT, advantages_B1, cfg)
    loss = (objective_BT * x.weights_BT).sum()
    unclipped_BT = -ratio_BT * advantages_B1
    metrics = {
        "loss/policy": loss.detach(),
        "loss/clipped": ((objective_BT > unclipped_BT) * x.weights_BT).sum().detach(),
    }
    if x.ref_logps_BT is not None:
        kl = (k3(x.logps_BT, x.ref_logps_BT) * x.weights_BT).sum()
        loss = loss + cfg.beta * kl
        metrics["loss/kl"] = kl.detach()
    return loss, metrics
