"""Log-probabilities and entropies of tokens, without ever holding [N, V] logits.

The head and its softmax take most of the time and memory of a small model's update. Here they
compute one chunk of tokens at a time, forward and backward. The backward pass recomputes the logits
of a chunk and computes its gradient by hand, as fused linear cross-entropies do (Liger Kernel,
arXiv 2410.10989), and with it the gradient of the entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from grpo_policy.packed_matrix import DTYPES, PackedMatrix, can_be_packed

_CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Logits held at once while scoring, by device. On a CPU, 16 MiB of float32 suit the caches. A GPU
needs matrices of a thousand rows or more to be busy; their logits take 1 GiB."""
_PACKED_NUMBERS = 1 << 20, 8 << 20
"""The size of a head that a CPU multiplies through packed copies. A smaller head stays in the
caches; two copies of a larger head would take more memory than the chunks save."""


def score_tokens(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: nn.Module,
    temperature: float,
    *,
    entropy_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (N) and entropies in nats (N) of the target tokens.

    Args:
        hidden_ND: The hidden states, inputs of the head.
        targets_N: The tokens.
        head: Any module that returns logits.
        temperature: Divides the logits.
        entropy_grad: Whether the entropies have a gradient.
    """
    size = chunk_tokens(hidden_ND.device.type, int(head.weight.shape[0]))  # type: ignore[index]
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    logps_N, entropy_N = _Scores.apply(  # type: ignore[no-untyped-call]
        (head, temperature, size, entropy_grad), hidden_ND, targets_N, *weights
    )
    return logps_N, entropy_N


def chunk_tokens(device: str, vocabulary: int) -> int:
    """Return how many tokens are scored at once on a device, for a head of `vocabulary` rows.

    >>> chunk_tokens("cpu", 151_936), chunk_tokens("cuda", 151_936)
    (27, 1766)
    """
    return max(1, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS["cpu"]) // vocabulary)


def packed_copies(weight_VD: Tensor) -> int:
    """Return how many packed copies of a head a CPU makes while it scores tokens."""
    least, most = _PACKED_NUMBERS
    return 2 if weight_VD.dtype in DTYPES and least <= weight_VD.numel() <= most else 0


class _Scores(torch.autograd.Function):
    """Scores by chunks; see the formulas at `_gradient`."""

    @staticmethod
    def forward(
        ctx: Any, how: tuple[nn.Module, float, int, bool], hidden_ND: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        targets_N, *weights = rest
        head, temperature, size, entropy_grad = how
        chunks = zip(hidden_ND.split(size), targets_N.split(size), strict=True)
        logits_of = _multiply(cast("Tensor", head.weight)) if _is_plain(head) else head
        scores = [_score(logits_of(hidden), targets, temperature) for hidden, targets in chunks]
        logps_N, entropy_N = (torch.cat(parts) for parts in zip(*scores, strict=True))
        ctx.save_for_backward(hidden_ND, targets_N, entropy_N, *weights)
        ctx.how = how
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy_N)
        return logps_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, from_logps_N: Tensor, from_entropy_N: Tensor) -> tuple[Any, ...]:
        hidden_ND, targets_N, entropy_N, *weights = ctx.saved_tensors
        head, temperature, size, entropy_grad = ctx.how
        apply = (_plain_head if _is_plain(head) else _any_head)(head)
        to_hidden_ND = torch.empty_like(hidden_ND)
        # Summed over many chunks: in bf16 most of the terms would be lost.
        to_weights = [torch.zeros_like(w, dtype=_sum_dtype(w)) for w in weights]
        for start in range(0, len(hidden_ND), size):
            part = slice(start, start + size)
            logits, pull = apply(hidden_ND[part])
            gradient = _gradient(
                logits,
                temperature,
                targets_N=targets_N[part],
                from_logps_N=from_logps_N[part],
                entropy=(entropy_N[part], from_entropy_N[part]) if entropy_grad else None,
            )
            to_hidden_ND[part] = pull(gradient, to_weights)
        found = [total.to(w.dtype) for total, w in zip(to_weights, weights, strict=True)]
        return None, to_hidden_ND, None, *found


def _sum_dtype(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


_Pull = Callable[[Tensor, list[Tensor]], Tensor]
"""Takes the gradient of logits; adds to the gradients of the weights, and returns the gradient of
the hidden states."""
_Head = Callable[[Tensor], tuple[Tensor, _Pull]]
"""Returns logits for hidden states, and the function of the backward pass."""


def _is_plain(head: nn.Module) -> bool:
    """Return whether a head is a plain matrix."""
    hooks = head._forward_hooks or head._forward_pre_hooks
    return type(head) is nn.Linear and head.bias is None and not hooks


def _plain_head(head: nn.Module) -> _Head:
    """Differentiate by hand, without a second gradient tensor of the weights."""
    weight_VD = cast("Tensor", head.weight).detach()
    logits_of, to_hidden = _multiply(weight_VD), _multiply(weight_VD.T)

    def apply(hidden_ND: Tensor) -> tuple[Tensor, _Pull]:
        def pull(gradient_NV: Tensor, to_weights: list[Tensor]) -> Tensor:
            low_NV = gradient_NV.to(weight_VD.dtype)
            for total_VD in to_weights:
                if total_VD.is_cuda and total_VD.dtype != weight_VD.dtype:
                    total_VD.add_(low_NV.T @ hidden_ND)
                else:  # on a CPU a product in float32 is faster than adding another [V, D]
                    total_VD.addmm_(gradient_NV.to(total_VD).T, hidden_ND.to(total_VD))
            return to_hidden(low_NV)

        return logits_of(hidden_ND), pull

    return apply


def _multiply(weight_OI: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what multiplies rows (N, I) by the matrix: (N, O)."""
    if can_be_packed(weight_OI) and packed_copies(weight_OI):
        return PackedMatrix(weight_OI)
    return lambda x_NI: x_NI @ weight_OI.T


def _any_head(head: nn.Module) -> _Head:
    """Differentiate by autograd, for heads with adapters and the like."""
    weights = [weight for weight in head.parameters() if weight.requires_grad]

    def apply(hidden_ND: Tensor) -> tuple[Tensor, _Pull]:
        with torch.enable_grad():
            hidden = hidden_ND.detach().requires_grad_()
            logits = head(hidden)

        def pull(gradient_NV: Tensor, to_weights: list[Tensor]) -> Tensor:
            low_NV = gradient_NV.to(logits.dtype)
            to_hidden_ND, *found = torch.autograd.grad(logits, [hidden, *weights], low_NV)
            for total, more in zip(to_weights, found, strict=True):
                total.add_(more)
            return to_hidden_ND

        return logits.detach(), pull

    return apply


def _precise(logits_NV: Tensor, temperature: float) -> Tensor:
    """Return the logits divided by the temperature, never in bf16; may share memory with them."""
    precise_NV = logits_NV.to(_sum_dtype(logits_NV))
    return precise_NV if temperature == 1 else precise_NV / temperature


def _score(logits_NV: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy, each (N)."""
    logps_NV = _precise(logits_NV, temperature).log_softmax(dim=-1)
    del logits_NV
    chosen_N = logps_NV.gather(1, targets_N[:, None])[:, 0]
    return chosen_N, -logps_NV.exp().mul_(logps_NV).sum(dim=-1)


def _gradient(
    logits_NV: Tensor,
    temperature: float,
    *,
    targets_N: Tensor,
    from_logps_N: Tensor,
    entropy: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return the gradient of the logits z.

    With p = softmax(z / T) and H its entropy, d logp_y / d z = (onehot_y - p) / T and
    d H / d z = -p (log p + H) / T.
    """
    logits_NV = _precise(logits_NV, temperature)
    if entropy is None:
        gradient_NV = logits_NV.softmax(dim=-1).mul_(-from_logps_N[:, None])
    else:
        entropy_N, from_entropy_N = entropy
        logps_NV = logits_NV.log_softmax(dim=-1)
        away_NV = (logps_NV + entropy_N[:, None]) * from_entropy_N[:, None]
        gradient_NV = -logps_NV.exp_() * (from_logps_N[:, None] + away_NV)
    gradient_NV.scatter_add_(1, targets_N[:, None], from_logps_N[:, None])
    return gradient_NV if temperature == 1 else gradient_NV.div_(temperature)
