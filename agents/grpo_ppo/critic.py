"""A critic with a body of its own: the policy's network, with values in the place of words."""

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
    """Gives values and scores no words; everything else is as in a policy."""

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """Return a critic that begins as a copy of what the policy trains.

        Weights that are not trained, those beneath adapters, are the same objects in both. The
        matrix that makes words is left out where it is not the embedding, too.

        Args:
            policy: Still on the CPU, as the framework hands it to an agent.
        """
        dtype = policy.dtype
        same = [policy.tokenizer, *(p for p in policy.model.parameters() if not p.requires_grad)]
        with policy.masters.in_place():
            model = copy.deepcopy(policy.model, {id(each): each for each in same})
        model.set_output_embeddings(nn.Identity())
        critic = cls(model, policy.tokenizer, policy.template_variables)
        critic.share_prompts = policy.share_prompts
        critic.masters.merges = False  # it never samples, and its base has no second copy
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
        """Take over what `trained_weights` returned, to the bit."""
        with self.masters.in_place():
            load_whole(self.model, weights, strict=False)
        self.masters.publish()
        load_value_head(self, weights)
