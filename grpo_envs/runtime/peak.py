"""The peak rate of matrix multiplication of GPUs, by their names."""

from __future__ import annotations

_TERA = 1e12
_PEAKS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("B200",), 2250.0),
    (("H200", "NVL"), 835.0),
    (("H200",), 989.0),
    (("H100", "NVL"), 835.0),
    (("H100", "PCIe"), 756.0),
    (("H100",), 989.0),
    (("A100",), 312.0),
    (("A10",), 125.0),
    (("L40S",), 362.0),
    (("L4",), 121.0),
    (("RTX", "4090"), 165.0),
    (("T4",), 65.0),
)
"""Words of a name, and TFLOP/s of dense bf16 or fp16 with float32 accumulation, from NVIDIA's data
sheets (whose numbers with `sparsity` are twice as large). The first row whose words are all in the
name applies."""
_FP16_ALONE = ("T4",)
"""Cards without bf16 multiplication."""
_OTHERS = ("MIG", "D", "Laptop", "Max-Q")
"""Words in the names of other chips, or of partitions of a chip."""


def peak_flops(name: str, precision: str) -> float | None:
    """Return a GPU's floating-point operations per second; None if they are not known.

    Args:
        name: PyTorch's name of the GPU, such as `NVIDIA H100 80GB HBM3`.
        precision: bf16, fp16 or fp32; the result for fp32 is None, because TF32 is faster on some
            cards.

    >>> peak_flops("NVIDIA A100-SXM4-80GB", "bf16"), peak_flops("NVIDIA A100X", "bf16")
    (312000000000000.0, None)
    """
    words = set(name.replace("-", " ").split()) | {name.rpartition(" ")[2]}
    if precision == "fp32" or words & {*_OTHERS}:
        return None
    for wanted, peak in _PEAKS:
        if words >= {*wanted}:
            able = precision == "fp16" or wanted[0] not in _FP16_ALONE
            return peak * _TERA if able else None
    return None
