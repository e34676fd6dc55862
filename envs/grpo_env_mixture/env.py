"""Several environments in one run.

Task, answer and reward: those of the environment that a problem comes from, which the weights
decide; part `correct` of `math` is called `math/correct` here. With `levels` an environment's
difficulty follows success: a group that is all right leads up, one that is all wrong leads down.
Held-out problems are drawn from all levels alike, so that evaluations can be compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_env_mixture.entries import read_entries
from grpo_env_mixture.ladder import Ladder
from grpo_env_mixture.schedule import Schedule
from grpo_envs.env import TextEnv
from grpo_envs.env.grading import reentrant
from grpo_envs.env.rewards import Part, is_right, merged
from grpo_envs.env.scored import Played
from grpo_envs.errors import ConfigError, require
from grpo_envs.seeding import rng_for
from grpo_envs.types import Group, Problem, Reply, Reward, Turn

_USUAL = {"math": 1.0, "countdown": 1.0, "format": 1.0}


class MixtureEnv(TextEnv):
    """Draws from several environments."""

    def __init__(
        self,
        split: str = "train",
        *,
        of: dict[str, Any] | None = None,
        pace: int = 8,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environments.

        Args:
            split: `train` or `eval`.
            of: What is mixed: `{math: 2, code: 1}` by weight, or with keywords of its own `{sums:
                {env: math, weight: 2, answer: boxed}, code: {levels: [1, 2, 3]}}`; None for math,
                countdown and format in equal shares. With `levels` difficulty follows success.
            pace: So many more groups all right than all wrong lead up by a level.
            rewards: Reward functions to add to all problems; the weights of an environment's own
                parts are said in `of`: `{math: {rewards: {format: 0.2}}}`.
            render_mode: None or `ansi`.

        Raises:
            GrpoEnvsError: a value is not allowed, or one of the environments cannot be made.
        """
        require(type(pace) is int and pace > 0, "env.pace", pace, "1 or more groups")
        entries = read_entries(_USUAL if of is None else of)
        self._members = {entry.name: entry.make(split) for entry in entries}
        self._schedule = Schedule({entry.name: entry.weight for entry in entries})
        self._ladders = {
            entry.name: Ladder(levels=entry.levels, pace=pace) for entry in entries if entry.levels
        }
        for name, env in self._one_each().items():
            if isinstance(env, MixtureEnv):
                raise ConfigError(f"env.of.{name}.env: it is a mixture itself: name its members.")
        declared: dict[str, float] = {}
        for name, env in self._one_each().items():
            declared |= {f"{name}/{part}": weight for part, weight in env.weights.items()}
        for part in declared:
            own = f"env.of.{part.replace('/', '.rewards.', 1)}"
            require(
                part not in (rewards or {}), f"env.rewards.{part}", "given", f"to say it in {own}"
            )
        super().__init__(split, parts=declared, rewards=rewards, render_mode=render_mode)
        self._optional = set(self._parts)
        envs = self._one_each().values()
        self.max_turns = max(env.max_turns for env in envs)
        asked = {env.concurrency for env in envs}
        waits = asked & {"threads", "processes"}
        self.concurrency = "none" if "none" in asked else "threads" if waits else "auto"
        self.reentrant = all(map(reentrant, envs))
        self.workers = max((env.workers for env in envs if env.workers), default=None)
        self.hidden = any(env.hidden for env in envs)

    @property
    def own_parts(self) -> dict[str, Part]:
        """The environments' own parts, without those of added functions."""
        return {
            f"{name}/{part}": how
            for name, env in self._one_each().items()
            for part, how in env.own_parts.items()
        }

    @property
    def columns(self) -> frozenset[str]:
        """The names that the problems of any environment have in `Problem.columns`."""
        return frozenset[str]().union(*(env.columns for env in self._one_each().values()))

    @property
    def uses_tools(self) -> bool:
        """Whether the problems of any environment have tools."""
        return any(env.uses_tools for env in self._one_each().values())

    @property
    def grades_each_alone(self) -> bool:
        """Whether an answer's reward does not depend on which others are graded with it."""
        return super().grades_each_alone and all(
            env.grades_each_alone for env in self._one_each().values()
        )

    def problem(self, seed: int, split: str | None = None) -> Problem:
        """Return problem number `seed`, from the environment that the weights give it to."""
        split = split or self.split
        name, number = self._schedule.place(seed)
        level = self._level(name, seed, split)
        env = self._members[name][level]
        problem = env.problem(number, split)
        source = {"env": name} if level is None else {"env": name, "level": level}
        return dataclasses.replace(
            problem,
            meta={**problem.meta, **source},
            system_prompt=env.system_prompt_of(problem),
            max_turns=env.turns_of(problem),
        )

    def own_replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Let each environment answer for its own problems, all of them at once."""
        places: dict[tuple[str, int | None], list[int]] = {}
        for i, problem in enumerate(problems):
            places.setdefault(self._source(problem), []).append(i)
        replies: dict[int, Reply] = {}
        for (name, level), own in places.items():
            env = self._members[name][level]
            answered = env.reply_batch([problems[i] for i in own], [episodes[i] for i in own])
            for i, reply in zip(own, answered, strict=True):
                reward = reply.reward
                earned = env.parts_of(reward) if reward.valid else {}
                reward = _outer(dataclasses.replace(reward, parts=earned), name)
                replies[i] = dataclasses.replace(reply, reward=reward)
        return [replies[i] for i in range(len(problems))]

    @property
    def compares(self) -> bool:
        """Whether a reward function sees the group, one of a member's own among them."""
        return super().compares or any(env.compares for env in self._one_each().values())

    @property
    def waits(self) -> bool:
        """Whether a reward function waits for the end, one of a member's own among them."""
        return super().waits or any(env.waits for env in self._one_each().values())

    @property
    def asks_early(self) -> bool:
        """Whether one is asked about each episode as soon as it is over, a member's among them."""
        return super().asks_early or any(env.asks_early for env in self._one_each().values())

    def group_rewards(
        self, groups: Sequence[Played], *, early: bool | None = None
    ) -> list[list[Reward]]:
        """Return what functions give that wait for the end: ours, and the environment's own."""
        found = super().group_rewards(groups, early=early)
        places: dict[tuple[str, int | None], list[int]] = {}
        for n, group in enumerate(groups):
            places.setdefault(self._source(group.problem), []).append(n)
        for (name, level), own in places.items():
            env = self._members[name][level]
            inside = [_inner(groups[n], name, env.weights) for n in own]
            for n, earned in zip(own, env.group_rewards(inside, early=early), strict=True):
                pairs = zip(found[n], earned, strict=True)
                found[n] = [merged([ours, _outer(theirs, name)]) for ours, theirs in pairs]
        return found

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Return what a good player of the problem's environment says."""
        return self._env(problem).demonstrate(problem, turns)

    def range_of(self, problem: Problem) -> tuple[float, float]:
        """Return the least and the most that an answer to this problem can earn."""
        inner = self._env(problem).range_of(problem)
        ranges = [inner, *(self._parts[name].range for name in self._functions)]
        return math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)

    def adapt(self, groups: Sequence[Group]) -> None:
        """Go up or down by the groups of a step, those of an environment all at once."""
        points, own = dict.fromkeys(self._ladders, 0), self.own_parts
        for group in groups:
            name = group.meta["env"]
            right = [is_right(reward, own) for reward in group.rewards if reward.valid]
            if name in points and right:
                points[name] += all(right) - (not any(right))
        for name, ladder in self._ladders.items():
            ladder.count(points[name])

    def state_dict(self) -> dict[str, Any]:
        """Return where each environment stands on its levels."""
        return {"points": {name: ladder.points for name, ladder in self._ladders.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""
        for name, ladder in self._ladders.items():
            ladder.points = int(state["points"][name])

    def close(self) -> None:
        """Close all of them."""
        for levels in self._members.values():
            for env in levels.values():
                env.close()

    def _one_each(self) -> dict[str, TextEnv]:
        return {name: next(iter(levels.values())) for name, levels in self._members.items()}

    def _env(self, problem: Problem) -> TextEnv:
        name, level = self._source(problem)
        return self._members[name][level]

    def _source(self, problem: Problem) -> tuple[str, int | None]:
        """Return an environment's name and level; without levels of ours a row may have one."""
        name = problem.meta["env"]
        return name, problem.meta["level"] if name in self._ladders else None

    def _level(self, name: str, seed: int, split: str) -> int | None:
        if name not in self._ladders:
            return None
        ladder = self._ladders[name]
        if split == "train":
            return ladder.level
        return rng_for("level", split, seed).choice(ladder.levels)


def _outer(reward: Reward, name: str) -> Reward:
    """Return the reward of the environment `name` with its parts as they are called here."""
    parts = {f"{name}/{part}": value for part, value in reward.parts.items()}
    return dataclasses.replace(reward, parts=parts)


def _inner(group: Played, name: str, weights: Mapping[str, float]) -> Played:
    """Return a group with what is the environment's own of its rewards, as it is called there."""
    own, rewards = f"{name}/", []
    for reward in group.rewards:
        parts = {p.removeprefix(own): x for p, x in reward.parts.items() if p.startswith(own)}
        rewards.append(dataclasses.replace(reward, parts=parts, weights=weights))
    return dataclasses.replace(group, rewards=rewards)
