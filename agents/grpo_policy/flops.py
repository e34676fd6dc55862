"""Floating-point operations that a model itself needs, whatever an implementation does.

Counted as in PaLM, appendix B (Chowdhery et al. 2022, arXiv 2204.02311): a token takes 2 operations
a weight forward, 4 more backward, and attention 4 L H Q a token attended to, backward twice that.
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
"""Of a query and a key: a product of both, and a value that is added."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Of a configuration: how many experts there are, of which a token passes through a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlops:
    """A model's sizes that decide its operations."""

    weights: int
    """That a token is multiplied with (N): an embedding that is no output matrix is looked up."""
    trained: int
    """Of these, the ones that need gradients of their own."""
    attention: int
    """Layers of attention x heads x their size (L H Q)."""

    @classmethod
    def of(cls, policy: Policy, *, words: bool = True) -> Self | None:
        """Return those of a policy; None of a mixture of experts, where tokens differ.

        Args:
            policy: The model.
            words: Whether it gives logits; a critic's body of its own does not.
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
            groups: What is learnt from. A prompt counts once a group, as its rows can share it.
            passes: Over all of them.
            reference: Whether a reference scores them once.
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
