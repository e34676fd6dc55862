"""AdamW (arXiv 1711.05101), with moments in float32 or in eight bits (arXiv 2110.02861)."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import Any

import torch

from grpo_envs.errors import require_extra
from grpo_policy.masters import Masters
from grpo_policy.updates import LearnerSettings


def parameter_groups(masters: Masters, lr: float, head_lr: float) -> list[dict[str, Any]]:
    """Return the parameter groups; a head with another learning rate is a second group.

    Args:
        masters: The trained parameters of a model and of a head beside it.
        lr: Learning rate of the model.
        head_lr: Learning rate of the head.
    """
    trained = list(masters.trained().values())
    if masters.head is None or head_lr == lr:
        return [{"params": trained}]
    head = list(masters.head.parameters())
    return [{"params": trained[: -len(head)]}, {"params": head, "lr": head_lr}]


def adamw(parameters: Sequence[dict[str, Any]], settings: LearnerSettings) -> torch.optim.Optimizer:
    """Return the optimiser.

    Args:
        parameters: Parameter groups, each with its own settings.
        settings: Learning rate, betas and the like. `optimizer` is adamw (8 bytes of moments per
            parameter) or adamw_8bit (2 bytes in tensors of 4,096 elements or more).

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    numbers: dict[str, Any] = {
        "lr": settings.lr,
        "betas": settings.adam_betas,
        "eps": settings.adam_eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **numbers, fused=True)
    require_extra("quant", f"agent.optimizer={settings.optimizer}", ["bitsandbytes"])
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(parameters, **numbers)
    return made


def share_of_peak(step: int, settings: LearnerSettings) -> float:
    """Return the learning rate of a step, counted from 0, as a share of the peak.

    In a warm-up of W steps the share is (step + 1) / (W + 1). Over the other N = steps - W steps it
    falls from 1 to `lr_end`: e + (1 - e) f, with e = `lr_end`, p = (step - W) / N, and f = 1 - p
    (linear) or f = (1 + cos(pi p)) / 2 (cosine, arXiv 1608.03983, eq. 5).
    """
    share = settings.warmup_steps
    warmup = round(share * settings.steps) if share < 1 else int(share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.lr_schedule == "constant":
        return 1.0
    p = min(1.0, (step - warmup) / (settings.steps - warmup))
    left = 1 - p if settings.lr_schedule == "linear" else (1 + cos(pi * p)) / 2
    return settings.lr_end + (1 - settings.lr_end) * left
