"""The precision of float32 products, as PyTorch has it."""

import warnings

import pytest
import torch

from grpo_policy.products import float32_products, set_float32_products


def test_the_precision_is_read_and_set_without_the_warning_of_pytorch_2_9(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def warned() -> None:
        warnings.warn("Please use the new API settings to control TF32 behavior", stacklevel=2)

    now = ["highest"]

    def read() -> str:
        warned()
        return now[0]

    def write(precision: str) -> None:
        warned()
        now[0] = precision

    monkeypatch.setattr(torch, "get_float32_matmul_precision", read)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", write)
    set_float32_products("high")  # warnings are errors in the tests
    assert float32_products() == "high"


def test_other_warnings_are_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(precision: str) -> None:
        warnings.warn(f"{precision} is not supported", stacklevel=2)

    monkeypatch.setattr(torch, "set_float32_matmul_precision", write)
    with pytest.warns(UserWarning, match="high is not supported"):
        set_float32_products("high")
