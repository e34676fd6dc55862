"""A check at load: the solutions of a few rows must pass their tests, as read from the dataset."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from grpo_envs.env import TextEnv
from grpo_envs.env.dataset import Row, Rows
from grpo_envs.errors import DatasetError
from grpo_envs.sandbox.types import Limits
from grpo_envs.types import Problem, Reward

log = logging.getLogger(__name__)

_ROWS, _CASES, _LOOKED_AT = 3, 5, 100


def refuse_failing(env: TextEnv, rows: Rows, *, drop: bool) -> None:
    """Grade the solutions of three rows on the first five cases of each.

    Args:
        env: Reads the rows and grades the solutions.
        rows: The dataset.
        drop: Leave out rows whose solutions fail; if False, they are an error.

    Raises:
        DatasetError: a solution does not earn the maximum; one line names row and reward.
    """
    sample = _sample(env, sorted(rows.all(), key=lambda row: row.number))
    problems = [problem for _, problem in sample]
    rewards = env.score_batch(problems, [problem.solution for problem in problems])
    failing = [
        (row, _failure(env, row, reward))
        for (row, _), reward in zip(sample, rewards, strict=True)
        if not _is_best(env, reward)
    ]
    if failing and not drop:
        raise DatasetError(f"{failing[0][1]} env.unreadable=drop leaves such rows out.")
    if failing:
        log.warning("left out: %s", " ".join(text for _, text in failing))
        rows.drop([row for row, _ in failing])


def _sample(env: TextEnv, rows: Sequence[Row]) -> list[tuple[Row, Problem]]:
    """Return the first rows that have a solution, with few of their cases."""
    found: list[tuple[Row, Problem]] = []
    for row in rows[:_LOOKED_AT]:
        problem = env.from_row(row)
        if problem.solution:
            tests = problem.gold
            few = replace(tests, cases=tests.cases[:_CASES], visible=0)
            found.append((row, replace(problem, gold=few)))
        if len(found) == _ROWS:
            break
    return found


def _is_best(env: TextEnv, reward: Reward) -> bool:
    return reward.valid and all(reward.parts.get(name) == 1 for name in ("passed", "runs"))


def _failure(env: TextEnv, row: Row, reward: Reward) -> str:
    earned = ", ".join(f"{name} {value:g}" for name, value in reward.parts.items())
    detail = " ".join(reward.detail.split())[:200].rstrip(".")
    return f"{row.where}: its solution earns {earned or 'nothing'} ({detail})."


def within(limits: Limits, problem: Problem) -> Limits:
    """Return the limits of a problem; the time limit of its row applies if it is shorter.

    The row's limit is the processor time of one standard input, rounded up, plus a second for
    Python's start and slower machines.
    """
    seconds = problem.meta.get("time_limit")
    if not seconds or problem.gold.kind != "stdio":
        return limits
    return replace(limits, cpu_s=min(limits.cpu_s, math.ceil(seconds) + 1))
