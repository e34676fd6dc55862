"""The shapes of Qwen: as many parameters as the models have."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo_envs.config.model import QWEN3, QWEN3_5
from grpo_policy.cache_size import cache_bytes_a_token
from grpo_policy.shapes import config_of

PUBLISHED = {"0.6b": 596_049_920, "1.7b": 1_720_574_976, "4b": 4_022_468_096, "8b": 8_190_735_360}
"""Parameters that model pages and other libraries' presets state."""


def parameters(size: str) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(size))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("size", "count"), PUBLISHED.items())
def test_qwen3_has_the_parameters_that_are_published(size: str, count: int) -> None:
    assert parameters(size) == count


@pytest.mark.parametrize("size", QWEN3_5)
def test_qwen3_5_has_about_the_parameters_of_its_name(size: str) -> None:
    billions = float(size.removeprefix("3.5-").removesuffix("b"))
    assert parameters(size) / 1e9 == pytest.approx(billions, rel=0.07)


def test_every_size_has_a_shape() -> None:
    caches = [cache_bytes_a_token(config_of(size), torch.bfloat16) / 1024 for size in QWEN3]
    assert caches == [112, 112, 144, 144]
    states = [cache_bytes_a_token(config_of(size), torch.bfloat16) / 1024 for size in QWEN3_5]
    assert states == [12, 12, 32, 32]  # every fourth layer alone has keys and values
