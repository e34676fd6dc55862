"""verifiers v1: an environment as a taskset, and an `Env` that plays its conversations.

Write a module to make it a taskset package for `vf-eval my_task --env.taskset.env countdown`:

    # my_task.py
    from grpo_envs.interop.verifiers import GrpoEnv, GrpoTaskset

    __all__ = ["GrpoEnv", "GrpoTaskset"]

Written for verifiers 0.4.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any, Self

import verifiers.v1 as vf
from pydantic import Field, model_validator

from grpo_envs.env import SPLITS
from grpo_envs.env.installed import ENVS, available
from grpo_envs.errors import ConfigError, GrpoEnvsError, require_one_of
from grpo_envs.interop.rows import (
    Episode,
    Graded,
    Row,
    environment_of,
    grade,
    messages_of,
    require_each_alone,
    rows_of,
)
from grpo_envs.interop.verifiers_tools import tools_of

_EARNED = "grpo_envs"
"""Key of a trace's `info` for the reward of a conversation."""


class GraderFailed(GrpoEnvsError):
    """The grader failed: verifiers stores the error in the trace, whose reward stays None."""


class NoEnvironment(ConfigError, SystemExit):
    """The config names no environment. A command of verifiers ends with this line only."""

    def __init__(self, line: str) -> None:
        """Take the line."""
        super().__init__(line)
        self.code = line


class GrpoData(vf.TaskData):
    """The data of a task, with its row."""

    row: dict[str, Any]


class GrpoTasksetConfig(vf.TasksetConfig):
    """`--env.taskset.env countdown --env.taskset.keywords '{"level": 2}'`."""

    env: str = ""
    """The name of the environment. verifiers first makes a config with defaults, so the taskset
    refuses ''."""
    keywords: dict[str, Any] = Field(default_factory=dict)
    split: str = "train"

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        """Refuse a mistake here, because `vf-eval` shows the errors of a config without traceback.

        Raises:
            ConfigError: there is no such environment, keyword or split, or the environment grades
                all answers of a step together.
        """
        if self.env:
            env, _ = environment_of(self.env, self.keywords)
            require_each_alone(self.env, env, "verifiers")
        require_one_of("split", self.split, SPLITS)
        return self


class GrpoTask(vf.Task[GrpoData]):
    """A problem; its reward is the whole reward, and the parts are metrics."""

    @vf.reward
    async def reward(self, trace: vf.Trace) -> float:
        """Return the reward of the answer, or the reward of the conversation that `GrpoEnv` stored.

        Raises:
            GraderFailed: the grader failed.
        """
        earned = trace.info.get(_EARNED)
        if earned is None:
            row, answer = Row.of(self.data.row), _reply(trace)
            (graded,) = await asyncio.to_thread(grade, [row], [answer])
            earned = _noted(graded)
        if earned["total"] is None:
            raise GraderFailed(earned["note"])
        trace.record_metrics(earned["parts"])
        return float(earned["total"])


class GrpoTaskset(vf.Taskset[GrpoTask, GrpoTasksetConfig]):
    """All problems of a split, in the order of their seeds, without end."""

    INFINITE = True

    def __init__(self, config: GrpoTasksetConfig) -> None:
        """Take the environment that the config names.

        Raises:
            NoEnvironment: the config names none.
        """
        super().__init__(config)
        if not config.env:
            names = ", ".join(available(ENVS))
            raise NoEnvironment(f"--env.taskset.env is missing. Allowed: {names}.")

    def load(self) -> Iterator[GrpoTask]:
        """Yield the tasks."""
        name, keywords, split = self.config.env, self.config.keywords, self.config.split
        for seed in count():
            (row,) = rows_of(name, keywords, split, 1, first=seed)
            messages = messages_of(row)
            system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
            data = GrpoData(
                name=f"{name}/{split}/{seed}",
                prompt=messages[0]["content"] if len(messages) == 1 else messages,
                system_prompt=system,
                row=row.columns,
            )
            yield GrpoTask(data, self.config.task)


class GrpoEnvConfig(vf.EnvConfig):
    """A single agent: a chat model without its own tools, unless another harness is named."""

    player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"})


class GrpoEnv(vf.Env[GrpoEnvConfig]):
    """Plays a problem; in a conversation the environment is the user.

    The model may call the environment's tools through an MCP server.
    """

    async def run(self, task: GrpoTask, agents: Any) -> None:
        """Play one problem to its end, and store its reward for `GrpoTask.reward`."""
        episode = Episode(Row.of(task.data.row))
        async with (
            tools_of(episode) as tools,
            agents.player.interaction(task, tools=tools) as interaction,
        ):
            segment = await interaction.turn()
            while not segment.terminated:
                answer = _reply(interaction.trace)
                said = await asyncio.to_thread(episode.answer, answer)
                if episode.over:
                    break
                segment = await interaction.turn(said)
            interaction.trace.info[_EARNED] = _noted(episode.graded)


def _noted(graded: Graded) -> dict[str, Any]:
    return {"total": graded.total, "parts": dict(graded.parts), "note": graded.note}


def _reply(trace: vf.Trace) -> str:
    """Return the last answer unchanged: `trace.last_reply` is stripped."""
    return (trace.assistant_messages[-1].content or "") if trace.assistant_messages else ""


__all__ = ["GrpoEnv", "GrpoTaskset"]
