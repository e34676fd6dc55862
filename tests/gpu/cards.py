"""What a card can do at most, by the data sheet of its name, else as it is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from grpo_envs.runtime.peak import peak_flops
from tests.gpu.proof import Scale, wait

_BANDWIDTHS = {
    "NVIDIA B200": 8.0,
    "NVIDIA H200": 4.8,
    "NVIDIA H100 80GB HBM3": 3.35,
    "NVIDIA H100 PCIe": 2.0,
    "NVIDIA A100-SXM4-80GB": 2.039,
    "NVIDIA A100 80GB PCIe": 1.935,
    "NVIDIA A100-SXM4-40GB": 1.555,
    "NVIDIA A100-PCIE-40GB": 1.555,
    "NVIDIA L40S": 0.864,
    "NVIDIA A10": 0.6,
    "NVIDIA L4": 0.3,
    "NVIDIA GeForce RTX 4090": 1.008,
}
"""Terabytes a second by the data sheets, by the name that CUDA gives a whole card: a slice of one
(MIG) has a longer name, and is measured."""


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
    name = torch.cuda.get_device_name() if scale.gpu else ""
    terabytes, rate = _BANDWIDTHS.get(name), peak_flops(name, "bf16")
    if terabytes is None or rate is None:
        return measured(scale)
    return Limits(source="data sheet", bandwidth=terabytes * 1e12, rate=rate)


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
