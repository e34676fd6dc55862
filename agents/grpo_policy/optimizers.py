"""AdamW (arXiv 1711.05101), its moments in float32 or in eight bits (arXiv 2110.02861)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from grpo_envs.errors import require_extra
from grpo_policy.masters import Masters


def parameter_groups(masters: Masters, lr: float, head_lr: float) -> list[dict[str, Any]]:
    """Return what an optimiser changes; a head with another learning rate is a second group.

    Args:
        masters: What is trained of a model, and of a head beside it.
        lr: Learning rate of the model.
        head_lr: That of the head.
    """
    trained = list(masters.trained().values())
    if masters.head is None or head_lr == lr:
        return [{"params": trained}]
    head = list(masters.head.parameters())
    return [{"params": trained[: -len(head)]}, {"params": head, "lr": head_lr}]


def adamw(
    parameters: Sequence[dict[str, Any]], lr: float, weight_decay: float, *, name: str = "adamw"
) -> torch.optim.Optimizer:
    """Return the optimiser.

    Args:
        parameters: Groups of what it changes, each with settings of its own.
        lr: Peak learning rate.
        weight_decay: lr times it is taken away of a weight each step.
        name: adamw, with 8 bytes of moments a parameter, or adamw_8bit, with 2 where a parameter
            has 4,096 numbers or more.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    require_extra("quant", f"agent.optimizer={name}", ["bitsandbytes"])
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)
    return made
