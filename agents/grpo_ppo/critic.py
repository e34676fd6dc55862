"""A critic with its own body: the policy's network with a value head instead of logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from grpo_policy.batch import Batch
from grpo_policy.merging import unmerge
from grpo_policy.parts import load_whole
from grpo_policy.policy import Policy
from grpo_policy.value_head import add_value_head, load_value_head


class Critic(Policy):
    """A policy whose `forward` returns values instead of scores."""

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """Return a critic with a copy of the policy's trained weights.

        Weights that are not trained, such as those under adapters, are shared by both. The output
        matrix is dropped, unless it is tied to the embedding.

        Args:
            policy: The policy, on the CPU, as the framework passes it to an agent.
        """
        dtype = policy.dtype
        same = [policy.tokenizer, *(p for p in policy.model.parameters() if not p.requires_grad)]
        with policy.masters.in_place():
            model = copy.deepcopy(policy.model, {id(each): each for each in same})
        model.set_output_embeddings(nn.Identity())
        critic = cls(model, policy.tokenizer, policy.template_variables)
        critic.share_prompts = policy.share_prompts
        critic.masters.merges = False  # the critic never samples, so it needs no merged copy
        unmerge(model)
        if dtype.itemsize < torch.float32.itemsize:
            critic.compute_in(dtype)
        add_value_head(critic)
        return critic

    def forward(
        self, batch: Batch, temperature: float, *, entropy_grad: bool = False
    ) -> tuple[Tensor, ...]:
        """Return zeros (B, T) for log-probabilities and entropies, and the values (B, T)."""
        assert self.value_head is not None
        values_BT = self.value_head(self.hidden(batch), batch)
        zeros_BT = torch.zeros_like(values_BT)
        return zeros_BT, zeros_BT, values_BT

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load the return value of `trained_weights`."""
        with self.masters.in_place():
            load_whole(self.model, weights, strict=False)
        self.masters.publish()
        load_value_head(self, weights)
