"""Peaks of GPUs by name: of a card that is not known there is none, rather than a wrong one."""

import pytest

from grpo_envs.runtime.peak import peak_flops


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_the_peak_is_that_of_the_card(name: str, tera: float) -> None:
    assert peak_flops(name, "bf16") == tera * 1e12


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA A10G", "NVIDIA L40", "NVIDIA A100X", "NVIDIA GeForce RTX 4090 D", "Tesla K80"),
        *("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", ""),
    ],
)
def test_another_chip_or_a_part_of_one_has_none(name: str) -> None:
    assert peak_flops(name, "bf16") is None


def test_a_card_without_bf16_has_a_peak_in_fp16_alone() -> None:
    assert peak_flops("Tesla T4", "fp16") == 65e12
    assert peak_flops("Tesla T4", "bf16") is None
    assert peak_flops("NVIDIA L4", "fp32") is None
