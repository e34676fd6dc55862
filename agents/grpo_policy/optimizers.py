"""AdamW (arXiv 1711.05101), its moments in float32 or in eight bits (arXiv 2110.02861)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from grpo_envs.errors import require_extra


def adamw(
    parameters: Sequence[nn.Parameter], lr: float, weight_decay: float, *, name: str = "adamw"
) -> torch.optim.Optimizer:
    """Return the optimiser.

    Args:
        parameters: What it changes.
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
