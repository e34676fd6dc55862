"""A player for our own server, `python -m grpo_envs.serve`, which extends OpenEnv's protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_env_openenv.fields import tool_of
from grpo_env_openenv.player import Player, invalid, require_repeated
from grpo_env_openenv.sessions import Sessions
from grpo_env_openenv.wire import Told
from grpo_envs.env import SPLITS
from grpo_envs.env.rewards import Part
from grpo_envs.types import Problem, Reply, Reward, Turn

_FIELDS = {"prompt", "system_prompt", "meta", "answers_left", "parts", "rewards", "reward_range"}
_PROBES = 4
"""Problems of each split that are opened at the start, to find the most turns of an episode."""


def speaks(schema: Mapping[str, Any]) -> bool:
    """Return whether a server with this schema of observations is one of ours."""
    return set(schema.get("properties", ())) >= _FIELDS


class Own(Player):
    """The server has our splits and problem numbers, and sends rewards in parts."""

    def __init__(self, sessions: Sessions, reset: Mapping[str, Any]) -> None:
        super().__init__(sessions, reset)
        openings = [
            self.open({"seed": seed, "split": split}) for split in SPLITS for seed in range(_PROBES)
        ]
        first = openings[0]["observation"]
        self.weights = {name: float(how["weight"]) for name, how in first["rewards"].items()}
        self.own_parts = {
            name: Part(weight=float(how["own"]["weight"]), clip=tuple(how["own"]["range"]))
            for name, how in first["rewards"].items()
            if how["own"]
        }
        """The environment's own parts, with the ranges of their values."""
        self.most_turns = max(opening["observation"]["answers_left"] for opening in openings)
        self.hidden = len({self.shown(opening) for opening in openings}) == 1
        self.uses_tools = any(opening["observation"].get("tools") for opening in openings)

    def problem(self, seed: int, split: str) -> Problem:
        """Return problem number `seed` of `split` of the served environment."""
        place = {"seed": seed, "split": split}
        told = self.open(place)["observation"]
        return Problem(
            prompt=told["prompt"],
            gold=None,
            solution="",
            meta=told["meta"],
            system_prompt=told["system_prompt"],
            messages=tuple(told.get("messages", ())),
            columns={**place, "reward_range": told["reward_range"]},
            max_turns=told["answers_left"],
            tools=tuple(map(tool_of, told.get("tools", ()))),
        )

    def reply(self, problem: Problem, turns: Sequence[Turn], *, last: bool) -> Reply:
        """Return the served environment's reply; its reward is that of this turn alone."""
        told = self.play(problem, [json.dumps({"message": turn.action}) for turn in turns])
        require_repeated(turns, list(map(self.shown, told)))
        now = told[-1]["observation"]
        about = now.get("metadata") or {}
        if told[-1].get("reward") is None:
            return invalid(about.get("error") or "the server gave no reward")
        return Reply(
            reward=Reward(parts=now["parts"]),
            observation=now["prompt"],
            done=bool(about.get("terminated", told[-1]["done"])),
            results=tuple(now.get("results", ())),
        )

    def shown(self, told: Told) -> str:
        """Return the prompt, or the reply to an answer."""
        return str(told["observation"]["prompt"])

    @property
    def _keys(self) -> Sequence[str]:
        return ("seed", "split")
