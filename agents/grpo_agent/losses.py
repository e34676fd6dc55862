"""The GRPO loss, built from five independent choices.

They are ratio, objective, KL, aggregation, and the correction for the sampler's arithmetic.

    J = E[ 1/G sum_i 1/L_i sum_t ( min(rho A_i, clip(rho, 1-eps, 1+eps) A_i) - beta k3 ) ]

(DeepSeekMath, arXiv 2402.03300, eq. 3.) The loss is -J. A paper is a preset in conf/agent/ that
picks one value of each. A ratio, KL or aggregation is a function here and an entry in its table; an
objective is `f(ratio_BT, x, *, option=default) -> (loss_BT, bounded_BT)`, registered as an entry
point of `grpo_envs.objectives`. Its options are filled from the keys of `agent.loss` that have
their names, others from `agent.loss.options`.
Shapes: B completions, T completion tokens. Every tensor is (B, T) unless its name says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.mechanisms import Mechanism

_LOG_LIMIT = 20.0
"""Log ratios are clamped to +-20 before exp: one wild token must not make an infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Everything a loss may look at. `logps_BT` and `entropy_BT` carry gradient."""

    logps_BT: Tensor
    """Log-probabilities under the policy being trained."""
    old_logps_BT: Tensor
    """Under the policy before this step's updates: the ratio divides by it."""
    sampled_logps_BT: Tensor
    """Under the policy that sampled the completions, as the sampler reported them."""
    ref_logps_BT: Tensor | None
    """Under the reference policy; None when beta is 0."""
    entropy_BT: Tensor
    """Entropy in nats of the policy's full distribution."""
    advantages_BT: Tensor
    """Finite everywhere; one number for all tokens of a completion, unless the rule tells them
    apart."""
    mask_BT: Tensor
    """True where the policy chose the token, end-of-turn token included."""
    weights_BT: Tensor
    """What each token counts in the step's loss, from `token_weights`; 0 outside the mask."""


# --- ratio: how much likelier a completion has become since the policy before the step


def token_ratio(x: LossInputs) -> Tensor:
    """pi / pi_old of each token (GRPO)."""
    return _clamped_exp(x.logps_BT - x.old_logps_BT)


def sequence_ratio(x: LossInputs) -> Tensor:
    """exp of a completion's mean log ratio, at each of its tokens (GSPO, arXiv 2507.18071)."""
    lengths_B1 = x.mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return _clamped_exp(_log_ratio_sum(x) / lengths_B1).expand_as(x.logps_BT)


def sequence_product_ratio(x: LossInputs) -> Tensor:
    """pi / pi_old of the whole completion, at each of its tokens (RLOO, arXiv 2402.14740)."""
    return _clamped_exp(_log_ratio_sum(x)).expand_as(x.logps_BT)


# --- objective: what is minimised at each token


def clipped(
    ratio_BT: Tensor, x: LossInputs, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    """-min(rho A, clip(rho) A): PPO's pessimistic bound (arXiv 1707.06347).

    With `dual_clip` c, at most -c A where A is negative (arXiv 1912.09729).
    """
    a_BT = x.advantages_BT
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = -torch.minimum(ratio_BT * a_BT, clipped_BT * a_BT)
    if dual_clip is not None:
        loss_BT = torch.where(a_BT < 0, torch.minimum(loss_BT, -dual_clip * a_BT), loss_BT)
    high_BT = _choose(a_BT > 0, 1 + clip_high, dual_clip or torch.inf, ratio_BT)
    low_BT = _choose(a_BT < 0, 1 - clip_low, -torch.inf, ratio_BT)
    return loss_BT, ((ratio_BT > high_BT) | (ratio_BT < low_BT)) & (a_BT != 0)


def cispo(ratio_BT: Tensor, x: LossInputs, *, cispo_cap: float) -> tuple[Tensor, Tensor]:
    """-sg[min(rho, cap)] A lp: every token keeps its gradient (MiniMax-M1, arXiv 2506.13585)."""
    weights_BT = ratio_BT.detach().clamp(max=cispo_cap)
    bounded_BT = (ratio_BT > cispo_cap) & (x.advantages_BT != 0)
    return -weights_BT * x.advantages_BT * x.logps_BT, bounded_BT


def sapo(
    ratio_BT: Tensor, x: LossInputs, *, sapo_tau_positive: float, sapo_tau_negative: float
) -> tuple[Tensor, Tensor]:
    """-(4/tau) sigmoid(tau (rho - 1)) A: a soft gate in place of the clip (arXiv 2511.20347)."""
    a_BT = x.advantages_BT
    tau_BT = _choose(a_BT > 0, sapo_tau_positive, sapo_tau_negative, ratio_BT)
    loss_BT = -(4 / tau_BT) * torch.sigmoid(tau_BT * (ratio_BT - 1)) * a_BT
    return loss_BT, torch.zeros_like(ratio_BT, dtype=torch.bool)


# --- KL(policy || reference) at each token, from y = log pi_ref - log pi (Schulman 2020)


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
    """rho k3: value and gradient of the reverse KL, off-policy too (DeepSeek-V3.2, 2512.02556)."""
    return ratio_BT * k3(gap_BT, ratio_BT)


def reference_gap(logps_BT: Tensor, ref_logps_BT: Tensor) -> Tensor:
    """Return y = log pi_ref - log pi, clamped to +-20."""
    return (ref_logps_BT - logps_BT).clamp(-_LOG_LIMIT, _LOG_LIMIT)


# --- correction: rho = pi_old / pi_sampler, how much likelier the trainer finds a token than its
# sampler did (another precision, another engine). It weights the objective, not the KL penalty.


def truncate(x: LossInputs, cap: float) -> Tensor:
    """min(rho, cap) of each token (truncated importance sampling, Yao et al. 2025)."""
    return sampler_ratio(x).clamp(max=cap)


def mask(x: LossInputs, cap: float) -> Tensor:
    """rho of each token, 0 outside [1 / cap, cap] (IcePop, arXiv 2510.18855)."""
    return _within(sampler_ratio(x), cap)


def sequence_mask(x: LossInputs, cap: float) -> Tensor:
    """Prod rho of a completion at each of its tokens, 0 outside [1 / cap, cap] (MIS, Liu 2025)."""
    gaps_BT = _sampler_gaps(x)
    product_B1 = _clamped_exp(gaps_BT.sum(dim=1, keepdim=True))
    return _within(product_B1, cap).expand_as(gaps_BT)


def sampler_ratio(x: LossInputs) -> Tensor:
    """Return rho of each token, 1 outside the mask."""
    return _clamped_exp(_sampler_gaps(x))


def _sampler_gaps(x: LossInputs) -> Tensor:
    """Return log rho of each token, 0 outside the mask."""
    return (x.old_logps_BT - x.sampled_logps_BT).masked_fill(~x.mask_BT, 0.0)


def _within(ratio: Tensor, cap: float) -> Tensor:
    return ratio.masked_fill((ratio > cap) | (ratio < 1 / cap), 0.0)


# --- aggregation: what each token of an optimiser step counts in its loss


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """How much there is in one optimiser step: all micro-batches of all processes together."""

    completions: float
    tokens: float
    """Tokens that count in the loss."""
    max_tokens: int
    """Most tokens a completion may have (sampler.max_new_tokens)."""


def sequence_mean(mask_BT: Tensor, size: StepSize) -> Tensor:
    """1/(B L_i): mean over a completion's tokens, then over completions (GRPO)."""
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return mask_BT / (lengths_B1 * size.completions)


def token_mean(mask_BT: Tensor, size: StepSize) -> Tensor:
    """Mean over the tokens of the step: a long completion counts more (DAPO, arXiv 2503.14476)."""
    return mask_BT / max(size.tokens, 1.0)


def fixed_length(mask_BT: Tensor, size: StepSize) -> Tensor:
    """1/(B L_max): length changes no token's weight (Dr. GRPO, arXiv 2503.20783)."""
    return mask_BT / (size.completions * size.max_tokens)


RATIOS: dict[str, Callable[[LossInputs], Tensor]] = {
    "token": token_ratio,
    "sequence": sequence_ratio,
    "sequence_product": sequence_product_ratio,
}
KLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_ratio": k3_ratio,
}
CORRECTIONS: dict[str, Callable[[LossInputs, float], Tensor]] = {
    "truncate": truncate,
    "mask": mask,
    "sequence_mask": sequence_mask,
}
AGGREGATES: dict[str, Callable[[Tensor, StepSize], Tensor]] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "fixed_length": fixed_length,
}


def token_weights(mask_BT: Tensor, size: StepSize, cfg: LossConfig) -> Tensor:
    """Return the weight (B, T) of each token in the loss of one optimiser step.

    The size is that of the whole step: a micro-batch, or a process, weighs its own rows and the
    sums add up, so the result does not depend on how the step is cut.
    """
    return AGGREGATES[cfg.aggregate](mask_BT, size)


def policy_loss(
    x: LossInputs, cfg: LossConfig, objective: Mechanism
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of these rows (a sum of weighted tokens) and detached values per token.

    The values are (B, T): `loss/policy`, the objective alone; `loss/clipped`, 1 where it was
    bounded; `loss/kl`, the k3 estimate whatever the penalty is; with a correction
    `policy/correction`, the ratio to the sampler, `policy/correction_square`, and
    `policy/correction_cut`, 1 where the weight is another number than the ratio.

    Raises:
        ConfigError: the objective returns something else than two tensors (B, T).
    """
    ratio_BT = RATIOS[cfg.ratio](x)
    loss_BT, bounded_BT = _pair(objective(ratio_BT, x), objective, ratio_BT)
    values = {"loss/policy": loss_BT.detach(), "loss/clipped": bounded_BT}
    if cfg.correction in CORRECTIONS:
        weights_BT = CORRECTIONS[cfg.correction](x, cfg.correction_cap)
        loss_BT = loss_BT * weights_BT
        values |= _corrected(x, weights_BT, cfg.correction)
    if x.ref_logps_BT is not None:
        gap_BT = reference_gap(x.logps_BT, x.ref_logps_BT)
        values["loss/kl"] = k3(gap_BT, ratio_BT).detach()
        if cfg.kl_in == "loss":
            loss_BT = loss_BT + cfg.beta * KLS[cfg.kl](gap_BT, token_ratio(x))
    if cfg.entropy:
        loss_BT = loss_BT - cfg.entropy * x.entropy_BT
    return (loss_BT * x.weights_BT).sum(), values


def _corrected(x: LossInputs, weights_BT: Tensor, name: str) -> dict[str, Tensor]:
    ratio_BT = sampler_ratio(x)
    cut_BT = weights_BT == 0 if name != "truncate" else weights_BT != ratio_BT
    return {
        "policy/correction": ratio_BT,
        "policy/correction_square": ratio_BT.square(),
        "policy/correction_cut": cut_BT.to(ratio_BT.dtype),
    }


def _pair(value: object, objective: Mechanism, ratio_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each token, and 1 where a bound of the objective is active, else 0."""
    match value:
        case (Tensor() as loss_BT, Tensor() as bounded_BT) if (
            loss_BT.shape == bounded_BT.shape == ratio_BT.shape
        ):
            pass
        case _:
            shape = f"(B, T) = {tuple(ratio_BT.shape)}"
            raise objective.refuse(value, f"(loss_BT, bounded_BT), two tensors of shape {shape}")
    if ratio_BT.requires_grad and not loss_BT.requires_grad:
        raise objective.refuse(value, "a loss_BT with a gradient: made of ratio_BT or x.logps_BT")
    return loss_BT, bounded_BT.detach().to(ratio_BT.dtype)


def _choose(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    """`torch.where` of two numbers in the dtype of `like`, not in the default one."""
    return torch.full_like(condition, no, dtype=like.dtype).masked_fill(condition, yes)


def _log_ratio_sum(x: LossInputs) -> Tensor:
    return ((x.logps_BT - x.old_logps_BT) * x.mask_BT).sum(dim=1, keepdim=True)


def _clamped_exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_LOG_LIMIT, _LOG_LIMIT).exp()
