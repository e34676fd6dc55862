"""Comparing two implementations of a layer: values and gradients for random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TOLERANCE = 1e-4
"""The largest difference of values and gradients, which are about 1."""

Run = Callable[..., Sequence[Tensor]]
"""A function from tensors to tensors."""


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Return random tensors of these shapes on the CPU, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, device="cpu") for shape in shapes]


def same(own: Run, other: Run, given: Sequence[Tensor], pulls: Sequence[Tensor]) -> bool:
    """Return whether two functions have the same values and gradients; False if `own` raises."""
    with torch.enable_grad():
        try:
            expected = _tried(own, given, pulls)
        except Exception:  # noqa: BLE001  a layer can raise anything; it is not replaced then
            return False
        pairs = zip(expected, _tried(other, given, pulls), strict=True)
        return all(
            a.shape == b.shape and bool(((a - b).abs() < _TOLERANCE).all()) for a, b in pairs
        )


def _tried(run: Run, given: Sequence[Tensor], pulls: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    values = list(run(*leaves))
    return [*values, *torch.autograd.grad(values, leaves, pulls)]
