"""Weights in four bits under adapters (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError, require_extra
from grpo_policy.gguf import is_gguf

# PEFT imports bitsandbytes if it is installed, and bitsandbytes warns about a kernel of the hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def trainable(model: nn.Module) -> None:
    """Keep the layout of quantised weights through which gradients pass.

    On CPUs with bf16 products bitsandbytes would switch to a layout for inference when the first
    token is sampled; layers below would then get no gradient.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantized(
    path: str, cfg: ModelConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantise a model: NF4, double quantisation.

    Args:
        path: The path of the model, for messages.
        cfg: Has the key `model.quantization`.
        dtype: The dtype of products, and of the layers that are not quantised.
        device: The device on which weights are quantised and stay.

    Raises:
        ConfigError: bitsandbytes is not installed, or the model is a GGUF file.
    """
    if cfg.quantization is None:
        return {}
    given = f"model.quantization={cfg.quantization}"
    if is_gguf(path):
        raise ConfigError(f"{given} of {path}. Allowed: null, for a GGUF file.")
    require_extra("quant", given, ["bitsandbytes"])
    return {
        "device_map": {"": str(device)},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    }
