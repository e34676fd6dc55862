"""How large a cache is, by the configuration of a model: no weights are needed."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from grpo_policy.context import heads_of


def cache_bytes_a_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes [B] that a token adds to the cache of one row.

    That is (size of a key + size of a value) x heads of keys and values, over the layers that keep
    every token. Layers that slide keep a window and layers with a state keep the state: neither
    grows with the tokens, so neither counts here; see `window_bytes` for the first.

    Args:
        config: Of a model, or of one that contains a language model.
        dtype: Of the cache.
    """
    growing = sum(not getattr(layer, "is_sliding", False) for layer in attention_layers(config))
    return growing * _layer_bytes(config, dtype)


def window_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes [B] of one row in the layers that slide, with their windows full."""
    slide = [layer for layer in attention_layers(config) if getattr(layer, "is_sliding", False)]
    held = sum(int(getattr(layer, "sliding_window", 0)) for layer in slide)
    return held * _layer_bytes(config, dtype)


def attention_layers(config: PreTrainedConfig) -> list[DynamicLayer]:
    """Return the layers with keys and values; those that share another's have none of their own."""
    cache = DynamicCache(config=config)
    if not cache.layers:  # a configuration that names no layers' kinds: all of them are alike
        return [DynamicLayer()] * int(_text(config).num_hidden_layers)
    return [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]


def _layer_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    text = _text(config)
    queries, size = heads_of(text)
    heads = int(getattr(text, "num_key_value_heads", None) or queries)
    key = int(getattr(text, "qk_head_dim", None) or size)
    value = int(getattr(text, "v_head_dim", None) or size)
    return heads * (key + value) * dtype.itemsize


def _text(config: PreTrainedConfig) -> PreTrainedConfig:
    return config.get_text_config(decoder=True)
