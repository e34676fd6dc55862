"""A policy of fake tensors (shapes and dtypes without values), and the memory of its passes.

The keys of a run change it as they change a real policy. Nothing is loaded and nothing is computed,
so a model of any size can be measured on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoTokenizer, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo_envs.config.model import ModelConfig
from grpo_policy.adapters import add_adapters
from grpo_policy.head import decoder_of
from grpo_policy.kept import Source, freeze_beside_text
from grpo_policy.live_memory import LiveMemory
from grpo_policy.merging import merge, merged_weights, unmerge
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers.draw import choose
from grpo_policy.scoring import score_tokens

_CAUSAL = "grpo_envs_causal"
"""Our name for PyTorch's attention without a mask. With fake tensors Transformers cannot see that
no mask is needed, and would make one with an entry for each pair of tokens."""


@contextmanager
def fake_policy(config: PreTrainedConfig, cfg: ModelConfig, dtype: torch.dtype) -> Iterator[Policy]:
    """Yield a policy of fake tensors; within the context all new tensors are fake, too.

    Its tokenizer is the bundled model's: do not tokenise text with it.

    Args:
        config: The configuration of the model.
        cfg: Attention, adapters and gradient checkpointing.
        dtype: The dtype of the weights that compute.

    Raises:
        ConfigError: adapters cannot be added; one line that says why.
    """
    AttentionInterface.register(_CAUSAL, _causal)
    attention = cfg.attention if cfg.attention == "eager" else _CAUSAL
    source = Source("", {}, config)
    with torch.device("meta"):
        model = source.auto_class.from_config(config, dtype=dtype, attn_implementation=attention)
        if source.multimodal:
            freeze_beside_text(model)
        policy = Policy(model, AutoTokenizer.from_pretrained(TINY))
        if cfg.gradient_checkpointing:
            policy.checkpoint_layers()
        if cfg.lora.rank:
            add_adapters(policy, cfg.lora, dtype)
    with FakeTensorMode():
        _make_fake(model, dtype)
        if cfg.quantization:
            unmerge(model)  # layers in four bits are not merged
        else:
            merge(model)
        yield policy


def _make_fake(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace each tensor on the meta device by a fake one: on meta no kernel is chosen.

    Trained weights get `dtype`.
    """
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                data = torch.empty(p.shape, dtype=dtype if p.requires_grad else p.dtype)
                fake = made.setdefault(p, nn.Parameter(data, requires_grad=p.requires_grad))
                module._parameters[name] = fake  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _causal(module: nn.Module, *given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    query, key, value, _ = given
    return sdpa_attention_forward(module, query, key, value, None, **options)


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes [B] of a forward and backward pass, beside weights and gradients."""

    saved: float
    """Bytes that the forward pass keeps for the backward pass."""
    extra: float
    """The most temporary bytes beside them."""


def layers_work(policy: Policy, rows: int, length: int) -> Work:
    """Return the memory of the layers for rows of tokens.

    Layers of one kind take the same memory, so at most two of each kind are measured.

    Args:
        policy: A policy of fake tensors.
        rows: Rows of a micro-batch.
        length: Tokens of each row.
    """
    kinds: dict[Any, list[nn.Module]] = {}
    for layer in _stack(policy):
        kinds.setdefault(_kind(layer), []).append(layer)
    firsts = [alike[0] for alike in kinds.values()]
    one = _pass(policy, firsts, rows, length)
    saved, extra = one.saved, one.extra
    for alike in kinds.values():
        if len(alike) > 1:
            two = _pass(policy, [*firsts, alike[1]], rows, length)
            saved += (len(alike) - 1) * (two.saved - one.saved)
            extra = max(extra, two.extra)
    return Work(saved, extra)


def _stack(policy: Policy) -> nn.ModuleList:
    """Return the layers of the decoder, one after another."""
    lists = [m for m in decoder_of(policy.model).modules() if isinstance(m, nn.ModuleList)]
    return next(m for m in lists if len(m) and isinstance(m[0], GradientCheckpointingLayer))


def _kind(layer: nn.Module) -> Any:
    """Return a key that is equal for two layers that take the same memory."""
    modules = frozenset((name, type(module)) for name, module in layer.named_modules())
    weights = frozenset((name, p.shape, p.requires_grad) for name, p in layer.named_parameters())
    return modules, weights


def _pass(policy: Policy, layers: Sequence[nn.Module], rows: int, length: int) -> Work:
    """Measure a forward and backward pass through the decoder with these layers alone."""
    decoder, stack = decoder_of(policy.model), _stack(policy)
    inputs_BLD = torch.empty(rows, length, _hidden_size(policy), dtype=policy.model.dtype)
    inputs_BLD.requires_grad_()
    live, whole = LiveMemory(_with_gradients(policy)), stack._modules
    stack._modules = {str(number): layer for number, layer in enumerate(layers)}
    try:
        with live:
            hidden_BLD = decoder(inputs_embeds=inputs_BLD, use_cache=False).last_hidden_state
            saved = live.now
            hidden_BLD.backward(torch.empty_like(hidden_BLD))
    finally:
        stack._modules = whole
    return Work(saved, live.peak - saved)


def _with_gradients(policy: Policy) -> list[Tensor]:
    """Give each trained weight a gradient, as after a micro-batch; return all that is there then.

    These are weights, gradients, buffers and merged weights.
    """
    weights = list(policy.model.parameters())
    for weight in weights:
        weight.grad = torch.empty_like(weight) if weight.requires_grad else None
    gradients = (weight.grad for weight in weights if weight.grad is not None)
    return [*weights, *gradients, *policy.model.buffers(), *merged_weights(policy.model)]


def _hidden_size(policy: Policy) -> int:
    return int(policy.model.get_input_embeddings().weight.shape[1])


def head_work(policy: Policy, tokens: int) -> float:
    """Return the bytes [B] that scoring `tokens` tokens at once takes."""
    few, more = _head_pass(policy, 2), _head_pass(policy, 4)
    return max(a + (b - a) / 2 * (tokens - 2) for a, b in zip(few, more, strict=True))


def _head_pass(policy: Policy, tokens: int) -> tuple[int, int]:
    """Return the peaks [B] of the forward and of the backward pass."""
    hidden_ND = torch.empty(tokens, _hidden_size(policy), dtype=policy.model.dtype)
    hidden_ND.requires_grad_()
    targets_N = torch.zeros(tokens, dtype=torch.long)
    live = LiveMemory(_with_gradients(policy))
    with live:
        logps_N, _ = score_tokens(hidden_ND, targets_N, policy.model.get_output_embeddings(), 1.0)
        forward, live.peak = live.peak, live.now
        logps_N.sum().backward()
    return forward, live.peak


@torch.no_grad()
def draw_bytes(policy: Policy) -> float:
    """Return the bytes [B] that one row takes while its next token is drawn."""
    vocabulary = len(policy.model.get_output_embeddings().weight)
    live = LiveMemory()
    with live:
        logits_RV = torch.empty(2, vocabulary, dtype=policy.model.dtype)
        choose(logits_RV, torch.empty(2), 1.0)
    return live.peak / 2


@torch.no_grad()
def state_bytes(policy: Policy) -> int:
    """Return the bytes [B] that a row keeps in layers whose state does not grow; 0 without any.

    For attention layers see `grpo_policy.cache_size`.
    """
    cache = DynamicCache(config=policy.model.config)
    if all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return 0
    model = policy.model
    live = LiveMemory([*model.parameters(), *model.buffers(), *merged_weights(model)])
    inputs_11 = torch.zeros(1, 1, dtype=torch.long)
    with live:
        policy.model(input_ids=inputs_11, past_key_values=cache, use_cache=True)
    attention = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    held = [t for layer in attention for t in (layer.keys, layer.values) if t is not None]
    return live.now - sum(tensor.untyped_storage().nbytes() for tensor in held)
