"""Products with a matrix in the memory layout of oneDNN, on a CPU.

oneDNN reads a matrix fastest if it was reordered into oneDNN's own layout (prepacked). With few
rows on the other side, most of a product's time goes into reading the matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

DTYPES = (torch.float32, torch.bfloat16)
"""Of matrices that can be packed."""


def can_be_packed(weight_OI: Tensor) -> bool:
    """Return whether this machine multiplies by a packed copy of the matrix."""
    here = weight_OI.is_cpu and not isinstance(weight_OI.detach(), FakeTensor)
    return here and weight_OI.dtype in DTYPES and torch.backends.mkldnn.is_available()


class PackedMatrix:
    """A packed copy of a matrix, as large as the matrix. It does not follow changes of it."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.dtype = weight_OI.dtype
        self._packed_OI = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach())

    def __call__(self, x: Tensor, bias_O: Tensor | None = None) -> Any:
        """Return the products (..., O) of the vectors `x` (..., I), without a gradient."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed_OI, bias_O, "none", [], "")
