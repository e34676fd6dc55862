"""The shapes of the models that `model.size` names, as in their config.json on the hub.

They suffice for `grpo_envs.plan`, without a network. Nothing is loaded by them.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, Qwen3_5TextConfig, Qwen3Config

from grpo_envs.config.model import QWEN3, QWEN3_5

_QWEN3: dict[str, Any] = {
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
}
_QWEN3_5: dict[str, Any] = {
    "vocab_size": 248_320,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 262_144,
}
_COLUMNS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES = {
    "0.6b": (1024, 3072, 28, 16),
    "1.7b": (2048, 6144, 28, 16),
    "4b": (2560, 9728, 36, 32),
    "8b": (4096, 12_288, 36, 32),
    "3.5-0.8b": (1024, 3584, 24, 8),
    "3.5-2b": (2048, 6144, 24, 8),
    "3.5-4b": (2560, 9216, 32, 16),
    "3.5-9b": (4096, 12_288, 32, 16),
}
_UNTIED = ("8b", "3.5-9b")
"""Sizes with a separate output matrix; the others use the embedding."""


def config_of(size: str) -> PreTrainedConfig:
    """Return the configuration of a size of Qwen3, or of the text model of Qwen3.5.

    Args:
        size: A value of `model.size`, such as `4b` or `3.5-4b`.

    Raises:
        KeyError: there is no such size.
    """
    own: dict[str, Any] = dict(zip(_COLUMNS, _SIZES[size], strict=True))
    own["tie_word_embeddings"] = size not in _UNTIED
    if size in QWEN3:
        return Qwen3Config(**_QWEN3, **own)
    assert size in QWEN3_5
    wide = own["num_attention_heads"] == 16  # the two larger ones have twice the heads
    own["num_key_value_heads"] = 4 if wide else 2
    own["linear_num_value_heads"] = 32 if wide else 16
    return Qwen3_5TextConfig(**_QWEN3_5, **own)
