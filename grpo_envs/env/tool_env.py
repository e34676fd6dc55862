"""ToolEnv: an environment whose episodes may call functions and MCP servers before they answer."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from grpo_envs.env.calls import TOOL_PARTS, join_results, read_calls
from grpo_envs.env.rewards import respond_safely
from grpo_envs.env.text import TextEnv
from grpo_envs.env.tool_calls import (
    FunctionTool,
    OwnTool,
    ServerTool,
    ToolLimits,
    answer_calls,
    own_tools,
)
from grpo_envs.env.tool_session import Answered, Episode, Sessions
from grpo_envs.errors import ConfigError, ToolFailed, require
from grpo_envs.types import Call, Problem, Reply, Reward, Turn

_MOST_TURNS = 100


class ToolEnv(TextEnv):
    """Questions that are answered with the help of tools: write `tools`, `draw` and `score`.

    The reply to a turn with calls is their results, and the episode continues. A turn without a
    call is the answer, which `score` grades. The result of a wrong call is "error: ...": a call
    that cannot be read, an unknown tool, or arguments of the wrong type.

    Four parts with weight 0 are added to each reward, for the log: `tool_calls`, `tool_errors` and
    `tool_repeats` count all calls, failed calls, and calls that the episode had made before;
    `answered` is 1 for the turn without a call.

    Optional: `session` (the state of an episode), `step_reward` (rewards calls), `score_episode`
    (grades the answer by the whole episode).
    """

    tools: Sequence[Any] | None = ()
    """Functions with type hints and a docstring, pairs of (schema, function), and
    `grpo_envs.mcp(...)`. A subclass that chooses tools by a keyword sets `self.tools` before it
    calls `super().__init__`. None: an instance without tools, which is a plain TextEnv."""
    max_turns: int = 4
    concurrency = "threads"

    def __init__(
        self,
        split: str = "train",
        *,
        turns: int | None = None,
        tool_limits: Mapping[str, Any] | None = None,
        rewards: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **further: Any,
    ) -> None:
        """Make the environment, and ask MCP servers for their tools.

        Args:
            split: `train` or `eval`.
            turns: Turns of an episode, including the answer; the class's `max_turns` when null.
            tool_limits: {calls: of an episode, calls_per_turn: 4, result_chars: 2000, call_s: 10,
                sessions: 128}, see docs/tools.md.
            rewards: Weights of the reward components, and reward functions to add.
            render_mode: None or `ansi`.
            further: Keywords of the next class: `class MyEnv(ToolEnv, DatasetEnv)` has both.

        Raises:
            ConfigError: a value is not allowed, a tool cannot be used, or a server does not start.
        """
        added = {} if self.tools is None else TOOL_PARTS
        parts = {**self.parts, **added}
        super().__init__(split, parts=parts, rewards=rewards, render_mode=render_mode, **further)
        self._declared = dict(self.parts)  # calls do not make an answer right
        whole = turns is None or (type(turns) is int and 1 <= turns <= _MOST_TURNS)
        require(whole, "env.turns", turns, f"1 to {_MOST_TURNS}")
        self.max_turns = type(self).max_turns if turns is None else turns
        self.tool_limits = ToolLimits.of(tool_limits)
        self._sessions = Sessions(self.tool_limits.sessions)
        self._own_tools: dict[str, OwnTool] = {}
        if self.tools is not None:
            self._own_tools = own_tools(self.tools, self.tool_limits, type(self).__name__)
        self._require_session()

    # What the author may write.

    def session(self, problem: Problem) -> Iterator[Any]:
        """Open the state of an episode, `yield` it, and close it.

        Tools whose first parameter is `state` get the yielded value. The session is opened at the
        first call that needs it. The same calls in the same order must give the same results,
        because a session may be opened again and its calls repeated.
        """
        yield None

    def step_reward(self, problem: Problem, call: Call, result: str) -> Mapping[str, float]:
        """Return the reward components that a call earns; they are summed over the episode."""
        return {}

    def score_episode(self, problem: Problem, answer: str, episode: Episode) -> Reward:
        """Grade the turn without a call; `episode` has the turns, calls and state."""
        return self.score(problem, answer)

    # What the framework calls.

    @property
    def uses_tools(self) -> bool:
        """Whether the problems have tools."""
        return bool(self._own_tools)

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the most that an answer can earn, including calls up to their limit."""
        low, high = super().reward_range
        if not self._own_tools:
            return low, high
        more = self.max_turns * (self.tool_limits.calls_per_turn + 1) - 1
        counts = [self._parts[name].range for name in TOOL_PARTS if name != "answered"]
        ends = (math.fsum(each) * more for each in zip(*counts, strict=True))
        return low + next(ends), high + next(ends)

    def problem(self, seed: int, split: str | None = None) -> Problem:
        """Return problem number `seed` of `split`, with the tools."""
        return self._with_tools(super().problem(seed, split))

    def problem_of(self, row: Any) -> Problem:
        """Return the problem of a row, with the tools."""
        return self._with_tools(super().problem_of(row))

    def own_replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Return the reply to the last turn of each episode."""
        if not self._own_tools:
            return super().own_replies(problems, episodes)
        pairs = zip(problems, episodes, strict=True)
        return [respond_safely(self.respond, problem, turns) for problem, turns in pairs]

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Make the calls of the last turn, or grade it if it has none.

        Raises:
            ToolFailed: a tool, its session or its server failed.
        """
        *past, last = turns
        episode = self._sessions.take(problem, past) or self._play(problem, past)
        with ExitStack() as closing:
            closing.callback(episode.close)
            episode.turns = tuple(turns)
            reply = self._reply(problem, last.action, episode)
            if not reply.done and len(turns) < self.turns_of(problem):
                said = dataclasses.replace(last, observation=reply.observation)
                episode.turns = (*past, said)
                closing.pop_all()
                self._sessions.keep(episode)
        return reply

    def close(self) -> None:
        """Close all sessions and the shared servers."""
        self._sessions.close()
        for own in self._own_tools.values():
            if isinstance(own, ServerTool):
                own.server.close()

    def _reply(self, problem: Problem, action: str, episode: Episode) -> Reply:
        _, calls = read_calls(action)
        if not calls:
            reward = self.score_episode(problem, action, episode)
            parts = {**reward.parts, "answered": 1.0}
            return Reply(reward=dataclasses.replace(reward, parts=parts))
        before = [done.call for done in episode.calls]
        answered = self._answer(calls, problem, episode)
        made = [*before, *(each.call for each in answered)]
        parts = {
            "tool_calls": float(len(answered)),
            "tool_errors": float(sum(each.failed for each in answered)),
            "tool_repeats": float(sum(made[i] in made[:i] for i in range(len(before), len(made)))),
        }
        for each in answered:
            for name, value in self.step_reward(problem, each.call, each.result).items():
                parts[name] = parts.get(name, 0.0) + value
        results = tuple(each.result for each in answered)
        reward = Reward(parts=parts)
        return Reply(reward=reward, observation=join_results(results), done=False, results=results)

    def _answer(self, calls: list[Call], problem: Problem, episode: Episode) -> list[Answered]:
        offered = {tool.name for tool in problem.tools} or {*self._own_tools}
        tools = {name: own for name, own in self._own_tools.items() if name in offered}
        answered = answer_calls(calls, tools, episode, self.tool_limits)
        episode.calls += answered
        return answered

    def _play(self, problem: Problem, turns: Sequence[Turn]) -> Episode:
        """Return a new episode, in which the calls of these turns were made again.

        Raises:
            ToolFailed: a call has another result than before.
        """
        episode = Episode(problem, self.session)
        with ExitStack() as closing:
            closing.callback(episode.close)
            for number, turn in enumerate(turns, 1):
                _, calls = read_calls(turn.action)
                results = [each.result for each in self._answer(calls, problem, episode)]
                if calls and join_results(results) != turn.observation:
                    raise ToolFailed(
                        f"the calls of turn {number} were repeated in a new session and returned "
                        f"{join_results(results)[:80]!r} instead of {turn.observation[:80]!r}"
                    )
            closing.pop_all()
        return episode

    def _with_tools(self, problem: Problem) -> Problem:
        every = tuple(own.tool for own in self._own_tools.values())
        return dataclasses.replace(problem, tools=problem.tools or every)

    def _require_session(self) -> None:
        if inspect.isasyncgenfunction(self.session) or inspect.iscoroutinefunction(self.session):
            allowed = "a generator that yields once, or a context manager"
            raise ConfigError(f"{type(self).__name__}.session is async. Allowed: {allowed}.")
        for name, own in self._own_tools.items():
            takes = isinstance(own, FunctionTool) and own.in_order
            if takes and type(self).session is ToolEnv.session:
                owner = type(self).__name__
                raise ConfigError(
                    f"tool {name} takes a state, and {owner} has no session(problem)."
                )
