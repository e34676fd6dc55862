"""Completions that end by chance: every token ends one with the same probability."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

_SURE = 1e4
"""A logit beside which all others count nothing, in half precision, too."""


def end_by_chance(model: PreTrainedModel, eos_id: int, chance: float) -> RemovableHandle:
    """Let the end token be sampled with probability `chance`, whatever the model says.

    Only logits of passes without gradients change: those that tokens are sampled from. No first
    token ends a completion, as completions of a group share its logits: a length is 1 and a
    geometric number, on average 1 + 1 / chance.
    """
    generator = torch.Generator(model.device).manual_seed(0)

    def decide(module: Any, args: Any, given: Any, output: Any) -> None:
        if torch.is_grad_enabled() or output.logits is None:
            return
        last_RV = output.logits[:, -1]
        drawn_R = torch.rand(len(last_RV), generator=generator, device=last_RV.device)
        ends_R = (drawn_R < chance) & (given["input_ids"].shape[1] == 1)
        last_RV[:, eos_id] = torch.where(ends_R, _SURE, -_SURE).to(last_RV.dtype)

    return model.register_forward_hook(decide, with_kwargs=True)
