"""Weights in the memory layout of oneDNN's matrix products, while a CPU samples.

A sampled token multiplies each matrix by a few rows only, so packed copies of the matrices save
time. The copies take as much memory as the gradients of these weights, and are freed before the
update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from grpo_policy.packed_matrix import DTYPES, PackedMatrix, can_be_packed

LEAST = 4 << 20
"""The fewest elements of a model's matrices: smaller models stay in a CPU's caches and gain
nothing."""


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """Within the context linear layers on a CPU compute with prepacked copies of their weights.

    The weights must not change within it. Results differ from those of the layers by rounding.

    Args:
        model: Its `linear_layers` have a `forward` of their own until the context ends.
    """
    layers = [layer for layer in linear_layers(model) if can_be_packed(layer.weight)]
    try:
        for layer in layers:
            packed = PackedMatrix(layer.weight)
            vars(layer)["forward"] = partial(_forward, layer.forward, packed, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the layers of a model that `prepacked` makes copies for, on any device.

    Each is one matrix, without hooks or adapters, and is trained: the copy of a frozen matrix would
    take memory that no gradient needs later. A small model has none.
    """
    found = [layer for layer in model.modules() if _is_plain(layer)]
    return found if sum(layer.weight.numel() for layer in found) >= LEAST else []


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    plain = "forward" not in vars(layer) and layer.weight.dtype in DTYPES
    return plain and layer.weight.requires_grad


def _forward(
    plain: Callable[[Tensor], Tensor], packed: PackedMatrix, bias_O: Tensor | None, x: Tensor
) -> Any:
    """Return the layer's output for `x` (..., I); with gradients, from its own `forward`."""
    if torch.is_grad_enabled() or x.dtype != packed.dtype:
        return plain(x)
    return packed(x, bias_O)
