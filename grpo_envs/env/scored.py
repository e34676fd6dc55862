"""The arguments of added reward functions, and the order of their calls.

First come functions of a problem and an answer, then functions that also take what the answer has
earned so far. When all episodes of a group are over, functions that see the group follow.
Functions of one stage do not see each other's parts, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_envs.env.rewards import Part, is_right, merged, score_safely, settle
from grpo_envs.types import Problem, Reward, Turn

if TYPE_CHECKING:
    from grpo_envs.env.function import Function

SCORED = ("rewards", "parts", "right")
"""Names of further parameters that a batched reward function may have."""
MEMBERS = ("completions", *SCORED, "episodes")
"""Names of parameters that a grouped reward function may have, beside `problem`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An answer or a whole episode that was graded, and what it has earned so far.

    The fields are named like the parameters of reward functions, which take lists of their values.
    """

    rewards: float
    """The weighted sum of the parts."""
    parts: Mapping[str, float]
    """The value of each part that applies, scaled and clipped as in `metrics.jsonl`."""
    right: bool
    """Whether the answer is right, see `rewards.is_right`."""
    episodes: Sequence[Turn] = ()

    @property
    def completions(self) -> str:
        """The policy's answers, with empty lines between them."""
        return "\n\n".join(turn.action for turn in self.episodes)


@dataclass(frozen=True, slots=True)
class Played:
    """A group whose episodes are all over."""

    problem: Problem
    episodes: Sequence[Sequence[Turn]]
    rewards: Sequence[Reward]
    """The reward of each episode: weighted, and without the parts of functions that see the
    group."""


@dataclass(frozen=True, slots=True)
class Asking:
    """The added reward functions of an environment, and how their parts count."""

    functions: Mapping[str, Function]
    parts: Mapping[str, Part]
    own_parts: Mapping[str, Part]
    """The parts that decide whether an answer is right."""
    parts_of: Callable[[Reward], Mapping[str, float]]
    """Returns the value of every part that applies, see `TextEnv.parts_of`."""

    def of_answers(
        self, problems: Sequence[Problem], answers: Sequence[str], rewards: Sequence[Reward]
    ) -> list[Reward]:
        """Return settled rewards with the parts of functions that see one answer or a batch."""
        alone = [f for f in self.functions.values() if not f.late]
        for asking in (False, True):
            found = [
                self._asked(function, problems, answers, rewards)
                for function in alone
                if bool(function.asks) is asking
            ]
            rewards = [merged(each) for each in zip(rewards, *found, strict=True)]
        return list(rewards)

    def of_groups(
        self, groups: Sequence[Played], *, early: bool | None = None
    ) -> list[list[Reward]]:
        """Return each member's reward from the functions that see whole episodes.

        Only functions with this `early` are called; None calls all. Members with an invalid reward
        earn nothing from these functions, which do not see them.
        """
        valid = [[i for i, reward in enumerate(g.rewards) if reward.valid] for g in groups]
        members = [
            [self._look(group.rewards[i], group.episodes[i]) for i in places]
            for group, places in zip(groups, valid, strict=True)
        ]
        nothing = Reward(weights=self._weights)
        found = [[nothing] * len(group.rewards) for group in groups]
        late = [f for f in self.functions.values() if f.late]
        for function in (f for f in late if early is None or f.early is early):
            earned = self._of_episodes(function, [group.problem for group in groups], members)
            for own, places, rewards in zip(found, valid, earned, strict=True):
                for i, reward in zip(places, rewards, strict=True):
                    own[i] = merged([own[i], self._settled(reward)])
        return found

    def _of_episodes(
        self, function: Function, problems: Sequence[Problem], members: Sequence[Sequence[Scored]]
    ) -> list[list[Reward]]:
        if function.grouped:
            return function.of_groups(problems, members)
        pairs = zip(problems, members, strict=True)
        known = [(problem, member) for problem, own in pairs for member in own]
        earned = iter(_of_batch(function, known, [member.completions for _, member in known]))
        return [[next(earned) for _ in own] for own in members]

    def _asked(
        self,
        function: Function,
        problems: Sequence[Problem],
        answers: Sequence[str],
        rewards: Sequence[Reward],
    ) -> list[Reward]:
        if not function.asks:
            found = score_safely(function, problems, answers, function.name)
            return [self._settled(reward) for reward in found]
        valid = [i for i, reward in enumerate(rewards) if reward.valid]
        known = [(problems[i], self._look(rewards[i])) for i in valid]
        found = [Reward()] * len(rewards)
        earned = _of_batch(function, known, [answers[i] for i in valid])
        for i, reward in zip(valid, earned, strict=True):
            found[i] = self._settled(reward)
        return found

    def _look(self, reward: Reward, turns: Sequence[Turn] = ()) -> Scored:
        right, parts = is_right(reward, self.own_parts), self.parts_of(reward)
        return Scored(rewards=reward.total, parts=parts, right=right, episodes=turns)

    def _settled(self, reward: Reward) -> Reward:
        return settle(reward, self.parts, self._weights)

    @property
    def _weights(self) -> dict[str, float]:
        return {name: part.weight for name, part in self.parts.items()}


def _of_batch(
    function: Function, known: Sequence[tuple[Problem, Scored]], answers: Sequence[str]
) -> list[Reward]:
    """Call a function that takes all answers at once, with what is known about them."""

    def ask(known: Sequence[tuple[Problem, Scored]], answers: Sequence[str]) -> list[Reward]:
        return function([problem for problem, _ in known], answers, [each for _, each in known])

    return score_safely(ask, known, answers, function.name) if known else []
