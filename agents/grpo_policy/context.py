"""The context length of a model, prompt and answer together, and its attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from grpo_policy.chat import NO_LIMIT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BY_LENGTH = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}
"""Rotary embeddings that change with the longest row of a batch, and the key of the length from
which they change.

Up to that length they are constant; linear, yarn and llama3 are constant at any length.
"""


def context_length_of(config: Any) -> int:
    """Return the most tokens that a model with this configuration can attend to.

    If the rotary embeddings change with the length, the limit is the length up to which they are
    constant: the scores of a row must not depend on the other rows of its batch.
    """
    text = config.get_text_config()  # the language part of a multimodal model
    limits = [getattr(text, "max_position_embeddings", None) or NO_LIMIT]
    limits += [limit for _, limit in _ropes_by_length(text)]
    return int(min(limits))


def masks_end(model: PreTrainedModel) -> bool:
    """Return whether a model keeps a mask of its whole context and cannot exceed it (GPT-Neo)."""
    length = context_length_of(model.config)
    return any(buffer.shape[-2:] == (length, length) for buffer in model.buffers())


def heads_of(config: Any) -> tuple[int, int]:
    """Return the number of attention heads and the size of each.

    A head size that the configuration states need not be hidden size / heads (Qwen3).
    """
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // heads
    return heads, int(size)


def cap_scores(model: PreTrainedModel) -> None:
    """Let a model compute the cap of its attention scores (Gemma 2, arXiv 2408.00118, section 2).

    Before Transformers 5.21 such a model gets PyTorch's attention (sdpa), which ignores the cap.
    """
    text = model.config.get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None) is not None
    if capped and getattr(text, "_attn_implementation", "") == "sdpa":
        model.set_attn_implementation("eager")


def rope_line(config: Any) -> str:
    """Return the log line that says why rope limits the context; '' if it does not."""
    text = config.get_text_config()
    kinds = dict(_ropes_by_length(text))
    if not kinds:
        return ""
    return (
        f"context: limited to {context_length_of(config):,} tokens, prompt and answer together: "
        f"beyond them rope_type={', '.join(kinds)} changes with the length, and the scores of an "
        "answer would depend on the answers beside it"
    )


def fix_rope(model: PreTrainedModel) -> None:
    """Keep the rotary embeddings at those of short texts, for batches of any length."""
    for module in model.modules():
        kind: Any = getattr(module, "rope_type", None)
        if isinstance(kind, dict):  # by the type of the layer
            module.rope_type = {layer: _constant(each) for layer, each in kind.items()}  # type: ignore[assignment]
        elif isinstance(kind, str):
            module.rope_type = _constant(kind)  # type: ignore[assignment]


def _constant(kind: str) -> str:
    """Return the rope type whose frequencies a forward pass does not recompute."""
    return "default" if kind in _BY_LENGTH else kind


def _ropes_by_length(text: Any) -> Iterator[tuple[str, int]]:
    """Yield the rope types that change with the length, and the length up to which they do not."""
    whole = getattr(text, "rope_parameters", None)
    parameters = whole if isinstance(whole, Mapping) else {}
    nested = [each for each in parameters.values() if isinstance(each, Mapping)]
    for each in [parameters, *nested]:
        kind = each.get("rope_type")
        if kind in _BY_LENGTH:
            name = _BY_LENGTH[kind]
            yield kind, int(each.get(name) or getattr(text, name, None) or NO_LIMIT)
