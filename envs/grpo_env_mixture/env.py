"""Several environments in one run.

The weights decide from which environment a problem comes. Task, answer and reward are those of this
environment; the part `correct` of `math` is called `math/correct` here. With `levels` the
difficulty of an environment adapts: groups whose answers are all right raise the level, groups
whose answers are all wrong lower it. Held-out problems are drawn equally from all levels, so that
evaluations can be compared.
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
            of: The environments by weight, `{math: 2, code: 1}`, or with keywords, `{sums: {env:
                math, weight: 2, answer: boxed}, code: {levels: [1, 2, 3]}}`; None for math,
                countdown and format in equal shares. With `levels` the difficulty adapts.
            pace: The level rises after this many more groups all right than all wrong.
            rewards: Reward functions to add to all problems; the weights of an environment's own
                parts are set in `of`: `{math: {rewards: {format: 0.2}}}`.
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
        """The keys of `Problem.columns` of all environments."""
        return frozenset[str]().union(*(env.columns for env in self._one_each().values()))

    @property
    def uses_tools(self) -> bool:
        """Whether the problems of any environment have tools."""
        return any(env.uses_tools for env in self._one_each().values())

    @property
    def grades_each_alone(self) -> bool:
        """Whether an answer's reward does not depend on the other answers of its batch."""
        return super().grades_each_alone and all(
            env.grades_each_alone for env in self._one_each().values()
        )

    def problem(self, seed: int, split: str | None = None) -> Problem:
        """Return problem number `seed`, from the environment that the schedule assigns it to."""
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
        """Let each environment reply to all its own problems at once."""
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
        """Whether a reward function, ours or an environment's, compares the answers of a group."""
        return super().compares or any(env.compares for env in self._one_each().values())

    @property
    def waits(self) -> bool:
        """Whether a reward function, ours or an environment's, waits for the end of episodes."""
        return super().waits or any(env.waits for env in self._one_each().values())

    @property
    def asks_early(self) -> bool:
        """Whether a function, ours or an environment's, scores an episode as soon as it ends."""
        return super().asks_early or any(env.asks_early for env in self._one_each().values())

    def group_rewards(
        self, groups: Sequence[Played], *, early: bool | None = None
    ) -> list[list[Reward]]:
        """Return the rewards of functions that wait for the end, ours and the environments'."""
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
        """Return the demonstration of the problem's environment."""
        return self._env(problem).demonstrate(problem, turns)

    def range_of(self, problem: Problem) -> tuple[float, float]:
        """Return the least and the largest reward of an answer to this problem."""
        inner = self._env(problem).range_of(problem)
        ranges = [inner, *(self._parts[name].range for name in self._functions)]
        return math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)

    def adapt(self, groups: Sequence[Group]) -> None:
        """Raise or lower the level of each environment by its groups of a step."""
        points, own = dict.fromkeys(self._ladders, 0), self.own_parts
        for group in groups:
            name = group.meta["env"]
            right = [is_right(reward, own) for reward in group.rewards if reward.valid]
            if name in points and right:
                points[name] += all(right) - (not any(right))
        for name, ladder in self._ladders.items():
            ladder.count(points[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the points of each environment on its ladder."""
        return {"points": {name: ladder.points for name, ladder in self._ladders.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the return value of `state_dict`."""
        for name, ladder in self._ladders.items():
            ladder.points = int(state["points"][name])

    def close(self) -> None:
        """Close all environments."""
        for levels in self._members.values():
            for env in levels.values():
                env.close()

    def _one_each(self) -> dict[str, TextEnv]:
        return {name: next(iter(levels.values())) for name, levels in self._members.items()}

    def _env(self, problem: Problem) -> TextEnv:
        name, level = self._source(problem)
        return self._members[name][level]

    def _source(self, problem: Problem) -> tuple[str, int | None]:
        """Return name and level of the environment; a `level` of its row's own does not count."""
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
    """Return a reward of the environment `name` with `name/` before its parts."""
    parts = {f"{name}/{part}": value for part, value in reward.parts.items()}
    return dataclasses.replace(reward, parts=parts)


def _inner(group: Played, name: str, weights: Mapping[str, float]) -> Played:
    """Return a group with only the environment's own parts of its rewards, without the prefix."""
    own, rewards = f"{name}/", []
    for reward in group.rewards:
        parts = {p.removeprefix(own): x for p, x in reward.parts.items() if p.startswith(own)}
        rewards.append(dataclasses.replace(reward, parts=parts, weights=weights))
    return dataclasses.replace(group, rewards=rewards)
