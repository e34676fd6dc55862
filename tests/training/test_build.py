"""The device and the precision that a configuration means on a machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState

from grpo_envs.config.schema import TrainerConfig
from grpo_envs.errors import ConfigError
from grpo_envs.training.build import make_accelerator
from grpo_envs.training.precision import compute_dtype
from grpo_policy.products import float32_products, set_float32_products


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Accelerate and PyTorch keep what one run has set for the next."""
    precision = float32_products()
    yield
    set_float32_products(precision)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_mac_says_that_its_gpu_is_not_used(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    with caplog.at_level(logging.INFO):
        assert make_accelerator(TrainerConfig()).device.type == "cpu"
    assert ("MPS" in caplog.text) == there
    with pytest.raises(ConfigError, match=r"^trainer.device=mps. Allowed: auto, cpu, cuda"):
        TrainerConfig(device="mps")


@pytest.mark.parametrize(
    ("asked", "itself", "expected", "products"),
    [
        pytest.param("auto", True, torch.bfloat16, "highest", id="a card with bf16"),
        pytest.param("auto", False, torch.float32, "high", id="a card that emulates it"),
        pytest.param("bf16", False, torch.bfloat16, "highest", id="asked for"),
        pytest.param("fp16", False, torch.float16, "highest", id="for a card without bf16"),
        pytest.param("fp32", True, torch.float32, "high", id="float32 goes as TF32"),
    ],
)
def test_a_gpu_computes_in_what_it_has_itself(
    asked: str,
    itself: bool,
    expected: torch.dtype,
    products: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a stand-in of the card: what PyTorch is asked, and what is told to it."""

    def supported(*, including_emulation: bool = True) -> bool:
        return itself or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_float32_products("highest")
    found = compute_dtype(TrainerConfig(precision=asked), torch.device("cuda"))
    assert found == expected
    assert float32_products() == products
