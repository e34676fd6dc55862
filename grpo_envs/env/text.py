"""TextEnv: a Gymnasium environment whose observations and actions are text."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium

from grpo_envs.env.episode import Episode
from grpo_envs.env.reward_functions import compose, require_columns
from grpo_envs.env.rewards import Part, respond_safely, score_safely, settle
from grpo_envs.env.scored import Asking, Played
from grpo_envs.env.shots import Shots
from grpo_envs.env.spaces import UnicodeText
from grpo_envs.errors import ResetNeeded, require_one_of
from grpo_envs.seeding import rng_for
from grpo_envs.types import Group, Problem, Reply, Reward, Turn

if TYPE_CHECKING:
    from grpo_envs.env.dataset import Row, Rows

SPLITS = ("train", "eval")


class TextEnv(gymnasium.Env[str, str]):
    """A question, an answer in free text, a reward.

    An environment consists of two pure functions; this class adds the Gymnasium protocol:

    - `draw(rng, split)` -> Problem: the same key always gives the same problem.
    - `score(problem, answer)` -> Reward: no state, no randomness, no exception for any string.

    Optional: `from_row` (problems from a dataset), `score_batch` (a faster grader), and `respond`
    with `max_turns` above 1 (a conversation).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}
    """The reward components that `score` returns, each in [0, 1], with their default weights."""
    system_prompt: str = ""
    """The system message of a chat model; '' for none."""
    max_turns: int = 1
    """Answers per episode. Above 1, `respond` is called in place of `score_batch`."""
    concurrency: str = "auto"
    """Where answers are graded: none, threads, processes, auto (see `grading.place`)."""
    workers: int | None = None
    """Threads if `concurrency` is threads: more than there are cores if grading waits for I/O."""
    shots: Shots = Shots()
    """Solved problems before each prompt (`env.shots`)."""
    hidden: bool = False
    """Whether problems with the same prompt may have different golds, such as a number to guess."""
    reentrant: bool | None = None
    """Whether several threads may call it at once; None: yes, unless `concurrency` is none."""
    rows: Rows | None = None
    """Set by an environment whose problems come from a dataset; see `from_row`."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keywords of earlier versions, and their present names, which the error message gives."""

    def __init__(
        self,
        split: str = "train",
        *,
        parts: Mapping[str, float] | None = None,
        rewards: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make an environment on `split` (train or eval).

        Args:
            split: The split that problems come from; the two splits share no problem.
            parts: The reward components of this instance; None: those of the class.
            rewards: Weights of reward components that replace the defaults in `parts`, or mappings
                with `weight`, `scale` and `clip`; also reward functions to add, by name.
            render_mode: None, or `ansi` for a transcript as text.

        Raises:
            ConfigError: the split, a reward component or the render mode is unknown.
        """
        require_one_of("env.split", split, SPLITS)
        require_one_of("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.split = split
        self._declared = dict(self.parts if parts is None else parts)
        self._parts, self._functions = compose(self._declared, rewards)
        self.weights = {name: part.weight for name, part in self._parts.items()}
        self._optional = set(self._functions)
        """Parts that may not apply to every problem."""
        self.render_mode = render_mode
        self.observation_space, self.action_space = UnicodeText(), UnicodeText()
        self._episode: Episode | None = None

    # What the author writes.

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Return the problem that `rng` determines; `rng` is keyed by split and seed."""
        raise NotImplementedError(f"{type(self).__name__} has no draw(rng, split).")

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade `answer`."""
        raise NotImplementedError(f"{type(self).__name__} has no score(problem, answer).")

    def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Grade many answers; override it if a batch is faster than a loop."""
        return [self.score(*pair) for pair in zip(problems, answers, strict=True)]

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Reply to the last of `turns`; multi-turn environments override it and set `max_turns`."""
        return Reply(reward=self.score(problem, turns[-1].action))

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Return a good player's answer after `turns`: by default the solution.

        `agent=sft` imitates it, and `check_env` plays it.
        """
        return problem.solution

    def from_row(self, row: Row) -> Problem:
        """Turn a row of `self.rows` into a problem; replaces `draw` if there are rows."""
        raise NotImplementedError(f"{type(self).__name__} has rows and no from_row(row).")

    def adapt(self, groups: Sequence[Group]) -> None:
        """Learn from the groups of a step; a curriculum chooses its next problems by them."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `adapt` changes, for checkpoints: numbers and text only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""

    # What the framework calls.

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the most that an answer can earn, if each raw part is in [0, 1]."""
        ranges = [part.range for part in self._parts.values()]
        return math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)

    def range_of(self, problem: Problem) -> tuple[float, float]:
        """Return the reward range of one problem, if some parts apply only to some problems."""
        return self.reward_range

    def system_prompt_of(self, problem: Problem) -> str:
        """Return the system message that precedes the problem's prompt."""
        return self.system_prompt if problem.system_prompt is None else problem.system_prompt

    def turns_of(self, problem: Problem) -> int:
        """Return the largest number of answers in an episode of the problem."""
        return problem.max_turns or self.max_turns

    @property
    def uses_tools(self) -> bool:
        """Whether any problem has `tools`. By default the first problem decides."""
        return bool(self.problem(0).tools)

    @property
    def own_parts(self) -> dict[str, Part]:
        """The environment's own parts, without those of added functions; `is_right` uses them.

        If `env.rewards` gives no positive weight to any of them, their declared weights count.
        """
        own = {name: self._parts[name] for name in self._declared}
        if any(part.range[1] > 0 for part in own.values()):
            return own
        return {name: Part(weight=weight) for name, weight in self._declared.items()}

    @property
    def _asking(self) -> Asking:
        return Asking(self._functions, self._parts, self.own_parts, self.parts_of)

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns in `Problem.columns`."""
        return self.rows.columns if self.rows else frozenset(self.problem(0).columns)

    def require_columns(self) -> None:
        """Require the columns that added reward functions need.

        Raises:
            ConfigError: a column is missing.
        """
        require_columns(self._functions, lambda: self.columns)

    def problem(self, seed: int, split: str | None = None) -> Problem:
        """Return problem number `seed` of `split` (this environment's own when None)."""
        require_one_of("split", split := split or self.split, SPLITS)
        if self.rows is not None:
            return self.shots.before(self.problem_of(self.rows.pick(seed, split)))
        return self.shots.before(self.draw(rng_for(type(self).__name__, split, seed), split))

    def problem_of(self, row: Row) -> Problem:
        """Return the problem of a row, completed with the data that `from_row` does not set."""
        return row.complete(self.from_row(row))

    @property
    def grades_each_alone(self) -> bool:
        """Whether the reply to an answer is independent of the other answers in a batch."""
        return not any(f.whole and not f.late for f in self._functions.values())

    @property
    def compares(self) -> bool:
        """Whether a reward function sees the group."""
        return any(function.grouped for function in self._functions.values())

    @property
    def waits(self) -> bool:
        """Whether a reward function sees whole episodes, see `group_rewards`."""
        return any(function.late for function in self._functions.values())

    @property
    def asks_early(self) -> bool:
        """Whether one of these is asked about each episode as soon as it is over."""
        return any(function.early for function in self._functions.values())

    def reply_batch(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Reply to the last turn of each episode, with weighted rewards; failures are invalid."""
        replies = self.own_replies(problems, episodes)
        own = [settle(reply.reward, self._parts, self.weights) for reply in replies]
        answers = [turns[-1].action for turns in episodes]
        pairs = zip(replies, self._asking.of_answers(problems, answers, own), strict=True)
        return [dataclasses.replace(reply, reward=reward) for reply, reward in pairs]

    def group_rewards(
        self, groups: Sequence[Played], *, early: bool | None = None
    ) -> list[list[Reward]]:
        """Return each member's reward from the functions that see whole episodes (`early`)."""
        return self._asking.of_groups(groups, early=early)

    def own_replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Return the reply to the last turn of each episode, with raw rewards of the own parts."""
        if self.max_turns > 1:
            pairs = zip(problems, episodes, strict=True)
            return [respond_safely(self.respond, *pair) for pair in pairs]
        answers = [turns[-1].action for turns in episodes]
        return [Reply(reward=r) for r in score_safely(self.score_batch, problems, answers)]

    def parts_of(self, reward: Reward) -> dict[str, float]:
        """Return the value of each reward component that applies to the problem, in declared order.

        If the grader left out a component of the environment, its value is 0.
        """
        return {
            name: float(reward.parts.get(name, 0.0))
            for name in self._parts
            if name in reward.parts or name not in self._optional
        }

    def info_for(self, reward: Reward) -> dict[str, Any]:
        """Return a step's `info`: every part, floats only, and `detail` for people.

        A part that does not apply to the problem is left out.
        """
        info: dict[str, Any] = {f"reward/{name}": x for name, x in self.parts_of(reward).items()}
        info["reward_valid"], info["detail"] = float(reward.valid), reward.detail
        return info

    def info_of(self, problem: Problem) -> dict[str, Any]:
        """Return the `info` of a reset: what a player may know about the problem."""
        return {
            "system_prompt": self.system_prompt_of(problem),
            "messages": [dict(message) for message in problem.messages],
            "tools": [tool.schema for tool in problem.tools],
            "meta": dict(problem.meta),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode on problem number `seed` (a random one when None)."""
        super().reset(seed=seed)
        number = seed if seed is not None else int(self.np_random.integers(2**31))
        self._episode = Episode(self, self.problem(number))
        return self._episode.problem.prompt, self.info_of(self._episode.problem)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Grade the answer; the episode ends unless the environment replies with another turn.

        Raises:
            ResetNeeded: there is no episode, or it is over.
        """
        episode = self._episode
        if episode is None or episode.over:
            raise ResetNeeded(f"{type(self).__name__}.step() needs reset(): the episode is over.")
        reply = episode.answer(action)
        info = self.info_for(reply.reward)
        info |= {"results": [*reply.results]} if reply.results else {}
        return reply.observation, reply.reward.total, episode.terminated, episode.truncated, info

    def render(self) -> str | None:
        """Return the transcript so far in render mode `ansi`, else None."""
        if self.render_mode is None:
            return None
        return self._episode.transcript() if self._episode else "no episode yet"
