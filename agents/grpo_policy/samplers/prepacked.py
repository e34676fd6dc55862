"""Packed copies of a model's matrices (`PackedMatrix`) while it samples on a CPU.

Each decoding step multiplies every matrix by a few rows only, so packed copies save time. They need
as much memory as the gradients of the same weights, and they are freed before the update allocates
the gradients.
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
"""The fewest elements of all matrices together for which copies are made. The matrices of a
smaller model stay in the CPU's caches, and copies save no time."""


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """Let linear layers on a CPU compute with packed copies of their weights inside the context.

    The weights must not change inside the context. Results differ by rounding.

    Args:
        model: The model; `forward` of its `linear_layers` is replaced until the context ends.
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
    """Return the layers of a model that `prepacked` copies; the device is not checked.

    Each is an `nn.Linear` without hooks and adapters, and its weights are trained: a copy of a
    frozen matrix would need memory that no gradient needs later. The list of a model with fewer
    than `LEAST` elements is empty.
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
    """Return the layer's output (..., O) for `x` (..., I); use `plain` if gradients are needed."""
    if torch.is_grad_enabled() or x.dtype != packed.dtype:
        return plain(x)
    return packed(x, bias_O)
