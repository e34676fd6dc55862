"""The rewards of several kinds of answers to one problem, which make loopholes visible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

from grpo_envs.env.rewards import summed
from grpo_envs.env.text import TextEnv
from grpo_envs.env.trial import (
    HOSTILE,
    Player,
    Trial,
    always,
    good_player,
    made_of,
    without_waiting,
)
from grpo_envs.types import Problem

_LOOK = 100  # problems that are searched for another gold
_NO_SOLUTION = "the problem has no solution"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The reward of one kind of answer."""

    kind: str
    answers: tuple[str, ...] = ()
    """The answers of all turns; () if there is no answer of this kind."""
    parts: Mapping[str, float | None]
    """Each part before weighting, summed over the turns; None if it does not apply."""
    total: float | None = None
    """The weighted sum; None without an answer, or if the grader failed."""
    valid: bool = True
    note: str = ""
    """Why there is no answer, or why it is not valid."""


def score_sheet(env: TextEnv, seed: int, split: str = "train") -> list[Row]:
    """Grade every kind of answer to problem number `seed` of `split`, without a policy.

    In a conversation, `gold` plays the environment's demonstration. The other kinds repeat one
    answer in each turn, to the end of the episode.

    Returns:
        gold: the solution. empty: ''. truncated: the first half of the solution. wrong: the
        solution of the next problem with another gold. hacked: of the answers that must not be
        rewarded (every answer at once, text that breaks parsers), the one that earns most. echo:
        the prompt.
    """
    problem = env.problem(seed, split)
    half = problem.solution[: len(problem.solution) // 2]
    bare, tricks = without_waiting(env), (*made_of(problem), *HOSTILE)
    hack = max(tricks, key=lambda answer: _earned(_said(bare, problem, "hacked", answer)))
    return [
        _gold(env, problem),
        _said(env, problem, "empty", ""),
        _said(env, problem, "truncated", half) if half else _nothing(env, "truncated"),
        _wrong(env, problem, (env.problem(number, split) for number in count(seed + 1))),
        _said(env, problem, "hacked", hack),
        _said(env, problem, "echo", problem.prompt),
    ]


def demonstration(env: TextEnv, problem: Problem) -> list[str]:
    """Return the answers of a good player; [] if the environment has no demonstration."""
    player = good_player(env, problem)
    return [turn.action for turn in Trial(env=env).play(problem, player)[0]] if player else []


def _gold(env: TextEnv, problem: Problem) -> Row:
    player = good_player(env, problem)
    return _played(env, problem, "gold", player) if player else _nothing(env, "gold")


def _wrong(env: TextEnv, problem: Problem, others: Iterator[Problem]) -> Row:
    for other in islice(others, _LOOK):
        if other.solution and other.gold != problem.gold:
            return _said(env, problem, "wrong", other.solution)
    return _nothing(env, "wrong", f"none of the next {_LOOK} has another gold and a solution")


def _said(env: TextEnv, problem: Problem, kind: str, answer: str) -> Row:
    return _played(env, problem, kind, always(answer))


def _played(env: TextEnv, problem: Problem, kind: str, player: Player) -> Row:
    turns, rewards = Trial(env=env).play(problem, player)
    reward = summed(rewards)
    info = env.info_for(reward) if reward.valid else {}
    return Row(
        kind=kind,
        answers=tuple(turn.action for turn in turns),
        parts={name: info.get(f"reward/{name}") for name in env.weights},
        total=reward.total if reward.valid else None,
        valid=reward.valid,
        note="" if reward.valid else reward.error,
    )


def _nothing(env: TextEnv, kind: str, why: str = _NO_SOLUTION) -> Row:
    return Row(kind=kind, parts=dict.fromkeys(env.weights), note=why)


def _earned(row: Row) -> tuple[bool, float]:
    return row.total is not None, row.total or 0.0
