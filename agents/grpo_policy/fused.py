"""Layers of a model computed in fewer passes over memory, on a CPU.

A small model's time goes into passes over its activations. RMSNorm (Zhang and Sennrich, arXiv
1910.07467) takes most of them: autograd makes about twenty of it, here it is six. Rotary embeddings
(Su et al., arXiv 2104.09864) come next: eleven, here four. Each is replaced only after a trial of
its values and gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

_TOLERANCE = 1e-4
"""Of a trial's values and gradients, which are about 1. A layer that adds 1 to its weights (Gemma)
is off by about 1."""
_TRIED = 4
"""Rows of the trial."""
_ROTARY = "apply_rotary_pos_emb"
"""What the modules of Transformers' models call it."""


def fuse(model: nn.Module) -> None:
    """Compute a model's RMSNorm and rotary embeddings by `normalise` and `rotate`.

    Where a trial shows that they are the same to rounding. Weights, their names and checkpoints
    stay what they are. On another device, or where autocast gives a layer another type than its
    weights', the model computes as before.
    """
    fuse_norms(model)
    fuse_rotary(model)


def fuse_norms(model: nn.Module) -> int:
    """Replace the `forward` of each RMSNorm that is `normalise` to rounding; return how many."""
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
    """Return the epsilon of an RMSNorm; None of any other layer, and of one that is replaced."""
    if not type(layer).__name__.endswith("RMSNorm") or "forward" in vars(layer):
        return None
    found = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    return found if isinstance(found, float) else None


def _is_exact(layer: nn.Module, size: int, eps: float) -> bool:
    """Return whether `normalise` gives the values and gradients of a layer, for random weights."""
    weight_D, x_ND, pull_ND = _drawn((size,), (_TRIED, size), (_TRIED, size))

    def own(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (functional_call(layer, {"weight": weight}, (x,)),)

    def fused(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (normalise(x, weight, eps),)

    return _same(own, fused, [x_ND, weight_D], [pull_ND])


def _drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


_Run = Callable[..., Sequence[Tensor]]


def _same(own: _Run, fused: _Run, given: Sequence[Tensor], pulls: Sequence[Tensor]) -> bool:
    """Return whether two functions have the same values and gradients; the first may raise."""
    with torch.enable_grad():
        try:
            expected = _tried(own, given, pulls)
        except Exception:  # noqa: BLE001  of somebody's layer, which stays as it is
            return False
        pairs = zip(expected, _tried(fused, given, pulls), strict=True)
        return all(
            a.shape == b.shape and bool(((a - b).abs() < _TOLERANCE).all()) for a, b in pairs
        )


def _tried(run: _Run, given: Sequence[Tensor], pulls: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    values = list(run(*leaves))
    return [*values, *torch.autograd.grad(values, leaves, pulls)]


def _forward(layer: nn.Module, plain: Any, eps: float, *given: Any, **options: Any) -> Any:
    """Normalise, or be the layer's own `forward` where that is not the same."""
    weight: Any = layer.weight
    match given:
        case [Tensor(is_cpu=True) as x] if x.dtype == weight.dtype and not options:
            if x.dtype.itemsize >= torch.float32.itemsize:
                return normalise(x, weight, eps)
    return plain(*given, **options)


def normalise(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean of its squares + eps) * weight (..., D), means over the last axis."""
    if torch.is_grad_enabled():
        return _Normalised.apply(x, weight_D, eps)  # type: ignore[no-any-return,no-untyped-call]
    return x.mul(_scale(x, eps)).mul_(weight_D)


def _scale(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(mean of the squares + eps) of each row (..., 1)."""
    squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return squares.div_(x.shape[-1]).add_(eps).rsqrt_()


class _Normalised(torch.autograd.Function):
    """RMSNorm, with LayerNorm's kernel for the way back.

    With n = x s, s the scale, and h = g * weight for a gradient g, dx = s (h - n mean(h n)).
    LayerNorm's gradient for a mean of 0 and a deviation of 1 / s is that less s mean(h), which is
    added; the gradient of the weight is the same in both.
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


def fuse_rotary(model: nn.Module) -> int:
    """Replace the functions that rotate queries and keys as `rotate` does; return how many.

    A model's layers find the function in their Python module, which all models of the class share.
    """
    fused = 0
    for name in {type(layer).__module__ for layer in model.modules()}:
        module = sys.modules[name]
        plain = getattr(module, _ROTARY, None)
        if plain is None or isinstance(plain, partial):  # none, or replaced already
            continue
        if _rotates(plain):
            setattr(module, _ROTARY, partial(_rotary, plain))
            fused += 1
    return fused


def _rotates(plain: Callable[..., Any]) -> bool:
    """Return whether a function gives the values and gradients of `rotate`."""
    shapes = (1, 2, _TRIED, 8), (1, 1, _TRIED, 8)  # queries have more heads than keys
    *given, cos, sin = _drawn(*shapes, (1, _TRIED, 8), (1, _TRIED, 8))

    def own(query: Tensor, key: Tensor) -> Sequence[Tensor]:
        rotated: Sequence[Tensor] = plain(query, key, cos, sin)
        return rotated

    def fused(query: Tensor, key: Tensor) -> Sequence[Tensor]:
        return rotate(query, cos[:, None], sin[:, None]), rotate(key, cos[:, None], sin[:, None])

    return _same(own, fused, given, _drawn(*shapes))


def _rotary(plain: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Rotate queries and keys, or call the model's own function where that is not the same."""
    match given:
        case [Tensor(is_cpu=True) as query, Tensor() as key, Tensor() as cos, Tensor() as sin] if (
            not options
            and query.dtype == key.dtype == cos.dtype
            and query.shape[-1] == key.shape[-1] == cos.shape[-1]
        ):
            cos, sin = cos[:, None], sin[:, None]
            return rotate(query, cos, sin), rotate(key, cos, sin)
    return plain(*given, **options)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x cos + (-x2, x1) sin (..., D), where x1 and x2 are the halves of the last axis.

    `cos` and `sin` (..., D) carry no gradient; they are broadcast over the heads.
    """
    if torch.is_grad_enabled():
        return _Rotated.apply(x, cos, sin)  # type: ignore[no-any-return,no-untyped-call]
    return _turn(x, cos, *sin.chunk(2, dim=-1), sign=-1)


def _turn(x: Tensor, cos: Tensor, first: Tensor, second: Tensor, *, sign: int) -> Tensor:
    """Return x cos + (sign x2 first, -sign x1 second)."""
    turned = x * cos
    (low, high), (to_low, to_high) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    to_low.addcmul_(high, first, value=sign)
    to_high.addcmul_(low, second, value=-sign)
    return turned


class _Rotated(torch.autograd.Function):
    """Rotation, and the rotation back of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, *sin.chunk(2, dim=-1), sign=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, dim=-1)
        return _turn(gradient, cos, second, first, sign=1), None, None
