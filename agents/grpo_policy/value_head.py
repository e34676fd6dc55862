"""The value head: the value of a state, from the hidden state before a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from grpo_policy.masters import HEAD

if TYPE_CHECKING:
    from grpo_policy.batch import Batch
    from grpo_policy.policy import Policy


class ValueHead(nn.Module):
    """A linear map in float32, initialised to 0: before training each state has the value 0.

    Shapes: N tokens that the policy chose, hidden size D, B completions, T tokens.
    """

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        """Make a head for hidden states of size D = `size`, in float32 or higher precision."""
        super().__init__()
        self.linear = nn.Linear(size, 1, dtype=torch.promote_types(dtype, torch.float32))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_ND: Tensor, batch: Batch) -> Tensor:
        """Return the values (B, T), 0 outside the mask.

        Args:
            hidden_ND: The hidden state from which each token is predicted.
            batch: The completions.
        """
        values_N = cast("Tensor", self.linear(hidden_ND.to(self.linear.weight.dtype)))[:, 0]
        index = batch.mask_BT.nonzero(as_tuple=True)
        return values_N.new_zeros(batch.mask_BT.shape).index_put(index, values_N)


def add_value_head(policy: Policy) -> None:
    """Add a value head on the hidden states of a policy; it is trained with the policy."""
    size = policy.model.get_input_embeddings().weight.shape[1]
    policy.value_head = policy.masters.head = ValueHead(size, policy.dtype)


def value_head_weights(policy: Policy) -> dict[str, Tensor]:
    """Return the weights of a policy's value head, by their names in `Masters.trained`."""
    head = policy.value_head
    return {} if head is None else {n: p.detach() for n, p in head.named_parameters(HEAD)}


def load_value_head(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Load the value head from weights by name; other weights are ignored."""
    for name, value in value_head_weights(policy).items():
        value.copy_(weights[name])
