"""From the hidden state before a token to the value of that state."""

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
    """A linear map in float32. It is 0 at first: before training each state has the value 0.

    Shapes: N tokens that the policy chose, D sizes of a hidden state, B completions, T tokens.
    """

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        """Take hidden states of D = `size` numbers; compute in float32 at least."""
        super().__init__()
        self.linear = nn.Linear(size, 1, dtype=torch.promote_types(dtype, torch.float32))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_ND: Tensor, batch: Batch) -> Tensor:
        """Return the values (B, T), 0 outside the mask.

        Args:
            hidden_ND: What each token is predicted from: it has not seen the token.
            batch: The completions.
        """
        values_N = cast("Tensor", self.linear(hidden_ND.to(self.linear.weight.dtype)))[:, 0]
        index = batch.mask_BT.nonzero(as_tuple=True)
        return values_N.new_zeros(batch.mask_BT.shape).index_put(index, values_N)


def add_value_head(policy: Policy) -> None:
    """Give a policy values, from the hidden states of its own body, and train the head with it."""
    size = policy.model.get_input_embeddings().weight.shape[1]
    policy.value_head = policy.masters.head = ValueHead(size, policy.dtype)


def value_head_weights(policy: Policy) -> dict[str, Tensor]:
    """Return the weights of a policy's value head, by their names in `Masters.trained`."""
    head = policy.value_head
    return {} if head is None else {n: p.detach() for n, p in head.named_parameters(HEAD)}


def load_value_head(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Take over a value head from weights by name, others among them."""
    for name, value in value_head_weights(policy).items():
        value.copy_(weights[name])
