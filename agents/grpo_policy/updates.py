"""The inputs of a learner: its settings, and the loss of some rows of an update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor

from grpo_policy.batch import Batch
from grpo_policy.learning import LearningConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """The settings of a learner, without open choices."""

    lr: float
    """AdamW's peak learning rate."""
    head_lr: float = 0.0
    """The peak learning rate of the policy's value head, if it has one."""
    temperature: float = 1.0
    """Divides the logits; the temperature at which the completions were sampled."""
    lr_schedule: str = "constant"
    """After the warm-up: constant, or linear or cosine decay until the last step."""
    lr_end: float = 0.0
    """The final learning rate, as a share of the peak."""
    steps: int = 0
    """Steps of the whole training, for a learning rate that decays."""
    warmup_steps: float = 0
    """Steps over which the learning rate rises linearly from 0; below 1 a share of `steps`."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of both moments."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    optimizer: str = "adamw"
    """adamw or adamw_8bit."""
    max_grad_norm: float = 1.0
    """Gradients with a larger L2 norm are scaled down to this norm."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, per forward and backward pass."""
    entropy_grad: bool = False
    """Whether the loss differentiates `Scored.entropy_BT`."""
    reference: bool = False
    """Whether the loss needs a reference: the model without its adapters, or a frozen copy."""
    sync_reference_every: int = 0
    """Steps between two updates of a frozen reference; 0: it never changes."""
    sync_reference_decay: float = 0.0
    """Weight of the old reference in such an update, see `grpo_policy.reference.follow`."""
    memory_keys: tuple[str, ...] = ()
    """Settings of the agent that save memory, for the message of `OutOfMemory`."""

    @classmethod
    def of(cls, cfg: LearningConfig, **more: Any) -> Self:
        """Return settings from the keys of the agent, with the values of `more` in addition."""
        names = (field.name for field in fields(LearningConfig) if field.name in _NAMES)
        given = {name: getattr(cfg, name) for name in names} | more
        return cls(**given | {"adam_betas": tuple(cfg.adam_betas)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Some rows of an update, scored by the policy. The scores have gradients."""

    rows_B: Tensor
    """The numbers of the rows in the batch of the update."""
    batch: Batch
    """These rows alone, cut to the longest of them."""
    logps_BT: Tensor
    """Log-probabilities of the completions' tokens, 0 outside the mask."""
    entropy_BT: Tensor
    """Entropy in nats of the distribution of each token."""
    values_BT: Tensor | None = None
    """The value of the state before each token, 0 outside the mask; None without a value head."""


_NAMES = {field.name for field in fields(LearnerSettings)}
RowLoss = Callable[[Scored], tuple[Tensor, dict[str, Tensor]]]
"""Returns the loss of some rows, and detached values (B, T) by the name of their metric.

The losses of micro-batches and processes are summed. So a mean over the update must divide by the
rows or tokens of the whole update. A metric is the mean of its values over the update's tokens.
"""
