"""Gated feed-forward layers (SwiGLU, arXiv 2002.05202) that keep less for the backward pass.

A layer is down(silu(gate x) * up x). Autograd keeps four wide tensors: gate x, its SiLU, up x and
their product. This implementation keeps gate x and up x, and the backward pass recomputes the other
two: two element-wise operations beside six matrix products.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional

from grpo_policy.trial import drawn, same

_PARTS = ("gate_proj", "up_proj", "down_proj")
_ROWS, _SIZE, _INNER = 4, 6, 8
"""Rows of the trial, and the sizes of its layer (D, F)."""


def fuse_gated_layers(model: nn.Module) -> int:
    """Replace the `forward` of each SwiGLU layer; return how many were replaced.

    A kind of layer is replaced only if its values and gradients agree in a trial. Weights, their
    names and checkpoints do not change.
    """
    exact: dict[tuple[type, ...], bool] = {}
    fused = 0
    for layer in model.modules():
        if not all(_is_plain(getattr(layer, name, None)) for name in _PARTS):
            continue
        kind = type(layer), type(getattr(layer, "act_fn", None))
        if kind not in exact:
            exact[kind] = _is_exact(layer)
        if exact[kind] and "forward" not in vars(layer):
            layer.forward = partial(_forward, layer, layer.forward)
            fused += 1
    return fused


def _is_plain(part: Any) -> bool:
    """Return whether a part is a plain matrix: no adapter, no quantisation, no hook."""
    if type(part) is not nn.Linear or part.bias is not None:
        return False
    return not (part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def _is_exact(layer: nn.Module) -> bool:
    """Return whether a layer with small random weights computes `_Gated`."""
    shapes = ((_INNER, _SIZE), (_INNER, _SIZE), (_SIZE, _INNER))
    x_ND, pull_ND, *weights = drawn((_ROWS, _SIZE), (_ROWS, _SIZE), *shapes)

    def own(x: Tensor, *given: Tensor) -> tuple[Tensor]:
        names = [f"{name}.weight" for name in _PARTS]
        return (functional_call(layer, dict(zip(names, given, strict=True)), (x,)),)

    def fused(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor]:
        return (gated(functional.linear(x, gate), functional.linear(x, up), down),)

    return same(own, fused, [x_ND, *weights], [pull_ND])


def _forward(layer: Any, plain: Any, x: Tensor) -> Any:
    """Compute the layer; by its own `forward` without gradients, or if its weights have changed."""
    if not torch.is_grad_enabled() or not _is_plain(layer.down_proj):
        return plain(x)
    return gated(layer.gate_proj(x), layer.up_proj(x), layer.down_proj.weight)


def gated(gate: Tensor, up: Tensor, weight_DF: Tensor) -> Tensor:
    """Return (silu(gate) * up) of the last axis F, times the matrix (..., D)."""
    return _Gated.apply(gate, up, weight_DF)  # type: ignore[no-any-return,no-untyped-call]


class _Gated(torch.autograd.Function):
    """SwiGLU after its first two matrices."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight_DF: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight_DF)
        return functional.linear(functional.silu(gate).mul_(up), weight_DF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        gate, up, weight_DF = ctx.saved_tensors
        from_product = gradient @ weight_DF
        acted, from_weight = functional.silu(gate), None
        if ctx.needs_input_grad[2]:
            from_weight = gradient.flatten(0, -2).T @ (acted * up).flatten(0, -2)
        from_up = acted.mul_(from_product)
        from_gate = torch.ops.aten.silu_backward(from_product.mul_(up), gate)
        return from_gate, from_up, from_weight
