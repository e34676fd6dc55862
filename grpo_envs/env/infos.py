"""The `info` of a vector environment: a column for each key, with Gymnasium's `_key` masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_envs.env.text import TextEnv
from grpo_envs.types import Problem, Reward


def reset_infos(env: TextEnv, problems: Sequence[Problem | None]) -> dict[str, Any]:
    """Return the `info` of a reset about the members' problems: arrays (B,) of objects."""
    distinct = {id(problem): problem for problem in problems if problem}
    about = {key: env.info_of(problem) for key, problem in distinct.items()}
    rows = [about.get(id(problem), {}) for problem in problems]
    infos: dict[str, Any] = {}
    for key in _keys(rows):
        infos[key] = np.array([None] * len(rows), dtype=object)
        infos[key][:] = [row.get(key) for row in rows]
        infos[f"_{key}"] = np.array([key in row for row in rows], dtype=np.bool_)
    return infos


def step_infos(env: TextEnv, rewards: Sequence[Reward], members: Sequence[int]) -> dict[str, Any]:
    """Return the `info` of a step about the members' rewards: arrays (B,); `detail` has texts."""
    rows = [env.info_for(reward) for reward in rewards]
    acted = np.zeros(len(rows), dtype=np.bool_)
    acted[list(members)] = True
    infos: dict[str, Any] = {}
    for key in _keys(rows):
        dtype = object if key == "detail" else np.float64
        infos[key] = np.array([row.get(key, 0.0) for row in rows], dtype=dtype)
        infos[f"_{key}"] = acted & np.array([key in row for row in rows])
    return infos


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [*{key: None for row in rows for key in row}]
