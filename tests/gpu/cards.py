"""What a card can do at most, by the data sheet of its name, else as it is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from tests.gpu.proof import Scale, wait

_SHEETS = {
    "NVIDIA B200": (8.0, 2250),
    "NVIDIA H200": (4.8, 989),
    "NVIDIA H100 80GB HBM3": (3.35, 989),
    "NVIDIA H100 PCIe": (2.0, 756),
    "NVIDIA A100-SXM4-80GB": (2.039, 312),
    "NVIDIA A100 80GB PCIe": (1.935, 312),
    "NVIDIA A100-SXM4-40GB": (1.555, 312),
    "NVIDIA A100-PCIE-40GB": (1.555, 312),
    "NVIDIA L40S": (0.864, 362),
    "NVIDIA A10": (0.6, 125),
    "NVIDIA L4": (0.3, 121),
    "NVIDIA GeForce RTX 4090": (1.008, 165),
}
"""Terabytes a second, and 1e12 operations a second of dense bf16 matrices, by the name that CUDA
gives a whole card: a slice of one (MIG) has a longer name, and is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device can do at most."""

    source: str
    bandwidth: float
    """Of its memory [B/s]."""
    rate: float
    """Of matrix products [operations/s]."""


def limits_of(scale: Scale) -> Limits:
    """Return the limits by name; measured ones for a device without a data sheet here."""
    sheet = _SHEETS.get(torch.cuda.get_device_name()) if scale.gpu else None
    if sheet is None:
        return measured(scale)
    terabytes, tera = sheet
    return Limits(source="data sheet", bandwidth=terabytes * 1e12, rate=tera * 1e12)


def measured(scale: Scale) -> Limits:
    """Measure a large copy, which reads and writes, and a product of square matrices."""
    size = scale.of(1 << 30, 1 << 24)
    source = torch.zeros(size, dtype=torch.uint8, device=scale.device)
    target = torch.empty_like(source)
    side = scale.of(8192, 512)
    dtype = torch.bfloat16 if scale.gpu else torch.float32
    left, right = (torch.randn(side, side, device=scale.device, dtype=dtype) for _ in range(2))
    copies, products = [], []
    for _ in range(8):
        copies.append(_seconds(scale, lambda: target.copy_(source)))
        products.append(_seconds(scale, lambda: left @ right))
    return Limits(
        source="measured",
        bandwidth=2 * size / median(copies[2:]),
        rate=2 * side**3 / median(products[2:]),
    )


def _seconds(scale: Scale, work: object) -> float:
    wait(scale)
    start = time.perf_counter()
    work()  # type: ignore[operator]
    wait(scale)
    return time.perf_counter() - start
