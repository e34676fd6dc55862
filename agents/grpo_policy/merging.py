"""Adapters (LoRA) merged into weights: sampling and scoring read one matrix per layer.

The matrix W' = W + s B A is a copy that stays at its address and is recomputed whenever the
adapters change. W does not change: the model without its adapters is the reference. Layers that
cannot have such a copy compute base and adapters separately, as PEFT does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class Merged:
    """The forward pass of a layer with an adapter, as one matrix product."""

    def __init__(self, layer: Any) -> None:
        """Wrap a layer of PEFT; the matrix is computed by `refresh`."""
        self.layer = layer
        self.weight: Tensor | None = None
        """W', with the shape, dtype and device of the base layer's weight."""
        self._of: list[int] = []
        """The versions of A and B from which W' was computed."""

    def _adapter(self) -> tuple[Tensor, Tensor, float]:
        """Return A (R, I), B (O, R) and the scale s."""
        (name,) = self.layer.active_adapters
        down_RI, up_OR = (part[name].weight for part in (self.layer.lora_A, self.layer.lora_B))
        return down_RI, up_OR, float(self.layer.scaling[name])

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute W' from the current adapter; the sum is in float32 or higher precision."""
        down_RI, up_OR, scale = self._adapter()
        self._of = [down_RI._version, up_OR._version]
        base = self.layer.base_layer.weight
        precise = torch.promote_types(base.dtype, torch.float32)
        down_RI, up_OR = down_RI.to(precise), up_OR.to(precise)
        factors = (down_RI.T, up_OR.T) if self.layer.fan_in_fan_out else (up_OR, down_RI)
        total = torch.addmm(base.to(precise), *factors, alpha=scale)
        if self.weight is None or (self.weight.dtype, self.weight.device) != (
            base.dtype,
            base.device,
        ):
            self.weight = total.to(base.dtype)
        else:
            self.weight.copy_(total)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output (..., O) of the layer for `x` (..., I)."""
        layer = self.layer
        if layer.disable_adapters or layer.merged or args or kwargs or self.weight is None:
            return cast("Tensor", type(layer).forward(layer, x, *args, **kwargs))
        down_RI, up_OR, _ = self._adapter()
        if self._of != [down_RI._version, up_OR._version]:  # changed in place since `refresh`
            self.refresh()
        weight_OI = self.weight.T if layer.fan_in_fan_out else self.weight
        bias_O = layer.base_layer.bias
        if not torch.is_grad_enabled():
            return functional.linear(x, weight_OI, bias_O)
        found = _Linear.apply(x, weight_OI, bias_O, *self._adapter())  # type: ignore[no-untyped-call]
        return cast("Tensor", found)


class _Linear(torch.autograd.Function):
    """y = x W'^T + b, with gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, *rest: Any
    ) -> Tensor:
        down_RI, up_OR, scale = rest
        ctx.save_for_backward(x, weight_OI, down_RI, up_OR)
        ctx.scale = scale
        return functional.linear(x, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B.

        Computed through the low rank, as in PEFT: d A = s (g B)^T x and d B = s g^T (x A^T).
        """
        x, weight_OI, down_RI, up_OR = ctx.saved_tensors
        by_x, _, _, by_down, by_up, _ = ctx.needs_input_grad
        to_x = gradient @ weight_OI if by_x else None
        x_NI = x.reshape(-1, x.shape[-1]).to(down_RI.dtype)
        gradient_NO = gradient.reshape(-1, gradient.shape[-1]).to(up_OR.dtype)
        to_down = ((gradient_NO @ up_OR) * ctx.scale).T @ x_NI if by_down else None
        to_up = gradient_NO.T @ ((x_NI @ down_RI.T) * ctx.scale) if by_up else None
        return to_x, None, None, to_down, to_up, None


def merge(model: PreTrainedModel) -> None:
    """Let layers with adapters compute with a merged copy of their weights.

    The copies take as much memory as the weights of the layers that have adapters. These are not
    merged: weights that are quantised or shared with another layer, layers that are not linear,
    variants of LoRA such as DoRA, and adapters with dropout or a bias.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return
    uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for layer in model.modules():
        if _can_merge(layer, uses):
            if not isinstance(layer.__dict__.get("forward"), Merged):
                layer.forward = Merged(layer)
            cast("Merged", layer.forward).refresh()


def unmerge(model: nn.Module) -> None:
    """Let layers compute as in PEFT, and free the merged copies."""
    for merged in merged_of(model):
        del merged.layer.forward


def merged_of(model: nn.Module) -> list[Merged]:
    """Return the forward passes of the merged layers."""
    found = (layer.__dict__.get("forward") for layer in model.modules())
    return [forward for forward in found if isinstance(forward, Merged)]


def merged_weights(model: nn.Module) -> list[Tensor]:
    """Return the merged copies of weights."""
    return [merged.weight for merged in merged_of(model) if merged.weight is not None]


@contextmanager
def merged_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the context the merged weights are in `dtype`."""
    held = [(merged, merged.weight) for merged in merged_of(model)]
    try:
        for merged, weight in held:
            merged.weight = None if weight is None else weight.to(dtype)
        yield
    finally:
        for merged, weight in held:
            merged.weight = weight


def _can_merge(layer: Any, uses: Counter[int]) -> bool:
    """Return whether a module is a linear layer with one plain adapter and a weight of its own."""
    import peft  # the extra `peft`; loaded only here

    if type(layer) is not peft.tuners.lora.Linear or len(layer.active_adapters) != 1:
        return False
    base, (name,) = layer.base_layer, layer.active_adapters
    return (
        type(base) in (nn.Linear, Conv1D)
        and uses[id(base.weight)] == 1
        and not any(p.requires_grad for p in base.parameters())
        and name in layer.lora_A
        and name not in layer.lora_variant
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], nn.Identity)
    )
