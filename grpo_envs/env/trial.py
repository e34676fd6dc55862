"""Calls of an environment under test, each with a time limit, and answers that test a grader."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_envs.env.calls import write_call
from grpo_envs.env.episode import Episode
from grpo_envs.env.text import TextEnv
from grpo_envs.env.time_limit import time_limit
from grpo_envs.types import Problem, Reward, Turn

Player = Callable[[Problem, Sequence[Turn]], str]
"""Returns the next answer of an episode."""
SECONDS = 30.0
"""The usual time limit of a call."""
_BATCH = 16
"""Answers in a batch: a grader may use several processes."""
_EVERY_NUMBER = " ".join(str(n) for n in range(300))
_COMPUTATION = re.compile(r"\S*\d ?[-+*/^] ?\S*\d\S*")
HOSTILE = (
    " ",
    "\x00",
    "\ud83d",
    "\U0001f600 \u4f60\u597d \u0645\u0631\u062d\u0628\u0627",
    "9" * 5000,
    "9**9**9",
    "1e999999",
    "nan",
    "inf",
    "None",
    "True",
    "\\frac{1}{0}",
    "<answer>",
    "<answer></answer>",
    "</answer>" * 50,
    "</think>",
    "<think>" * 50,
    "\\boxed{",
    "\\boxed{}",
    "{" * 10_000,
    "%s%n{0}{x}",
    "```",
    "```python\nimport sys\nsys.exit(0)\n```",
    "```python\nwhile",
    "I do not know.",
    "<tool_call>",
    '<tool_call>{"name": "no such tool", "arguments": {}}</tool_call>',
)
"""Answers that every grader must survive, for every problem."""

_ODD: tuple[Mapping[str, Any], ...] = (
    {"string": "", "integer": -1, "number": -0.5, "boolean": False, "array": [], "object": {}},
    {"string": "\x00?\ud83d'\"", "integer": 10**30, "number": 1e300, "boolean": True},
)

_WORDS = ("1", "a", "yes", "50")


class NotTried(Exception):
    """A promise cannot be tried on this environment; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An environment, and the time limit of each call.

    Every method raises TooLong if a call does not end in time.
    """

    env: TextEnv
    problems: int = 50
    """Number of problems of each split that a promise is tried on."""
    seconds: float = SECONDS

    def problem(self, seed: int, split: str) -> Problem:
        """Return problem number `seed` of `split`."""
        with time_limit(self.seconds, f"drawing problem {seed} of {split}"):
            return self.env.problem(seed, split)

    def has_several(self, split: str) -> bool:
        """Return whether `split` has more than one problem; a split of a small dataset may not."""
        return self.env.rows is None or self.env.rows.count(split) > 1

    def drawn(self, split: str, count: int | None = None) -> list[Problem]:
        """Return the first `count` problems of `split` (`problems` of them when None)."""
        return [self.problem(seed, split) for seed in range(count or self.problems)]

    def of_both(self) -> list[Problem]:
        """Return the first problems of both splits."""
        return [*self.drawn("train"), *self.drawn("eval")]

    def reward(self, problem: Problem, answer: str) -> Reward:
        """Return the reward of `answer` as the first answer of an episode."""
        return self.rewards([problem], [answer])[0]

    def rewards(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Return the reward of each answer; the answers are graded together."""
        episodes = [[Turn(action=answer)] for answer in answers]
        with time_limit(self.seconds * len(answers), f"grading {answers[0][:40]!r}"):
            return [reply.reward for reply in self.env.reply_batch(problems, episodes)]

    def tools_that_fail(self) -> Iterator[str]:
        """Yield odd calls that make the reward invalid, with the reason; two problems are tried."""
        for problem in self.drawn("train", min(self.problems, 2)):
            for call in odd_calls(problem):
                reward = self.reward(problem, call)
                if not reward.valid:
                    yield f"{call[:120]!r}: {reward.error}"

    def solved(self) -> Iterator[tuple[str, Problem, Reward]]:
        """Yield each problem that has a solution, with the reward of the solution.

        If the problems are rows of a dataset, all rows, with file and row.
        """
        known = [(where, problem) for where, problem in self.every_problem() if problem.solution]
        for start in range(0, len(known), _BATCH):
            places, problems = zip(*known[start : start + _BATCH], strict=True)
            rewards = self.rewards(problems, [problem.solution for problem in problems])
            yield from zip(places, problems, rewards, strict=True)

    def every_problem(self) -> list[tuple[str, Problem]]:
        """Return the problems of all rows, or the first problems if there is no dataset.

        Each problem comes after a prefix for messages: the file and row.
        """
        rows = self.env.rows
        if rows is None:
            return [("", problem) for problem in self.of_both()]
        with time_limit(self.seconds * len(rows), "reading the rows"):
            return [(f"{row.where}: ", self.env.problem_of(row)) for row in rows.all()]

    def play(self, problem: Problem, player: Player) -> tuple[list[Turn], list[Reward]]:
        """Play an episode to its end; return its turns and their rewards."""
        episode = Episode(self.env, problem)
        while not episode.over:
            with time_limit(self.seconds, f"turn {len(episode.turns) + 1} of an episode"):
                episode.answer(player(problem, episode.turns))
        return episode.turns, episode.rewards

    def most(self, problem: Problem) -> float:
        """Return the most that an answer to `problem` can earn."""
        return self.env.range_of(problem)[1]


def without_waiting(env: TextEnv) -> TextEnv:
    """Return the environment without reward functions that see whole episodes, such as judges.

    The promises do not cover these functions, and a trial grades thousands of answers.
    """
    if not env.waits:
        return env
    bare = copy.copy(env)
    late = {name for name, function in env._functions.items() if function.late}
    bare._functions = {name: f for name, f in env._functions.items() if name not in late}
    bare._parts = {name: part for name, part in env._parts.items() if name not in late}
    bare._optional = env._optional - late
    bare.weights = {name: part.weight for name, part in bare._parts.items()}
    return bare


def good_player(env: TextEnv, problem: Problem) -> Player | None:
    """Return a player that solves the problem; None if no solution is known."""
    if env.turns_of(problem) > 1:
        return env.demonstrate if env.demonstrate(problem, []) else None
    return always(problem.solution) if problem.solution else None


def mumble(problem: Problem, turns: Sequence[Turn]) -> str:
    """Return a useless answer in every turn, which no environment may reward."""
    return "I do not know."


def say_a_word(problem: Problem, turns: Sequence[Turn]) -> str:
    """Return a single word, which many games accept as a move."""
    return _WORDS[(len(problem.prompt) + len(turns)) % len(_WORDS)]


def say_a_word_in_a_tag(problem: Problem, turns: Sequence[Turn]) -> str:
    """Return the same word in an answer tag."""
    return f"<answer>{say_a_word(problem, turns)}</answer>"


def always(answer: str) -> Player:
    """Return a player that gives `answer` in every turn."""
    return lambda _problem, _turns: answer


def odd_calls(problem: Problem) -> Iterator[str]:
    """Yield calls that every tool must survive: without arguments, or with odd values."""
    for tool in problem.tools:
        properties: Mapping[str, Any] = tool.parameters.get("properties", {})
        yield write_call(tool.name, {})
        for odd in _ODD:
            yield write_call(
                tool.name, {name: _odd(each, odd) for name, each in properties.items()}
            )


def _odd(schema: Any, odd: Mapping[str, Any]) -> Any:
    """Return an odd value for a schema; only its type and its `enum` are considered."""
    if not isinstance(schema, Mapping):
        return None
    kind = schema.get("type", "string")
    return schema["enum"][0] if schema.get("enum") else odd.get(str(kind))


def made_of(problem: Problem) -> Iterator[str]:
    """Yield every answer at once, and wrong answers in the form of the solution.

    The wrong answers are near misses, and terms of the prompt (3+4 in place of 7).
    """
    gold = str(problem.gold)
    shotgun = f"{_EVERY_NUMBER} {gold} -1"
    yield shotgun
    head, found, tail = problem.solution.rpartition(gold)
    if gold and found:
        yield head + shotgun + tail
        yield "".join(f"{head}{n}{tail}" for n in shotgun.split())
        near = [str(int(gold) + 1)] if gold.isdecimal() else []
        asked = [found[0].rstrip(".,?") for found in _COMPUTATION.finditer(problem.prompt)]
        for wrong in ("nan", "inf", f"{gold}1", f"1{gold}", *near, *asked):
            yield head + wrong + tail
