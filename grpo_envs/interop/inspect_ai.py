"""Inspect: an environment as a task of inspect-ai, single answers and conversations.

    inspect eval grpo_envs/environment -T env=countdown -T level=2 --model openai/gpt-5

`play` is its solver and `reward` its scorer; any other solver may answer single answers. Written
for inspect-ai 0.3.285.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from grpo_envs.interop.rows import (
    Episode,
    Row,
    environment_of,
    grade,
    messages_of,
    require_each_alone,
    rows_of,
)

_EARNED = "grpo_envs"
"""Where a sample's store has what its answers have earned so far."""
_MESSAGES: dict[str, Any] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


@task
def environment(env: str = "", *, split: str = "eval", rows: int = 128, **keywords: Any) -> Task:
    """Return the task of the environment registered under `env`, made with `keywords`.

    Args:
        env: Its name.
        split: `eval`, held-out problems, or `train`.
        rows: How many problems, from seed 0 on.
        **keywords: Of the environment: `-T level=2`.

    Raises:
        ConfigError: there is no such environment or keyword, or it grades all answers of a step
            together.
    """
    found, _ = environment_of(env, keywords)
    require_each_alone(env, found, "Inspect")
    samples = [_sample(row) for row in rows_of(env, keywords, split, rows)]
    return Task(
        dataset=MemoryDataset(samples, name=f"{env}/{split}"), solver=play(), scorer=reward()
    )


@solver
def play() -> Solver:
    """Play a problem to its end: the environment is the user that answers, if it has turns."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        episode = Episode(Row.of(state.metadata))
        while True:
            state = await generate(state)
            said = await asyncio.to_thread(episode.answer, state.output.completion)
            graded = episode.graded
            state.store.set(_EARNED, [graded.total, dict(graded.parts), graded.note])
            if episode.over:
                return state
            state.messages.append(ChatMessageUser(content=said))

    return solve


@scorer(metrics={"*": [mean(), stderr()]})
def reward() -> Scorer:
    """Score `reward`, the whole reward, and each part of it; a failed grader leaves it unscored.

    A conversation that a limit of Inspect ended early has what it earned until then.

    Raises:
        ConfigError: another solver than `play` answered a conversation.
    """

    async def score(state: TaskState, target: Target) -> Score:
        row, answer = Row.of(state.metadata), state.output.completion
        if (earned := state.store.get(_EARNED)) is None:
            (graded,) = await asyncio.to_thread(grade, [row], [answer])
            earned = graded.total, graded.parts, graded.note
        total, parts, note = earned
        if total is None:
            return Score.unscored(reason="scoring_failed", answer=answer, explanation=note)
        # Every sample has every key; NaN, a part that does not apply, is left out of its mean.
        known = {name: parts.get(name, math.nan) for name in row.environment.weights}
        return Score(value={**known, "reward": total}, answer=answer, explanation=note)

    return score


def _sample(row: Row) -> Sample:
    turns: list[ChatMessage] = [
        _MESSAGES[turn["role"]](content=turn["content"]) for turn in messages_of(row)
    ]
    return Sample(input=turns, id=f"{row.env}/{row.split}/{row.seed}", metadata=row.columns)
