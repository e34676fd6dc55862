"""Reward functions that wait for the end: of an episode, or of all episodes of a group.

Those that see an episode alone (`Function.early`: judges, reward models) are asked as soon as it is
over, in the background, while other answers are still being sampled.
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
    """What such functions have given to the members of a vector environment."""

    env: TextEnv
    _early: dict[int, Reward] = field(default_factory=dict)
    """By member: what `ask` returned, until its group is over."""

    def ask(self, played: Sequence[Played]) -> list[Reward]:
        """Return what early functions give; each of `played` is one episode. In any thread."""
        return [earned for (earned,) in self.env.group_rewards(played, early=True)]

    def keep(self, earned: Mapping[int, Reward]) -> None:
        """Keep what members earned of early functions."""
        self._early.update(earned)

    def forget(self, members: Iterable[int]) -> None:
        """Forget what is kept of members that begin anew."""
        for i in members:
            self._early.pop(i, None)

    def of_groups(
        self, members: Sequence[Sequence[int]], played: Sequence[Played]
    ) -> dict[int, Reward]:
        """Return what all such functions give to the members of groups that are over.

        Early ones are asked about the episodes that they have not been asked about.
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
