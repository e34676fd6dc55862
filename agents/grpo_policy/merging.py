"""Adapters added into the weights for a while: sampling reads one matrix a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from grpo_policy.masters import replaced


@contextmanager
def merged(model: PreTrainedModel) -> Iterator[None]:
    """Let a model with adapters (LoRA) compute with merged weights; then with what it had.

    A sampled token is a hundred operations more for each ten layers with adapters beside them. The
    copies take as much memory as the layers that have adapters, as long as this lasts. Weights that
    are quantised, or that another layer shares, are left unmerged.
    """
    uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    layers, weights = [], {}
    for layer in model.modules():
        weight = _weight(layer)
        if weight is not None and weight.is_floating_point() and uses[id(weight)] == 1:
            layers.append(layer)
            weights[weight] = _with_adapters(layer, weight)
    for layer in layers:
        layer.merged_adapters = list(layer.active_adapters)  # type: ignore[assignment, arg-type]
    try:
        with replaced(model, weights):
            yield
    finally:
        for layer in layers:
            layer.merged_adapters = []  # type: ignore[assignment]


def _weight(layer: Any) -> nn.Parameter | None:
    """Return the weight that an adapter of PEFT is added to; None of any other layer."""
    if not (hasattr(layer, "get_delta_weight") and hasattr(layer, "merged_adapters")):
        return None
    weight = getattr(layer.get_base_layer(), "weight", None)
    return weight if isinstance(weight, nn.Parameter) else None


@torch.no_grad()
def _with_adapters(layer: Any, weight: nn.Parameter) -> nn.Parameter:
    precise = torch.promote_types(weight.dtype, torch.float32)
    total = weight.detach().to(precise, copy=True)
    for name in layer.active_adapters:
        total += layer.get_delta_weight(name)
    return nn.Parameter(total.to(weight.dtype), requires_grad=False)
