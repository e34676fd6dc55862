"""RMSNorm (Zhang and Sennrich, arXiv 1910.07467) in fewer passes over memory, on a CPU.

A small model spends its time on passes over its activations. Autograd makes about twenty passes for
a norm, this implementation six. A layer is replaced only if its values and gradients agree in a
trial.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from grpo_policy.trial import drawn, same

_TRIED = 4
"""Rows of the trial."""


def fuse_norms(model: nn.Module) -> int:
    """Replace the `forward` of each RMSNorm that equals `normalise` to rounding; return how many.

    Weights, their names and checkpoints do not change. On another device and in half precision a
    layer computes as before.
    """
    exact: dict[tuple[Any, ...], bool] = {}
    fused = 0
    for layer in model.modules():
        weight, eps = getattr(layer, "weight", None), _epsilon(layer)
        if eps is None or not isinstance(weight, Tensor) or not weight.is_cpu:
            continue
        kind = type(layer), weight.shape, eps
        if kind not in exact:
            exact[kind] = weight.dim() == 1 and _is_exact(layer, len(weight), eps)
        if exact[kind]:
            layer.forward = partial(_forward, layer, layer.forward, eps)
            fused += 1
    return fused


def _epsilon(layer: nn.Module) -> float | None:
    """Return the epsilon of an RMSNorm; None for other layers and for replaced ones."""
    if not type(layer).__name__.endswith("RMSNorm") or "forward" in vars(layer):
        return None
    found = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    return found if isinstance(found, float) else None


def _is_exact(layer: nn.Module, size: int, eps: float) -> bool:
    """Return whether `normalise` gives the values and gradients of a layer, for random weights.

    A layer that adds 1 to its weights (Gemma) differs by about 1.
    """
    weight_D, x_ND, pull_ND = drawn((size,), (_TRIED, size), (_TRIED, size))

    def own(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (functional_call(layer, {"weight": weight}, (x,)),)

    def fused(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (normalise(x, weight, eps),)

    return same(own, fused, [x_ND, weight_D], [pull_ND])


def _forward(layer: nn.Module, plain: Any, eps: float, *given: Any, **options: Any) -> Any:
    """Compute `normalise`, or the layer's own `forward` for other devices, dtypes and arguments."""
    weight: Any = layer.weight
    x: Any = given[0] if len(given) == 1 and not options else None
    # No `match`: torch 2.9 cannot trace one.
    if not isinstance(x, Tensor) or not x.is_cpu or x.dtype != weight.dtype:
        return plain(*given, **options)
    if x.dtype.itemsize < torch.float32.itemsize:
        return plain(*given, **options)
    return normalise(x, weight, eps)


def normalise(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight (..., D), with the mean over the last axis."""
    if torch.is_grad_enabled():
        return _Normalised.apply(x, weight_D, eps)  # type: ignore[no-any-return,no-untyped-call]
    return x.mul(_scale(x, eps)).mul_(weight_D)


def _scale(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + eps) of each row (..., 1)."""
    squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return squares.div_(x.shape[-1]).add_(eps).rsqrt_()


class _Normalised(torch.autograd.Function):
    """RMSNorm, with LayerNorm's kernel for the backward pass.

    With n = x s, the scale s, and h = g * weight for a gradient g: dx = s (h - n mean(h n)).
    LayerNorm's gradient for mean 0 and deviation 1 / s is dx - s mean(h), so s mean(h) is added.
    The gradient of the weight is the same in both.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, scale, weight_D)
        return x.mul(scale).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, scale, weight_D = ctx.saved_tensors
        size, (to_x, to_weight, _) = len(weight_D), ctx.needs_input_grad
        from_x, from_weight, _ = torch.ops.aten.native_layer_norm_backward(
            *(gradient, x, [size], torch.zeros_like(scale), scale, weight_D, None),
            [to_x, to_weight, False],
        )
        if to_x:
            from_x.addcmul_(scale, (gradient @ weight_D)[..., None], value=1 / size)
        return from_x if to_x else None, from_weight if to_weight else None, None
