"""Problems that leave room for an answer in the model's context. Without torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from grpo_envs.env import TextEnv
from grpo_envs.errors import ConfigError
from grpo_envs.types import Problem
from grpo_policy.chat import NO_LIMIT, Chat

log = logging.getLogger(__name__)
_IN_A_ROW = 1000
"""The search for a problem with room ends after so many consecutive problems without room."""


@dataclass(slots=True)
class Room:
    """Finds the problems of an environment whose prompt leaves room for an answer.

    A prompt and its answer share the context, so at least one token must fit after the prompt. An
    answer may take all the room that its prompt leaves.
    """

    env: TextEnv
    chat: Chat
    drop: bool = True
    """Whether problems without room are left out; if not, they are an error (`env.too_long`)."""
    left_out: int = field(default=0, init=False)
    """How many problems `take` has left out."""

    def check(self) -> None:
        """Look for a problem with room; if `drop` is False, check every row of a dataset.

        The chat template is also tried with what later problems need: turns and tools.

        Raises:
            ConfigError: no problem has room, or a row has no room and `drop` is False; or the
                template cannot continue after an answer, or cannot be used with tools.
        """
        self._require_replies(self.env.problem(self.find(0)))
        if not self.drop and self.env.rows is not None:
            for number in range(self.env.rows.count(self.env.split)):
                self._fits(number)

    def find(self, first: int) -> int:
        """Return the first problem with room, from number `first` on.

        Raises:
            ConfigError: a problem has no room and `drop` is False, or no problem has room.
        """
        rows = self.env.rows
        most = _IN_A_ROW if rows is None else min(_IN_A_ROW, rows.count(self.env.split))
        for number in range(first, first + most):
            if self._fits(number):
                return number
        raise self.no_problem()

    def take(self, first: int, count: int) -> tuple[list[int], int]:
        """Return the next `count` problems with room, from number `first` on.

        Returns:
            The numbers of the problems, and how many problems in between were left out.

        Raises:
            ConfigError: as in `find`.
        """
        found: list[int] = []
        following = first
        while len(found) < count:
            found.append(self.find(following))
            following = found[-1] + 1
        left_out = following - first - count
        self._count(left_out)
        return found, left_out

    def among(self, problems: Sequence[int]) -> list[int]:
        """Return those of `problems` that have room.

        Raises:
            ConfigError: a problem has no room and `drop` is False.
        """
        found = [number for number in problems if self._fits(number)]
        if len(found) < len(problems):
            left_out = len(problems) - len(found)
            log.warning("%d of %d problems of %s", left_out, len(problems), self._too_long())
        return found

    def render(self, number: int) -> tuple[int, ...]:
        """Return the tokens of a problem's prompt."""
        problem = self.env.problem(number)
        system = self.env.system_prompt_of(problem)
        tools = [tool.schema for tool in problem.tools]
        return self.chat.render(problem.prompt, system, problem.messages, tools)

    def _require_replies(self, problem: Problem) -> None:
        """Try to render the replies that episodes need; `problem` is any problem of `env`."""
        env = self.env
        tools = env.uses_tools and self.chat.tool_use.shown
        if max(env.max_turns, env.turns_of(problem)) > 1:
            for results in ((), ("?",)) if tools else ((),):
                self.chat.follow_up("?", ended=True, results=results)

    def no_problem(self) -> ConfigError:
        """Return the error that all problems are too long."""
        return ConfigError(
            f"every problem of the split {self.env.split} leaves no room for an answer in the "
            f"model's context of {self.chat.context_length:,} tokens. Use shorter problems or a "
            "model with a longer context."
        )

    def _count(self, left_out: int) -> None:
        """Log how many problems were left out so far: at the first, the tenth, the hundredth."""
        before, self.left_out = self.left_out, self.left_out + left_out
        if left_out and (not before or len(str(before)) < len(str(self.left_out))):
            log.warning("%d problems so far of %s", self.left_out, self._too_long())

    def _too_long(self) -> str:
        return (
            f"the split {self.env.split} leave no room for an answer in the model's context of "
            f"{self.chat.context_length:,} tokens: left out"
        )

    def _fits(self, number: int) -> bool:
        limit = self.chat.context_length
        if limit == NO_LIMIT or (tokens := len(self.render(number))) < limit:
            return True
        if self.drop:
            return False
        raise ConfigError(
            f"env.too_long=error: the prompt {self.env.problem(number).prompt[:40]!r}... has "
            f"{tokens:,} tokens and leaves no room for an answer in the model's context of "
            f"{limit:,}. env.too_long=drop leaves such problems out."
        )
