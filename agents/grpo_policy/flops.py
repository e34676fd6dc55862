"""Floating-point operations of a model, independent of the implementation.

Counted as in PaLM, appendix B (Chowdhery et al. 2022, arXiv 2204.02311): each token takes 2
operations per weight forward and 4 backward; attention takes 4 L H Q per token attended to forward,
and twice that backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from grpo_envs.types import Group
from grpo_policy.cache_size import attention_layers
from grpo_policy.context import heads_of
from grpo_policy.policy import Policy

_FORWARD = 2.0
_PER_PAIR = 4.0
"""Operations per element of a query and a key: their product, and adding the weighted value."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of a configuration with the number of experts; each token passes through a few of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlops:
    """The sizes of a model that determine its number of operations."""

    weights: int
    """Weights that a token is multiplied with (N), without an untied input embedding."""
    trained: int
    """Those of these weights that need gradients."""
    attention: int
    """Attention layers x heads x head size (L H Q)."""

    @classmethod
    def of(cls, policy: Policy, *, words: bool = True) -> Self | None:
        """Return the sizes of a policy; None for a mixture of experts, where tokens differ.

        Args:
            policy: The model.
            words: Whether it computes logits; a critic with its own body does not.
        """
        model, text = policy.model, policy.model.config.get_text_config()
        if any(getattr(text, name, None) for name in _EXPERTS):
            return None
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        looked_up = {table.weight} - {head.weight} if words else {table.weight, head.weight}
        used = [p for p in model.parameters() if p not in looked_up]
        heads, size = heads_of(text)
        return cls(
            weights=sum(p.numel() for p in used),
            trained=sum(p.numel() for p in used if p.requires_grad),
            attention=len(attention_layers(model.config)) * heads * size,
        )

    def sampling(self, groups: Iterable[Group]) -> float:
        """Return the operations of sampling: each prompt once, then one token after another."""
        total = 0.0
        for prompt, answers in _lengths(groups):
            pairs = prompt * prompt / 2 + sum(a * (prompt + a / 2) for a in answers)
            total += self._forward(prompt + sum(answers), pairs)
        return total

    def update(self, groups: Iterable[Group], passes: int, *, reference: bool) -> float:
        """Return the operations of an update.

        Args:
            groups: The groups of the update. A prompt counts once per group: its rows can share it.
            passes: Forward and backward passes over all groups.
            reference: Whether a reference model scores the groups once.
        """
        share = self.trained / self.weights  # frozen weights have no gradients of their own
        backward = 1 + share
        total = 0.0
        for prompt, answers in _lengths(groups):
            tokens = prompt + sum(answers)
            pairs = prompt * prompt + sum(a * (prompt + a) for a in answers)
            forward = self._forward(tokens, pairs)
            total += forward * int(reference)
            weights = _FORWARD * self.weights * tokens
            total += passes * (forward + backward * weights + 2 * (forward - weights))
        return total

    def _forward(self, tokens: float, pairs: float) -> float:
        return _FORWARD * self.weights * tokens + _PER_PAIR * self.attention * pairs


def _lengths(groups: Iterable[Group]) -> Iterable[tuple[int, list[int]]]:
    """Yield the tokens of each prompt and of its completions."""
    for group in groups:
        yield len(group.prompt_ids), [len(c.token_ids) for c in group.completions]
