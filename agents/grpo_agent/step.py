"""One step's tensors: what every update of it looks at."""

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
    """True on the tokens that count in the loss: not those of a masked completion."""
    ref_logps_BT: Tensor | None
    old_logps_BT: Tensor | None
    """Under the policy before the step, by the trainer; None where the step has one update."""
    advantages_BT: Tensor
    entropy_BT: Tensor | None = None
    """Of the policy before the step; None where no loss asks for it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What is known of the step before its updates."""
    noted: Mapping[str, Tensor] = field(default_factory=dict)
    """What else `grpo_envs.explain` shows of each token (B, T), by name."""

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
    """Return the rows of each minibatch: whole groups, in the order they were sampled."""
    rows_B = torch.arange(len(batch.mask_BT), device=batch.mask_BT.device)
    return [part.flatten() for part in rows_B.view(groups, -1).tensor_split(min(parts, groups))]
