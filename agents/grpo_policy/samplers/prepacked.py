"""Weights in the layout of oneDNN's matrix products, while a CPU samples with them.

A sampled token multiplies every matrix with a few rows, so that reading the matrices decides how
long it takes. oneDNN reads one fastest that has been brought into its layout before (prepacked).
The copies take as much memory as gradients do afterwards, and are gone by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

_DTYPES = (torch.float32, torch.bfloat16)
LEAST = 4 << 20
"""Numbers in a model's matrices from which on it gains: fewer stay in a CPU's caches."""


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """Let linear layers compute with prepacked copies of their weights for a while.

    The weights must not change meanwhile. Results differ from those of the layers in their last
    bits.

    Args:
        model: Its `linear_layers` on a CPU get a `forward` of their own for the while.
    """
    layers = [layer for layer in linear_layers(model) if layer.weight.is_cpu]
    if not torch.backends.mkldnn.is_available():
        layers = []
    try:
        for layer in layers:
            packed_OI = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
            layer.forward = partial(_forward, layer.forward, packed_OI, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the layers of a model that are worth a copy, whatever the device.

    They are trained, one matrix each, and nothing has been added to them: what is frozen has no
    gradients whose memory a copy could take. All of them together are large.
    """
    found = [layer for layer in model.modules() if _is_plain(layer)]
    return found if sum(layer.weight.numel() for layer in found) >= LEAST else []


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    plain = "forward" not in vars(layer) and layer.weight.dtype in _DTYPES
    return plain and layer.weight.requires_grad


def _forward(
    plain: Callable[[Tensor], Tensor], packed_OI: Tensor, bias_O: Tensor | None, x: Tensor
) -> Any:
    """Return what the layer makes of `x` (..., I); where gradients are asked for, by itself."""
    if torch.is_grad_enabled() or x.dtype != packed_OI.dtype:
        return plain(x)
    return torch.ops.mkldnn._linear_pointwise(x, packed_OI, bias_O, "none", [], "")
