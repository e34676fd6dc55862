"""AdamW (arXiv 1711.05101), its moments in float32 or in eight bits (arXiv 2110.02861)."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import Any

import torch

from grpo_envs.errors import require_extra
from grpo_policy.masters import Masters
from grpo_policy.updates import LearnerSettings


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


def adamw(parameters: Sequence[dict[str, Any]], settings: LearnerSettings) -> torch.optim.Optimizer:
    """Return the optimiser.

    Args:
        parameters: Groups of what it changes, each with settings of its own.
        settings: Its numbers. `optimizer` is adamw, with 8 bytes of moments a parameter, or
            adamw_8bit, with 2 where a parameter has 4,096 numbers or more.

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

    With a warm-up of W steps it is (step + 1) / (W + 1) in them. Then it falls over the other
    N = steps - W, the first of which has the peak: with p = (step - W) / N it is 1 - p (linear) or
    (1 + cos(pi p)) / 2 (cosine, arXiv 1608.03983, eq. 5) of what is between peak and end.
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
