"""The size of a key-value cache, from the configuration of a model, without its weights."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from grpo_policy.context import heads_of


def cache_bytes_a_token(
    config: PreTrainedConfig, dtype: torch.dtype, *, whole: bool = False
) -> int:
    """Return the bytes [B] that a token adds to the cache of one row.

    This is (size of a key + size of a value) x key-value heads, summed over the layers that keep
    every token. Layers with a sliding window keep the window (see `window_bytes`) and layers with a
    state keep the state; neither grows with the tokens, so neither counts here.

    Args:
        config: The configuration of a language model, or of a model that contains one.
        dtype: The dtype of the cache.
        whole: Whether layers with a window keep every token, too (`Caching.whole`).
    """
    layers = attention_layers(config)
    growing = sum(whole or not getattr(layer, "is_sliding", False) for layer in layers)
    return growing * _layer_bytes(config, dtype)


def window_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes [B] of one row in the layers with a sliding window, when it is full."""
    slide = [layer for layer in attention_layers(config) if getattr(layer, "is_sliding", False)]
    held = sum(int(getattr(layer, "sliding_window", 0)) for layer in slide)
    return held * _layer_bytes(config, dtype)


def attention_layers(config: PreTrainedConfig) -> list[DynamicLayer]:
    """Return the layers with keys and values of their own, without those that share another's."""
    cache = DynamicCache(config=config)
    if not cache.layers:  # the configuration does not name the kinds of layers: all are alike
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
