"""The tensors of a step, which all its updates share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from grpo_policy.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The rows of one step, or some of them."""

    batch: Batch
    counted_BT: Tensor
    """True on the tokens that count in the loss; False on all tokens of a masked completion."""
    ref_logps_BT: Tensor | None
    old_logps_BT: Tensor | None
    """Log-probabilities of the trainer, before the step; None where the step has one update."""
    advantages_BT: Tensor
    entropy_BT: Tensor | None = None
    """Entropy of the policy before the step; None where no loss needs it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics that are known before the updates of the step."""
    noted: Mapping[str, Tensor] = field(default_factory=dict)
    """Further values of each token (B, T) that `grpo_envs.explain` shows, by name."""

    def rows(self, index: Tensor) -> Self:
        """Return some rows, cut to the longest of them."""
        batch = self.batch.rows(index)
        tokens = batch.mask_BT.shape[1]
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        cut: dict[str, Any] = {
            n: v[index, :tokens] for n, v in values.items() if isinstance(v, Tensor)
        }
        noted = {name: value[index, :tokens] for name, value in self.noted.items()}
        return replace(self, batch=batch, noted=noted, **cut)


def minibatches(batch: Batch, groups: int, parts: int) -> list[Tensor]:
    """Return the rows of each minibatch: whole groups, in their order in the batch."""
    rows_B = torch.arange(len(batch.mask_BT), device=batch.mask_BT.device)
    return [part.flatten() for part in rows_B.view(groups, -1).tensor_split(min(parts, groups))]
