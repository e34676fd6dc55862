"""The loss of some rows of an update, put together as `agent.loss` says."""

from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.losses.corrections import CORRECTIONS, sampler_ratio
from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.kl import KLS, k3, reference_gap
from grpo_agent.losses.ratios import RATIOS, token_ratio
from grpo_agent.mechanisms import Mechanism


def policy_loss(
    x: LossInputs, cfg: LossConfig, objective: Mechanism
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of these rows (a weighted sum over tokens) and detached values per token.

    The values are (B, T): `loss/policy`, the objective alone; `loss/clipped`, 1 where a bound of
    the objective is active; `loss/kl`, the k3 estimate, also where the penalty has another
    estimator. With a correction also `policy/correction`, the ratio to the sampler,
    `policy/correction_square`, its square, and `policy/correction_cut`, 1 where the weight is not
    the ratio.

    Raises:
        ConfigError: the objective does not return two tensors (B, T).
    """
    ratio_BT = RATIOS[cfg.ratio](x)
    loss_BT, bounded_BT = _pair(objective(ratio_BT, x), objective, ratio_BT)
    values = {"loss/policy": loss_BT.detach(), "loss/clipped": bounded_BT}
    if x.forks_BT is not None:
        loss_BT = loss_BT * x.forks_BT
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
        raise objective.refuse(value, "a loss_BT with a gradient, through ratio_BT or x.logps_BT")
    return loss_BT, bounded_BT.detach().to(ratio_BT.dtype)
