"""The rewards of a conversation's turns, and the values that a group compares. Without torch.

`agent.advantage.turns` chooses the tokens whose advantage contains a turn's reward. The equations
and their sources are in agents/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import fsum
from typing import TYPE_CHECKING, Any

from grpo_envs.types import Completion, Group, Reward, compare_rewards

if TYPE_CHECKING:
    from grpo_agent.reward_config import AdvantageConfig

EPISODE, DISCOUNTED, PER_TURN = "episode", "discounted", "per_turn"
TURNS = (EPISODE, DISCOUNTED, PER_TURN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A turn that a member took, or a whole episode as one turn."""

    reward: float
    length: int
    """Tokens of the turn's answer; of the longest answer of an episode."""
    start: int
    """The position of the turn's first token in the completion."""


def turns_of(completion: Completion, reward: Reward, *, apart: bool) -> list[Taken]:
    """Return the turns of a member; their rewards add up to the member's total reward.

    The last turn gets the part of the total that no other turn has.

    Args:
        completion: The member's completion.
        reward: The reward of the whole episode.
        apart: Whether turns have advantages of their own. If not, or without turns, the episode is
            returned as one turn.
    """
    if not (apart and completion.turns):
        return [Taken(reward=reward.total, length=completion.longest_turn, start=0)]
    earlier = [turn.reward for turn in completion.turns[:-1]]
    rewards = [*earlier, reward.total - fsum(earlier)]
    places = zip(rewards, completion.turn_lengths, completion.turn_starts, strict=True)
    return [Taken(reward=r, length=length, start=start) for r, length, start in places]


def to_go(rewards: Sequence[Any], discount: float) -> list[Any]:
    """Return the reward-to-go of each turn, R_k = sum over l >= k of discount^(l-k) r_l.

    >>> to_go([0.0, 1.0, 2.0], 0.5)
    [1.0, 2.0, 2.0]
    """
    found: list[Any] = []
    for reward in reversed(rewards):
        found.append(reward + discount * found[-1] if found else reward)
    return found[::-1]


def flat_turns(group: Group, cfg: AdvantageConfig) -> list[bool]:
    """Return for each turn of a group whether all its advantages are 0.

    This is so if the values of all valid members that took the turn are equal, or fewer than two
    members took it. The value is the reward-to-go with `turns=discounted`, else the turn's reward.
    """
    apart = cfg.turns != EPISODE
    members = [
        [turn.reward for turn in turns_of(completion, reward, apart=apart)]
        for completion, reward in zip(group.completions, group.rewards, strict=True)
        if reward.valid
    ]
    if cfg.turns == DISCOUNTED:
        members = [to_go(rewards, cfg.discount) for rewards in members]
    columns = ([v for v in column if v is not None] for column in zip_longest(*members))
    return [compare_rewards(max(values), min(values)) == 0 for values in columns] or [True]
