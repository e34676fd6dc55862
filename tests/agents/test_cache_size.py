"""Bytes of a cache: as the models' own caches hold them."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
)
from transformers.cache_utils import DynamicLayer

from grpo_policy.cache_size import cache_bytes_a_token, window_bytes

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
QWEN = Qwen3Config(**SMALL, head_dim=16, num_hidden_layers=3)
LLAMA = LlamaConfig(**SMALL, num_hidden_layers=2)  # head_dim by hidden_size / heads
GEMMA = Gemma3TextConfig(
    **SMALL,
    head_dim=16,
    num_hidden_layers=3,
    sliding_window=8,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)


def held(config: PreTrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes that a model's cache holds of one row."""
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    cache = DynamicCache(config=config)
    with torch.no_grad():
        for _ in range(tokens):
            model(input_ids=torch.ones(1, 1, dtype=torch.long), past_key_values=cache)
    pairs = [
        (layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)
    ]
    return sum(x.nbytes for pair in pairs for x in pair if x is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [QWEN, LLAMA, GEMMA], ids=["qwen", "llama", "gemma"])
def test_a_token_adds_so_many_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    grown = held(config, 30, dtype) - held(config, 20, dtype)
    assert grown == 10 * cache_bytes_a_token(config, dtype)


def test_a_window_is_counted_once() -> None:
    """A layer that slides keeps one token less than its window between two tokens."""
    one = GEMMA.num_key_value_heads * 2 * GEMMA.head_dim * 4
    assert window_bytes(GEMMA, torch.float32) == 2 * 8 * one
    fixed = held(GEMMA, 30, torch.float32) - 30 * cache_bytes_a_token(GEMMA, torch.float32)
    assert fixed == 2 * 7 * one
    assert window_bytes(QWEN, torch.float32) == 0


def test_the_figure_of_qwen3_is_what_the_documents_say() -> None:
    """112 KiB a token in bf16: 28 layers x 8 heads x (128 + 128) x 2 bytes."""
    config = Qwen3Config(
        num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128
    )
    assert cache_bytes_a_token(config, torch.bfloat16) == 112 * 1024
