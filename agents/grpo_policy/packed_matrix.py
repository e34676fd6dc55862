"""Matrix products on a CPU with a matrix in oneDNN's own memory layout ("prepacked").

oneDNN reads a matrix fastest in this layout. If the other factor has few rows, reading the matrix
takes most of a product's time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

DTYPES = (torch.float32, torch.bfloat16)
"""The dtypes of matrices that can be packed."""


def can_be_packed(weight_OI: Tensor) -> bool:
    """Return whether `PackedMatrix` accepts the matrix (O outputs, I inputs) on this machine."""
    here = weight_OI.is_cpu and not isinstance(weight_OI.detach(), FakeTensor)
    return here and weight_OI.dtype in DTYPES and torch.backends.mkldnn.is_available()


class PackedMatrix:
    """A packed copy of a matrix (O, I), of the same size; later changes do not reach the copy."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.dtype = weight_OI.dtype
        self._packed_OI = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach())

    def __call__(self, x: Tensor, bias_O: Tensor | None = None) -> Any:
        """Return `x` (..., I) times the transposed matrix, plus the bias: (..., O), no gradient."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed_OI, bias_O, "none", [], "")
