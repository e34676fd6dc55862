"""Objectives: the loss of each token, before the KL penalty and the weights of tokens.

An objective is `f(ratio_BT, x, *, option=default) -> (loss_BT, bounded_BT)`. `bounded_BT` is True
where a bound of the objective, such as the clip, is active. In formulas rho is `ratio_BT`, A the
advantage, lp the log-probability under the policy, and sg stops the gradient.
"""

import torch
from torch import Tensor

from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.ratios import clamped_exp


def clipped(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    """Return -min(rho A, clip(rho, 1 - low, 1 + high) A), PPO's clipped loss.

    (PPO, arXiv 1707.06347, eq. 7.) With `dual_clip` c, the loss is at most -c A where A is negative
    (arXiv 1912.09729).
    """
    a_BT = x.advantages_BT
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = -torch.minimum(ratio_BT * a_BT, clipped_BT * a_BT)
    if dual_clip is not None:
        loss_BT = torch.where(a_BT < 0, torch.minimum(loss_BT, -dual_clip * a_BT), loss_BT)
    high_BT = _choose(a_BT > 0, 1 + clip_high, dual_clip or torch.inf, ratio_BT)
    low_BT = _choose(a_BT < 0, 1 - clip_low, -torch.inf, ratio_BT)
    return loss_BT, ((ratio_BT > high_BT) | (ratio_BT < low_BT)) & (a_BT != 0)


def cispo(ratio_BT: Tensor, x: LossInputs, *, cap: float) -> tuple[Tensor, Tensor]:
    """Return -sg[min(rho, cap)] A lp (MiniMax-M1, arXiv 2506.13585, eq. 4, 5).

    The cap bounds the weight of a token; no token loses its gradient.
    """
    weights_BT = ratio_BT.detach().clamp(max=cap)
    bounded_BT = (ratio_BT > cap) & (x.advantages_BT != 0)
    return -weights_BT * x.advantages_BT * x.logps_BT, bounded_BT


def sapo(
    ratio_BT: Tensor, x: LossInputs, *, tau_positive: float, tau_negative: float
) -> tuple[Tensor, Tensor]:
    """Return -(4 / tau) sigmoid(tau (rho - 1)) A (SAPO, arXiv 2511.20347, eq. 5, 6).

    The sigmoid replaces the clip; the gradient decreases smoothly as rho leaves 1. tau depends on
    the sign of the advantage. No token counts as bounded.
    """
    a_BT = x.advantages_BT
    tau_BT = _choose(a_BT > 0, tau_positive, tau_negative, ratio_BT)
    loss_BT = -(4 / tau_BT) * torch.sigmoid(tau_BT * (ratio_BT - 1)) * a_BT
    return loss_BT, torch.zeros_like(ratio_BT, dtype=torch.bool)


def gmpo(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return -A times the geometric mean of a completion's clipped ratios.

    (GMPO, arXiv 2507.20673, eq. 4.) Each log ratio is clipped on one side before the mean: to at
    most `clip_high` if the advantage is positive, to at least -`clip_low` if it is negative. The
    paper uses 0.4 for both.
    """
    a_BT = x.advantages_BT
    log_ratio_BT = (x.logps_BT - x.old_logps_BT).masked_fill(~x.mask_BT, 0.0)
    high_BT = _choose(a_BT > 0, clip_high, torch.inf, ratio_BT)
    low_BT = _choose(a_BT < 0, -clip_low, -torch.inf, ratio_BT)
    kept_BT = log_ratio_BT.clamp(low_BT, high_BT)
    lengths_B1 = x.mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    mean_B1 = clamped_exp(kept_BT.sum(dim=1, keepdim=True) / lengths_B1)
    return -mean_B1 * a_BT, (log_ratio_BT > high_BT) | (log_ratio_BT < low_BT)


def clip_cov(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of `clipped`, with 0 at the selected tokens (Clip-Cov, arXiv 2505.22617).

    The selected tokens are drawn at random from those whose covariance of log-probability and
    advantage is high: their updates lower the entropy most. `grpo_agent.selection.singled_out`
    selects them.
    """
    loss_BT, bounded_BT = clipped(
        ratio_BT, x, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    singled_BT = _singled_out(x)
    return loss_BT.masked_fill(singled_BT, 0.0), bounded_BT | singled_BT


def kl_cov(ratio_BT: Tensor, x: LossInputs, *, penalty: float) -> tuple[Tensor, Tensor]:
    """Return -rho A, plus penalty |log rho| at the selected tokens (KL-Cov, arXiv 2505.22617).

    The selected tokens have the highest covariance of log-probability and advantage
    (`grpo_agent.selection.singled_out`). No ratio is clipped; selected tokens count as bounded.
    """
    singled_BT = _singled_out(x)
    gap_BT = (x.logps_BT - x.old_logps_BT).abs() * singled_BT
    return -ratio_BT * x.advantages_BT + penalty * gap_BT, singled_BT


def _singled_out(x: LossInputs) -> Tensor:
    assert x.singled_BT is not None, "the agent singles out tokens for this objective"
    return x.singled_BT


def _choose(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    """Return `torch.where` of two numbers in the dtype of `like`, not in the default dtype."""
    return torch.full_like(condition, no, dtype=like.dtype).masked_fill(condition, yes)
