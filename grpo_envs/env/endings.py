"""Reward functions that need a whole episode, or all episodes of a group.

A function that needs one episode only (`Function.early`: judges, reward models) is called in the
background as soon as the episode ends, while other completions are still sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from grpo_envs.env.rewards import merged
from grpo_envs.env.scored import Played
from grpo_envs.env.text import TextEnv
from grpo_envs.types import Reward


@dataclass(slots=True)
class Endings:
    """Calls these functions for a vector environment and keeps the rewards of its members."""

    env: TextEnv
    _early: dict[int, Reward] = field(default_factory=dict)
    """Rewards from early functions by member, until the member's group ends."""

    def ask(self, played: Sequence[Played]) -> list[Reward]:
        """Return the early functions' reward of each episode in `played`; safe in any thread."""
        return [earned for (earned,) in self.env.group_rewards(played, early=True)]

    def keep(self, earned: Mapping[int, Reward]) -> None:
        """Keep rewards from early functions, by member."""
        self._early.update(earned)

    def forget(self, members: Iterable[int]) -> None:
        """Forget the rewards of members that begin a new episode."""
        for i in members:
            self._early.pop(i, None)

    def of_groups(
        self, members: Sequence[Sequence[int]], played: Sequence[Played]
    ) -> dict[int, Reward]:
        """Return the rewards from all these functions for the members of groups that have ended.

        Early functions are called only for episodes that they have not scored yet.

        Args:
            members: The numbers of each group's members.
            played: The same groups' problem, episodes and rewards.
        """
        pairs = list(zip(members, played, strict=True))
        rest = {
            i: Played(group.problem, [turns], [reward])
            for own, group in pairs
            for i, turns, reward in zip(own, group.episodes, group.rewards, strict=True)
            if i not in self._early
        }
        self.keep(dict(zip(rest, self.ask([*rest.values()]), strict=True)))
        late = self.env.group_rewards(played, early=False)
        return {
            i: merged([self._early.pop(i), reward])
            for own, earned in zip(members, late, strict=True)
            for i, reward in zip(own, earned, strict=True)
        }
