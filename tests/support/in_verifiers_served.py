"""Plays given answers with verifiers' own OpenEnv taskset, in a Python that has verifiers.

Reads {"base_url": ..., "episodes": {seed: [answer, ...]}} from stdin; prints of each episode the
reward that verifiers notes and the first prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

from verifiers.v1.tasksets.openenv import OpenEnvConfig, OpenEnvEnv, OpenEnvTaskset

sys.path.insert(0, sys.path[0] + "/../..")
from tests.support.in_verifiers import Player


async def played(task: Any, answers: Sequence[str]) -> tuple[float, str]:
    """Play an episode; return its reward and the first prompt."""
    player, shown = Player(task, answers), list[str]()

    async def turn(message: str) -> Any:
        shown.append(message)
        said = player.left[0]
        await player.turn(message)
        return SimpleNamespace(terminated=False, last_reply=said)

    @contextlib.asynccontextmanager
    async def interaction(_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(turn=turn, trace=player.trace)

    agents = SimpleNamespace(player=SimpleNamespace(interaction=interaction))
    await OpenEnvEnv.run(object.__new__(OpenEnvEnv), task, agents)
    assert not player.left, "the environment ended before the answers did"
    first = json.loads(shown[0])["observation"]["prompt"]
    return player.trace.rewards["openenv_reward"].score, first


async def main() -> None:
    asked = json.load(sys.stdin)
    resets = [{"seed": int(seed), "split": "train"} for seed in asked["episodes"]]
    config = OpenEnvConfig(id="openenv", base_url=asked["base_url"], resets=resets)
    tasks = OpenEnvTaskset(config).load()
    pairs = zip(tasks, asked["episodes"].values(), strict=True)
    print(json.dumps([await played(task, answers) for task, answers in pairs]))


if __name__ == "__main__":
    asyncio.run(main())
