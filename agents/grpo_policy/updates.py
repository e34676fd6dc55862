"""What a learner is given: its numbers, and the loss of some rows of an update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor

from grpo_policy.batch import Batch
from grpo_policy.learning import LearningConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """The numbers of a learner, all of them decided."""

    lr: float
    """AdamW's peak learning rate."""
    head_lr: float = 0.0
    """That of the policy's value head, where it has one."""
    temperature: float = 1.0
    """Logits are divided by it; the one that the completions were sampled at."""
    lr_schedule: str = "constant"
    """After the warm-up: constant, or falling until the last step: linear, cosine."""
    lr_end: float = 0.0
    """Share of the peak that the learning rate falls to."""
    steps: int = 0
    """Of the whole training; what a learning rate that falls needs."""
    warmup_steps: float = 0
    """Steps over which the learning rate rises linearly from 0; below 1 a share of `steps`."""
    weight_decay: float = 0.0
    """AdamW's."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    adam_eps: float = 1e-8
    """AdamW's."""
    optimizer: str = "adamw"
    """adamw or adamw_8bit."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this L2 norm."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, per forward and backward pass."""
    entropy_grad: bool = False
    """Whether the loss differentiates `Scored.entropy_BT`."""
    reference: bool = False
    """Whether the loss needs a reference: the model without its adapters, or a frozen copy."""
    sync_reference_every: int = 0
    """Steps after which a frozen copy moves to the policy's weights; 0: never."""
    sync_reference_decay: float = 0.0
    """What it keeps of its own then, see `grpo_policy.reference.follow`."""
    memory_keys: tuple[str, ...] = ()
    """Settings of the agent that save memory, for the message of `OutOfMemory`."""

    @classmethod
    def of(cls, cfg: LearningConfig, **more: Any) -> Self:
        """Return the numbers that are keys of the agent, and `more`: those that are decided."""
        names = (field.name for field in fields(LearningConfig) if field.name in _NAMES)
        given = {name: getattr(cfg, name) for name in names} | more
        return cls(**given | {"adam_betas": tuple(cfg.adam_betas)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Some rows of an update under the policy. All but the batch carry gradient."""

    rows_B: Tensor
    """Their places in the batch of the update."""
    batch: Batch
    """These rows alone, cut to the longest of them."""
    logps_BT: Tensor
    """Log-probabilities of the completions' tokens, 0 outside the mask."""
    entropy_BT: Tensor
    """Entropy in nats of the distributions they were drawn from."""
    values_BT: Tensor | None = None
    """The value of the state before each token, 0 outside the mask; None without a value head."""


_NAMES = {field.name for field in fields(LearnerSettings)}
RowLoss = Callable[[Scored], tuple[Tensor, dict[str, Tensor]]]
"""Returns the loss of some rows, and detached values (B, T) by the name of their metric.

The losses of micro-batches and processes are summed, so a mean over the update divides by the rows
or tokens of the whole update. A metric is the mean of its values over the update's tokens.
"""
