"""Aggregation: the weight of each token in the loss of an optimiser step."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from grpo_agent.config import LossConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """The size of one optimiser step: all micro-batches of all processes together."""

    completions: float
    tokens: float
    """Tokens that count in the loss."""
    max_tokens: int
    """The most tokens that a completion may have (sampler.max_new_tokens)."""


def sequence_mean(mask_BT: Tensor, size: StepSize) -> Tensor:
    """Return 1 / (B L_i): the mean over a completion's tokens, then over completions.

    (GRPO, arXiv 2402.03300, eq. 3.)
    """
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return mask_BT / (lengths_B1 * size.completions)


def token_mean(mask_BT: Tensor, size: StepSize) -> Tensor:
    """Return 1 / tokens of the step: a longer completion has more weight.

    (DAPO, arXiv 2503.14476, eq. 8.)
    """
    return mask_BT / max(size.tokens, 1.0)


def fixed_length(mask_BT: Tensor, size: StepSize) -> Tensor:
    """Return 1 / (B L_max): a token's weight does not depend on its completion's length.

    (Dr. GRPO, arXiv 2503.20783.)
    """
    return mask_BT / (size.completions * size.max_tokens)


def sequence_sum(mask_BT: Tensor, size: StepSize) -> Tensor:
    """Return 1 / B: the sum over a completion's tokens, then the mean over completions.

    (LUSPO, arXiv 2602.05261.)
    """
    return mask_BT / size.completions


AGGREGATES: dict[str, Callable[[Tensor, StepSize], Tensor]] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "fixed_length": fixed_length,
    "sequence_sum": sequence_sum,
}


def token_weights(mask_BT: Tensor, size: StepSize, cfg: LossConfig) -> Tensor:
    """Return the weight (B, T) of each token in the loss of one optimiser step.

    The size is that of the whole step: each micro-batch and each process weights its own rows, and
    their sums add up. The result does not depend on how the step is split.
    """
    return AGGREGATES[cfg.aggregate](mask_BT, size)
