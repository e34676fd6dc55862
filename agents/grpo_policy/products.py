"""PyTorch's precision of float32 matrix products: TF32 or not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def float32_products() -> str:
    """Return the precision: highest, high or medium (`torch.set_float32_matmul_precision`)."""
    with _quietly():
        return torch.get_float32_matmul_precision()


def set_float32_products(precision: str) -> None:
    """Set the precision: highest, high or medium."""
    with _quietly():
        torch.set_float32_matmul_precision(precision)


@contextmanager
def _quietly() -> Iterator[None]:
    """Within the context PyTorch 2.9 does not recommend its newer settings.

    They are not used: PyTorch raises an error if one kind of setting was written and the other is
    read, and other code reads this one. Later releases do not warn.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings", UserWarning)
        yield
