"""Rewards of the turns of a conversation, and what of them is compared. No torch here.

`agent.advantage.turns` says which tokens a turn's reward reaches; the equations and where they
come from are in agents/README.md.
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
    """A turn that a member took; the whole episode where turns are not told apart."""

    reward: float
    length: int
    """Tokens of its answer; of the longest answer of an episode."""
    start: int
    """The place of its first token in the completion."""


def turns_of(completion: Completion, reward: Reward, *, apart: bool) -> list[Taken]:
    """Return the turns of a member, whose rewards add up to its total.

    What a total has beside the rewards of the turns is the last turn's.

    Args:
        completion: What was sampled.
        reward: Of the whole episode.
        apart: Whether turns are told apart; else, and of a single answer, the episode is one turn.
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
    """Return of each turn of a group whether there is nothing to compare in it.

    So it is where the values of all valid members that took the turn are equal, or fewer than two
    took it. A value is the reward-to-go with `turns=discounted`, else the turn's reward.
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
