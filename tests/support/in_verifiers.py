"""Plays given answers through our verifiers taskset and env, in a Python that has verifiers.

Reads {"environment": [[answer, ...], ...]} from stdin, the episodes of problems 0, 1, ...; prints
the rewards in the same form, null where there is none. A scripted agent takes the model's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import verifiers.v1 as vf
from mcp import Client
from verifiers.v1.graph import MessageNode
from verifiers.v1.trace import TraceTask
from verifiers.v1.types import AssistantMessage, UserMessage

from grpo_envs.env.calls import read_calls
from grpo_envs.interop.verifiers import GrpoEnv, GrpoTaskset, GrpoTasksetConfig


class Player:
    """An agent's interaction, whose model says given answers; their calls are made by MCP."""

    def __init__(self, task: Any, answers: Sequence[str]) -> None:
        self.left = list(answers)
        self.tools = ""
        self.trace = vf.Trace(
            task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo.model_construct(name="player", trainable=True),
        )
        self.say(UserMessage(content=task.data.prompt_text))

    def say(self, message: Any, *, sampled: bool = False) -> None:
        parent = len(self.trace.nodes) - 1
        node = MessageNode(message=message, parent=parent if parent >= 0 else None, sampled=sampled)
        self.trace.nodes.append(node)

    async def turn(self, message: str | None = None) -> Any:
        if message is not None:
            self.say(UserMessage(content=message))
        answer = self.left.pop(0)
        while self.tools and (calls := read_calls(answer)[1]):
            (call,) = calls
            async with Client(self.tools) as client:
                assert call.name in {tool.name for tool in (await client.list_tools()).tools}
                await client.call_tool(call.name, dict(call.arguments))
            if not self.left:  # it was the last turn
                return SimpleNamespace(terminated=False)
            answer = self.left.pop(0)
        self.say(AssistantMessage(content=answer), sampled=True)
        return SimpleNamespace(terminated=False)


async def alone(task: Any, answers: Sequence[str]) -> Any:
    """A single answer, scored by the task itself: any Env of verifiers."""
    player = Player(task, answers)
    await player.turn()
    await task.score(player.trace, None)
    return player.trace


async def played(task: Any, answers: Sequence[str]) -> Any:
    """An episode played by our Env, then scored."""
    player = Player(task, answers)

    @contextlib.asynccontextmanager
    async def interaction(_: Any, tools: Any) -> AsyncIterator[Player]:
        if tools:
            (server,) = tools.values()
            player.tools = server.url
        yield player

    agents = SimpleNamespace(player=SimpleNamespace(interaction=interaction))
    await GrpoEnv.run(object.__new__(GrpoEnv), task, agents)
    await task.score(player.trace, None)
    assert not player.left, "the environment ended before the answers did"
    return player.trace


async def earned(task: Any, answers: Sequence[str]) -> float | None:
    traces = [await played(task, answers)]
    if len(answers) == 1 and task.data.row["env"] not in ("guess", "calculator"):
        traces.append(await alone(task, answers))
    rewards = {trace.rewards["reward"].score for trace in traces}
    assert len(rewards) == 1, rewards
    assert {trace.reward for trace in traces} == rewards, "parts are metrics, not rewards"
    return float(rewards.pop())


async def main() -> None:
    asked = json.load(sys.stdin)
    found = {}
    for name, episodes in asked.items():
        tasks = GrpoTaskset(GrpoTasksetConfig(id="x", env=name)).take(len(episodes))
        pairs = zip(tasks, episodes, strict=True)
        found[name] = [await earned(task, answers) for task, answers in pairs]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
