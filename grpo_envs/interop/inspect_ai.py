"""Inspect: an environment as a task of inspect-ai, for single answers and conversations.

    inspect eval grpo_envs/environment -T env=countdown -T level=2 --model openai/gpt-5

`play` is its solver and `reward` its scorer; any other solver may answer single answers. Written
for inspect-ai 0.3.285.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from click import ClickException
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolCall, ToolDef, ToolParams

from grpo_envs.env.calls import write_call, write_unreadable
from grpo_envs.errors import ConfigError
from grpo_envs.interop.rows import (
    Episode,
    Row,
    environment_of,
    grade,
    messages_of,
    require_each_alone,
    rows_of,
)
from grpo_envs.types import Tool

_EARNED = "grpo_envs"
"""Key of a sample's store for the reward of its answers so far."""
_MESSAGES: dict[str, Any] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


class Mistake(ClickException, ConfigError):
    """A mistake in the task's arguments, which `inspect eval` shows as one line: it uses click."""


@task
def environment(env: str = "", *, split: str = "eval", rows: int = 128, **keywords: Any) -> Task:
    """Return the task of the environment registered under `env`, made with `keywords`.

    Args:
        env: The name of the environment.
        split: `eval`, held-out problems, or `train`.
        rows: Number of problems, from seed 0 on.
        **keywords: Keywords of the environment: `-T level=2`.

    Raises:
        Mistake: there is no such environment or keyword, the environment grades all answers of a
            step together, or Inspect cannot represent the schema of a tool.
    """
    try:
        found, _ = environment_of(env, keywords)
        require_each_alone(env, found, "Inspect")
        samples = [_sample(row) for row in rows_of(env, keywords, split, rows)]
    except ConfigError as error:
        raise Mistake(str(error)) from error
    return Task(
        dataset=MemoryDataset(samples, name=f"{env}/{split}"), solver=play(), scorer=reward()
    )


@solver
def play() -> Solver:
    """Play a problem to its end; in a conversation the environment is the user.

    The model sees the environment's tools, and all calls of a turn are made together.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        episode = Episode(Row.of(state.metadata))
        state.tools = [*map(_shown, episode.problem.tools)]
        while True:
            state = await generate(state, tool_calls="none")
            calls = state.output.message.tool_calls or []
            answer = state.output.completion + "".join(map(_written, calls))
            said = await asyncio.to_thread(episode.answer, answer)
            graded = episode.graded
            state.store.set(_EARNED, [graded.total, dict(graded.parts), graded.note])
            if episode.over:
                return state
            results = _results(calls, episode.results)
            state.messages += results or [ChatMessageUser(content=said)]

    return solve


@scorer(metrics={"*": [mean(), stderr()]})
def reward() -> Scorer:
    """Score the whole reward, `reward`, and each part of it; a failed grader gives no score.

    A conversation that a limit of Inspect ended early has the reward up to there.

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
        # Every sample has every key; NaN for a part that does not apply, which the mean ignores.
        known = {name: parts.get(name, math.nan) for name in row.environment.weights}
        return Score(value={**known, "reward": total}, answer=answer, explanation=note)

    return score


def _shown(tool: Tool) -> ToolDef:
    """Return a tool in the form of Inspect.

    Raises:
        ConfigError: Inspect would leave out keys of its schema.
    """

    async def make(**_: Any) -> str:
        raise RuntimeError(f"tool {tool.name}: only the solver `play` makes calls.")

    parameters = ToolParams.model_validate(tool.parameters)
    if parameters.model_dump(exclude_unset=True) != tool.parameters:
        raise ConfigError(f"tool {tool.name}: its JSON Schema has keys that Inspect leaves out.")
    return ToolDef(make, tool.name, tool.description or tool.name, parameters)


def _written(call: ToolCall) -> str:
    """Return a call in the canonical form, also if Inspect could not read its arguments."""
    if call.parse_error:
        return write_unreadable(call.parse_error)
    return write_call(call.function, call.arguments)


def _results(calls: Sequence[ToolCall], results: Sequence[str]) -> list[ChatMessage]:
    """Return the messages of results; calls beyond the limit of a turn share the last result."""
    own = results[-len(calls) :]
    return [
        ChatMessageTool(
            content=own[min(i, len(own) - 1)], tool_call_id=call.id, function=call.function
        )
        for i, call in enumerate(calls if own else ())
    ]


def _sample(row: Row) -> Sample:
    for tool in row.problem.tools:
        _shown(tool)  # raises before the model runs if Inspect cannot show the tool
    turns: list[ChatMessage] = [
        _MESSAGES[turn["role"]](content=turn["content"]) for turn in messages_of(row)
    ]
    return Sample(input=turns, id=f"{row.env}/{row.split}/{row.seed}", metadata=row.columns)
