"""GroupVectorEnv: P problems x G members in one Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from grpo_envs.env.ahead import Ahead
from grpo_envs.env.endings import Endings
from grpo_envs.env.episode import heard
from grpo_envs.env.grading import Graders
from grpo_envs.env.infos import reset_infos, step_infos
from grpo_envs.env.resetting import marked, of_groups
from grpo_envs.env.rewards import merged, summed
from grpo_envs.env.scored import Played
from grpo_envs.env.text import TextEnv
from grpo_envs.errors import ConfigError, ResetNeeded
from grpo_envs.seeding import seed_for
from grpo_envs.types import Problem, Reply, Reward, Turn, gold_text

Array = NDArray[Any]
_IDLE = Reply(reward=Reward())
"""The reply to a member whose episode is over."""


class GroupVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], Array]):
    """Members of a group share their problem; rewards come back in the order of the actions.

    Autoreset is disabled: Gymnasium's default would discard every second generation. A member
    whose episode is over is masked: its action is ignored, its reward is 0.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED}  # type: ignore[misc]

    def __init__(self, env: TextEnv, num_envs: int, group_size: int = 1) -> None:
        """Make `num_envs` members, `group_size` of them on each problem.

        Args:
            env: Draws the problems and grades the answers.
            num_envs: Number of members, P * G.
            group_size: Members of a group, G.

        Raises:
            ConfigError: `num_envs` is no multiple of `group_size`, or `env.concurrency` is unknown.
        """
        if group_size < 1 or num_envs < 1 or num_envs % group_size:
            raise ConfigError(
                f"num_envs={num_envs}, group_size={group_size}. Allowed: whole groups, 1 or more."
            )
        self.env, self.num_envs, self.group_size = env, num_envs, group_size
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self.render_mode = env.render_mode
        self._problems: list[Problem | None] = [None] * num_envs
        self._turns: list[list[Turn]] = [[] for _ in range(num_envs)]
        self._rewards: list[list[Reward]] = [[] for _ in range(num_envs)]
        """The reward of each turn; the last one includes functions that score whole episodes."""
        self._ended = set(range(num_envs // group_size))
        """Groups whose last episode has ended."""
        self._over: NDArray[np.bool_] = np.ones(num_envs, dtype=np.bool_)
        self._cut: NDArray[np.bool_] = np.zeros(num_envs, dtype=np.bool_)
        """Members whose episode was truncated."""
        self._last: dict[int, Reply] = {}
        self._endings = Endings(env)
        self._graders = Graders(env)
        self._ahead = self._made_ahead()

    def grade_in(self, where: str) -> None:
        """Grade from now on in `where`, a place that `grading.place` returns.

        Raises:
            ConfigError: a cluster cannot grade.
        """
        self._ahead.close()
        self._graders.close()
        self._graders = Graders(self.env, where)
        self._ahead = self._made_ahead()

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each reward component."""
        return self.env.weights

    @property
    def system_prompt(self) -> str:
        """The system message before each prompt."""
        return self.env.system_prompt

    @property
    def max_turns(self) -> int:
        """Answers per episode, at most."""
        return self.env.max_turns

    def gold(self, member: int) -> str:
        """Return the gold of a member's problem as text for people, never for the policy."""
        problem = self._problems[member]
        return gold_text(problem.gold) if problem else ""

    @property
    def replies(self) -> Mapping[int, Reply]:
        """The replies of the last step by member; empty after a reset.

        Rewards are shaped and weighted, with every part that applies; an invalid one has no parts.
        Members whose episode was over before have a reply only if the step ended their group: with
        the parts of functions that see whole episodes.
        """
        return {i: self._complete(reply) for i, reply in self._last.items()}

    @property
    def episode_rewards(self) -> list[Reward]:
        """The reward of each member since the reset: the sum over its turns, see `summed`.

        It includes the parts of functions that see whole episodes once all episodes of the group
        are over, also those that `truncate` ended.
        """
        self._end_groups()
        return [summed(rewards) for rewards in self._rewards]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Start an episode for each member, on one problem for each group.

        Args:
            seed: One problem seed for each group; or one for each member, equal within a group; or
                one number, from which the groups' seeds are hashed; or None for random problems.
            options: {"reset_mask": bools (num_envs,)} resets only the groups that it marks.

        Returns:
            Observations, and `info`: `system_prompt`, `messages`, `tools` and `meta` of each
            member's problem, arrays (num_envs,) of objects.

        Raises:
            ConfigError: the seeds or the mask do not fit the groups.
        """
        seeds = self._group_seeds(seed)
        self._ahead.take({})  # replies that are not needed any more
        self._last = {}
        for group in marked(options, self.num_envs, self.group_size):
            problem = self.env.problem(seeds[group])
            members = slice(group * self.group_size, (group + 1) * self.group_size)
            self._problems[members] = [problem] * self.group_size
            self._turns[members] = [[] for _ in range(self.group_size)]
            self._rewards[members] = [[] for _ in range(self.group_size)]
            self._ended.discard(group)
            self._endings.forget(range(members.start, members.stop))
            self._over[members] = self._cut[members] = False
        infos = reset_infos(self.env, self._problems)
        return tuple(map(self._observation, range(self.num_envs))), infos

    def score_ahead(self, actions: Mapping[int, str]) -> None:
        """Start to grade answers, by member, in the background, before the others are finished.

        The next `step` with the same answers uses the replies; its result does not change. Nothing
        is started if a reward function takes all answers at once.
        """
        if self.env.grades_each_alone and not self._over[list(actions)].any():
            self._ahead.begin({i: Turn(action=action) for i, action in actions.items()})

    def may_go_on(self, members: Sequence[int]) -> bool:
        """Return whether an episode of these members may continue after its next answer."""
        return any(len(self._turns[i]) + 1 < self._most_turns(i) for i in members)

    def truncate(self, members: Sequence[int]) -> None:
        """Truncate the episodes of these members: a policy's context is full, for instance.

        Later steps ignore their actions, and their reward is 0.
        """
        running = [i for i in members if not self._over[i]]
        self._over[running] = self._cut[running] = True

    @property
    def hidden_seconds(self) -> float:
        """Seconds of the last step's grading that were done before `step` was called."""
        return self._ahead.hidden

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], Array, Array, Array, dict[str, Any]]:
        """Grade one answer of each member.

        Returns:
            Observations, rewards, terminated, truncated and `info`: for each key an array
            (num_envs,) of floats, `detail` of strings, with Gymnasium's `_key` masks.

        Raises:
            ResetNeeded: every episode is over.
            ConfigError: there is not one action for each member.
        """
        if len(actions) != self.num_envs:
            raise ConfigError(f"{len(actions)} actions for {self.num_envs} members.")
        active = np.flatnonzero(~self._over).tolist()
        if not active:
            raise ResetNeeded("GroupVectorEnv.step() needs reset(): every episode is over.")
        given = {i: Turn(action=actions[i]) for i in active}
        replies, earned = self._ahead.take(given)
        self._endings.keep(earned)
        rest = [i for i in active if i not in replies]
        replies |= zip(rest, self._replies(rest, given), strict=True)
        terminated, truncated = self._over & ~self._cut, self._cut.copy()
        for i, reply in replies.items():
            self._turns[i].append(heard(actions[i], reply))
            self._rewards[i].append(self._complete(reply).reward)
            if reply.done:
                terminated[i] = True
            else:
                truncated[i] = len(self._turns[i]) >= self._most_turns(i)
        self._over, self._cut = terminated | truncated, truncated.copy()
        for i, more in self._end_groups().items():
            before = replies.get(i, Reply(reward=Reward(weights=self.weights)))
            replies[i] = replace(before, reward=merged([before.reward, more]))
        self._last = replies
        rows = [replies.get(i, _IDLE) for i in range(self.num_envs)]
        rewards = np.array([row.reward.total for row in rows], dtype=np.float64)
        infos = step_infos(self.env, [row.reward for row in rows], [*replies])
        return tuple([row.observation for row in rows]), rewards, terminated, truncated, infos

    def close_extras(self, *, shared: bool = False, **kwargs: Any) -> None:
        """Stop the grading workers; close the environment unless it is shared."""
        self._ahead.close()
        self._graders.close()
        if not shared:
            self.env.close()

    def _observation(self, member: int) -> str:
        """Return the last observation of a member: the prompt, or the reply to its last turn."""
        problem, turns = self._problems[member], self._turns[member]
        if turns:
            return turns[-1].observation
        return problem.prompt if problem else ""

    def _most_turns(self, member: int) -> int:
        problem = self._problems[member]
        return self.env.turns_of(problem) if problem else self.max_turns

    def _group_seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        groups = self.num_envs // self.group_size
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed))
            base = int(self.np_random.integers(2**31)) if seed is None else int(seed)
            return [seed_for("group", base, group) for group in range(groups)]
        given = of_groups(seed, groups, self.num_envs)
        return [int(self.np_random.integers(2**31)) if s is None else int(s) for s in given]

    def _replies(self, active: Sequence[int], given: Mapping[int, Turn]) -> list[Reply]:
        problems = [problem for i in active if (problem := self._problems[i]) is not None]
        return self._graders.replies(problems, [[*self._turns[i], given[i]] for i in active])

    def _end_groups(self) -> dict[int, Reward]:
        """Ask functions that wait for the end about groups that are over; return what they give."""
        if not self.env.waits:
            return {}
        size = self.group_size
        over = np.flatnonzero(self._over.reshape(-1, size).all(axis=1)).tolist()
        groups = [group for group in over if group not in self._ended]
        self._ended.update(groups)
        members = [range(group * size, (group + 1) * size) for group in groups]
        played = [
            Played(problem, [self._turns[i] for i in own], [summed(self._rewards[i]) for i in own])
            for own in members
            if (problem := self._problems[own[0]]) is not None
        ]
        found = self._endings.of_groups(members, played)
        for i, reward in found.items():
            self._rewards[i][-1:] = [merged([*self._rewards[i][-1:], reward])]
        return found

    def _made_ahead(self) -> Ahead:
        finish = self._finish if self.env.asks_early else None
        return Ahead(self._replies, self._graders.at_once, finish)

    def _finish(
        self, actions: Mapping[int, Turn], replies: Mapping[int, Reply]
    ) -> dict[int, Reward]:
        """Ask about the episodes that these replies end, in a thread: `step` waits for it."""
        played = {}
        for i, reply in replies.items():
            problem, last = self._problems[i], len(self._turns[i]) + 1 >= self._most_turns(i)
            if problem is not None and (reply.done or last):
                turn = heard(actions[i].action, reply)
                earned = summed([*self._rewards[i], self._complete(reply).reward])
                played[i] = Played(problem, [[*self._turns[i], turn]], [earned])
        return dict(zip(played, self._endings.ask([*played.values()]), strict=True))

    def _complete(self, reply: Reply) -> Reply:
        """Return the reply with every part that applies in its reward; with none if not valid."""
        reward = reply.reward
        parts = self.env.parts_of(reward) if reward.valid else {}
        return replace(reply, reward=replace(reward, parts=parts))
