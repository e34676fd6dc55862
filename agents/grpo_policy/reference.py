"""A reference that follows the policy: a copy of it, or a moving average.

    reference <- decay * reference + (1 - decay) * policy

(TR-DPO, arXiv 2404.09656, has both and writes alpha for 1 - decay.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from grpo_policy.policy import Policy


def average_of(reference: Policy) -> dict[str, Tensor]:
    """Return the initial average, in float32, of each weight in lower precision, by name.

    A step of the average is smaller than the resolution of bf16.
    """
    weights = reference.model.named_parameters()
    half = ((name, p) for name, p in weights if p.is_floating_point() and p.dtype.itemsize < 4)
    return {name: p.detach().to(torch.float32) for name, p in half}


@torch.no_grad()
def follow(
    reference: Policy, policy: Policy, average: Mapping[str, Tensor] | None, decay: float
) -> None:
    """Move the reference to the policy.

    Args:
        reference: Changed in place.
        policy: The policy, in the same precision and sharded in the same way.
        average: The return value of `average_of`, changed in place; None if decay is 0.
        decay: Weight of the reference in the average; 0 makes it a copy of the policy.
    """
    if average is None:
        reference.load_state_dict(policy.state_dict())  # also with sharded weights
        return
    theirs = dict(policy.model.named_parameters())
    for name, own in reference.model.named_parameters():
        if name in average:
            own.copy_(average[name].lerp_(theirs[name].to(torch.float32), 1 - decay))
        elif own.is_floating_point():
            own.lerp_(theirs[name], 1 - decay)
