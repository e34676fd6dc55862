"""Attention by blocks of tokens, without a mask that has an entry for each pair of tokens.

FlexAttention (Dong et al. 2024, arXiv 2412.05496) takes a function that says which token attends to
which, and skips the blocks without any such pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils._triton import has_triton
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_LEAST_HEAD = 16
"""The smallest head size that the kernel supports."""


def by_blocks(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Return whether attention goes by blocks: on CUDA with Triton, if the kernel supports it.

    Args:
        device: The device of the model.
        dtype: The dtype of its weights; the kernel does not support float64.
        head_size: Elements of an attention head.
    """
    able = dtype.itemsize <= torch.float32.itemsize and head_size >= _LEAST_HEAD
    return device.type == "cuda" and able and has_triton()


def attends(owner_KL: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the mask function: a token attends to the prompt and its own completion before it.

    The function's arguments are the pack, the head, the query position and the key position.
    Padding attends to padding: a row of the softmax without any entry would be NaN.

    Args:
        owner_KL: The owner of each token: 0 for the prompt, the completion's number from 1, or -1
            for padding.
    """

    def mask(k: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        whose = owner_KL[k, key]
        return ((owner_KL[k, query] == whose) | (whose == 0)) & (key <= query)

    return mask


def block_mask(owner_KL: Tensor) -> BlockMask:
    """Return the block mask of `attends`, for a model that uses PyTorch's attention (sdpa)."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    packs, size = owner_KL.shape
    make = _compiled(create_block_mask) if owner_KL.is_cuda else create_block_mask
    return cast("BlockMask", make(attends(owner_KL), packs, None, size, size, owner_KL.device))


def attention(module: nn.Module, *given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """Compute attention as Transformers does with sdpa, and with FlexAttention for a block mask.

    Args:
        module: The attention layer.
        given: Queries, keys, values (K, H, L, D), and the mask, unless it is among the options.
        options: Other keyword arguments of the layer, such as `scaling`.
    """
    query, key, value, mask = in_order(given, options)
    if not isinstance(mask, BlockMask):
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    attend: Callable[..., Tensor] = flex_attention
    heads_KHLD = (_compiled(attend) if query.is_cuda else attend)(
        query,
        key,
        value,
        block_mask=mask,
        scale=options.get("scaling"),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return heads_KHLD.transpose(1, 2).contiguous(), None


def in_order(given: Sequence[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """Return queries, keys, values and the mask, which is taken from the options if it is there.

    Most models pass the mask by its place, AFMoE and Doge by its name.
    """
    return (*given, options.pop("attention_mask")) if "attention_mask" in options else (*given,)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` once for any number of tokens; uncompiled it would hold all pairs."""
    return torch.compile(function, dynamic=True)
