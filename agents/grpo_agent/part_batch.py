"""The parts of a step's rewards as tensors.

Shapes: P groups of G members, N parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from torch import Tensor

from grpo_envs.types import Group


def part_names(groups: Sequence[Group]) -> list[str]:
    """Return the names of the parts of all rewards, in order."""
    rewards = (reward for group in groups for reward in group.rewards)
    return sorted({name for reward in rewards for name in reward.parts})


def collate_parts(groups: Sequence[Group], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of all rewards and their weights, both (P, G, N), sorted by name.

    A part is NaN where it does not apply or the grader failed. The default weight of a part is 1.

    Args:
        groups: The groups of a step, all of one size.
        like: Has the dtype and device of the result.
    """
    rewards = [group.rewards for group in groups]
    names = part_names(groups)
    parts = [
        [[reward.parts.get(name, nan) if reward.valid else nan for name in names] for reward in row]
        for row in rewards
    ]
    weights = [
        [[reward.weights.get(name, 1.0) for name in names] for reward in row] for row in rewards
    ]
    shape = (len(groups), len(rewards[0]), len(names))
    return like.new_tensor(parts).view(shape), like.new_tensor(weights).view(shape)
