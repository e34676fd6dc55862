"""A task for other trainers: rows that name problems, and the rewards of answers to them.

A row never has a gold answer. It names the environment, its keywords, the split and the seed; the
grader draws the problem again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Any, Self
from weakref import WeakKeyDictionary

from grpo_envs.env import SPLITS, TextEnv, episode
from grpo_envs.env.episode import graded_alone
from grpo_envs.env.grading import reentrant
from grpo_envs.env.plugins import make
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.types import Problem, Reward, Turn

Message = dict[str, Any]
_DIGITS = 16
_OBJECT = "a JSON object, the environment's keywords"
_locks: WeakKeyDictionary[TextEnv, threading.Lock] = WeakKeyDictionary()
_locking = threading.Lock()


@dataclass(frozen=True, slots=True)
class Row:
    """The identity of a problem."""

    env: str
    keywords: str
    """Keywords of the environment, as a JSON object."""
    split: str
    seed: int
    digest: str
    """Digest of the prompt, by which a grader notices that it draws another problem."""

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """Return the row from another trainer's columns, which may have other columns, too.

        Raises:
            ConfigError: a column is missing, or has a value that no row has.
        """
        missing = [field.name for field in fields(cls) if field.name not in columns]
        if missing:
            raise ConfigError(f"not a row of grpo-envs: it has no {', '.join(missing)}.")
        named = {field.name: columns[field.name] for field in fields(cls)}
        for name in ("env", "keywords", "split", "digest"):
            require(isinstance(named[name], str), *_column(name, named[name]), "a text")
        require(_is_object(named["keywords"]), *_column("keywords", named["keywords"]), _OBJECT)
        require_one_of("the row's split", named["split"], SPLITS)
        seed = named["seed"]
        require(_is_seed(seed), *_column("seed", seed), "a whole number from 0 on")
        return cls(**{**named, "seed": int(seed)})

    @property
    def columns(self) -> dict[str, Any]:
        """The row as columns of another trainer's data set: strings and one number."""
        return asdict(self)

    @property
    def environment(self) -> TextEnv:
        """The environment; rows with the same name and keywords share it: grading is stateless."""
        return _environment(self.env, self.keywords)

    @property
    def problem(self) -> Problem:
        """The problem, drawn again.

        Raises:
            ConfigError: it is not the problem from which the row was made.
        """
        env = self.environment
        with _held(env):
            problem = env.problem(self.seed, self.split)
        if _digest(problem) != self.digest:
            raise ConfigError(
                f"env={self.env}, {self.split} problem {self.seed}: its prompt is not the row's. "
                "The rows come from another version, or the dataset has changed: export them again."
            )
        return problem


@dataclass(frozen=True, slots=True)
class Graded:
    """The reward of an answer or a conversation."""

    total: float | None
    """The reward; None if the grader failed, which does not mean a wrong answer."""
    parts: Mapping[str, float]
    """Every part that applies to the problem; {} if the grader failed."""
    note: str
    """A note or error for people."""

    @classmethod
    def of(cls, env: TextEnv, reward: Reward) -> Self:
        """Return a reward in the form for other trainers."""
        if not reward.valid:
            return cls(total=None, parts={}, note=reward.detail)
        return cls(total=reward.total, parts=env.parts_of(reward), note=reward.detail)


class Episode:
    """A problem that is played answer by answer."""

    def __init__(self, row: Row) -> None:
        self.env = row.environment
        self.results: tuple[str, ...] = ()
        """Results of the tool calls of the last answer, see `Reply.results`."""
        self.problem = row.problem
        self._played = episode.Episode(self.env, self.problem)

    def answer(self, text: str) -> str:
        """Grade an answer and return the environment's reply; '' if the episode is over."""
        if self.over:
            return ""
        with _held(self.env):
            reply = self._played.answer(text)
        self.results = reply.results
        return reply.observation

    @property
    def over(self) -> bool:
        """Whether the environment ended the episode, or its answers are used up."""
        return self._played.over

    @property
    def turns(self) -> int:
        """Number of answers so far."""
        return len(self._played.turns)

    @property
    def graded(self) -> Graded:
        """The reward of all answers together; without any answer, that of ''."""
        if not self.turns:
            self.answer("")
        return Graded.of(self.env, self._played.reward)


def environment_of(name: str, keywords: Mapping[str, Any]) -> tuple[TextEnv, str]:
    """Return an environment and its keywords as JSON.

    Raises:
        ConfigError: there is no such environment or keyword, a value is not a JSON value, or its
            problems adapt to success, which other trainers do not report.
    """
    require(isinstance(name, str), "env", name, "the name of an environment")
    require(isinstance(keywords, Mapping), "keywords", keywords, "names with values")
    require("split" not in keywords, "split", keywords.get("split"), "none, as each row has one")
    try:
        written = json.dumps(dict(keywords), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"env={name}: rows hold keywords as JSON: {error}.") from error
    env = _environment(name, written)
    require_fixed(name, env)
    return env, written


def rows_of(
    name: str, keywords: Mapping[str, Any], split: str, count: int, *, first: int = 0
) -> list[Row]:
    """Return the rows of `count` problems of a split, from seed `first` on."""
    require_one_of("split", split, SPLITS)
    require(_is_whole(count, 1), "rows", count, "a whole number from 1 on")
    require(_is_whole(first, 0), "first", first, "a whole number from 0 on")
    env, written = environment_of(name, keywords)
    seeds = range(first, first + count)
    return [Row(name, written, split, i, _digest(env.problem(i, split))) for i in seeds]


def messages_of(row: Row) -> list[Message]:
    """Return the prompt as chat messages, the system message first."""
    problem, env = row.problem, row.environment
    system = env.system_prompt_of(problem)
    turns = problem.messages or ({"role": "user", "content": problem.prompt},)
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *(dict(turn) for turn in turns)]


def grade(rows: Sequence[Row], answers: Sequence[str]) -> list[Graded]:
    """Grade single answers; those of the same environment are graded together.

    Raises:
        ConfigError: a row's problem is a conversation, or has tools.
    """
    graded: dict[int, Graded] = {}
    problems = {row: row.problem for row in dict.fromkeys(rows)}
    for row, problem in problems.items():
        if kind := _more_than_an_answer(row.environment, problem):
            raise ConfigError(
                f"env={row.env}: {kind}, for which a single answer is not enough. "
                "Play it (docs/interop.md)."
            )
    for env in dict.fromkeys(row.environment for row in rows):
        members = [i for i, row in enumerate(rows) if row.environment is env]
        episodes = [[Turn(action=answers[i])] for i in members]
        with _held(env):
            rewards = graded_alone(env, [problems[rows[i]] for i in members], episodes)
        graded |= {i: Graded.of(env, r) for i, r in zip(members, rewards, strict=True)}
    return [graded[i] for i in range(len(rows))]


def require_fixed(name: str, env: TextEnv) -> None:
    """Refuse an environment whose problems adapt to success."""
    learns = any(value not in ({}, [], None) for value in env.state_dict().values())
    if type(env).adapt is not TextEnv.adapt and learns:
        raise ConfigError(
            f"env={name}: its levels follow success, which other trainers do not report. Give it "
            "fixed levels."
        )


def require_each_alone(name: str, env: TextEnv, trainer: str) -> None:
    """Refuse an environment that grades answers together, for a trainer that grades each alone."""
    if env.compares or not env.grades_each_alone:
        what = "sees the group" if env.compares else "takes all answers of a step at once"
        raise ConfigError(
            f"env={name}: env.rewards has a function that {what}; {trainer} grades each alone."
        )


def require_single(name: str, rows: Sequence[Row], why: str) -> None:
    """Refuse rows if a problem is a conversation or has tools; `why` ends the message."""
    for row in rows:
        if kind := _more_than_an_answer(row.environment, row.problem):
            raise ConfigError(f"env={name}: {kind}, {why}.")


def _more_than_an_answer(env: TextEnv, problem: Problem) -> str:
    """Return the kind of a problem that needs more than one answer; '' for other problems."""
    if problem.tools:
        return "a problem with tools"
    return "a conversation" if env.turns_of(problem) > 1 else ""


def _held(env: TextEnv) -> AbstractContextManager[Any]:
    """Return the context that a thread enters to call an environment: trainers grade in threads.

    An environment that is not `reentrant` has its own lock, so a slow one does not block others.
    """
    if reentrant(env):
        return nullcontext()
    with _locking:
        return _locks.setdefault(env, threading.Lock())


@cache
def _environment(name: str, keywords: str) -> TextEnv:
    return make(name, **json.loads(keywords))


def _column(name: str, value: object) -> tuple[str, str]:
    """Return how a message names a column and shows its value."""
    return f"the row's {name}", repr(value)[:80]


def _is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_seed(value: object) -> bool:
    """Whether a value is a whole number from 0 on, of whatever type a table gives it."""
    if isinstance(value, Integral):
        return _is_whole(value, 0)
    return isinstance(value, Real) and float(value) >= 0 and float(value).is_integer()


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _digest(problem: Problem) -> str:
    prompt = json.dumps([problem.system_prompt, problem.prompt, list(map(dict, problem.messages))])
    return hashlib.sha256(prompt.encode()).hexdigest()[:_DIGITS]
