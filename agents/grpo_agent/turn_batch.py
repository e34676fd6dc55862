"""The turns of a step's completions as tensors.

Shapes: B completions of at most K turns, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_agent.turns import Taken, turns_of
from grpo_envs.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnBatch:
    """The turns of B members; K is 1 where a whole episode has one advantage."""

    rewards_BK: Tensor
    """Reward of each turn; 0 for a turn that the member did not take."""
    lengths_BK: Tensor
    """Tokens of each turn's answer; of the longest answer where K is 1."""
    taken_BK: Tensor
    """True where a member took the turn."""
    turn_BT: Tensor
    """The number of the turn that a token belongs to, from 0. The environment's reply belongs to
    the turn before it."""

    @property
    def at_KBT(self) -> Tensor:
        """True on the tokens of each turn."""
        return self.turn_BT == torch.arange(
            self.rewards_BK.shape[1], device=self.turn_BT.device
        ).view(-1, 1, 1)

    @property
    def last_BK(self) -> Tensor:
        """True on each member's last turn."""
        places_K = torch.arange(1, self.taken_BK.shape[1] + 1, device=self.taken_BK.device)
        return places_K == self.taken_BK.sum(dim=1, keepdim=True)


def collate_turns(groups: Sequence[Group], tokens: int, like: Tensor, *, apart: bool) -> TurnBatch:
    """Put the turns of all members of `groups` into tensors, in order.

    Args:
        groups: The groups of a step.
        tokens: T.
        like: Has the dtype of rewards and the device.
        apart: Whether turns have advantages of their own.
    """
    members = [
        turns_of(completion, reward, apart=apart)
        for group in groups
        for completion, reward in zip(group.completions, group.rewards, strict=True)
    ]
    most = max(map(len, members))
    none = Taken(reward=0.0, length=0, start=tokens)
    padded = [[*turns, *[none] * (most - len(turns))] for turns in members]
    starts_BK = torch.tensor([[t.start for t in row] for row in padded], device=like.device)
    places_T = torch.arange(tokens, device=like.device)
    lengths = [[t.length for t in row] for row in padded]
    return TurnBatch(
        rewards_BK=like.new_tensor([[t.reward for t in row] for row in padded]),
        lengths_BK=torch.tensor(lengths, device=like.device),
        taken_BK=torch.tensor([[t is not none for t in row] for row in padded], device=like.device),
        turn_BT=(places_T >= starts_BK[..., None]).sum(dim=1) - 1,
    )
