"""verl: `compute_score` for the rows that `python -m grpo_envs.export_data verl` writes.

    python -m verl.trainer.main_ppo data.train_files=data/train.parquet \
        reward.custom_reward_function.path=pkg://grpo_envs.interop.verl \
        reward.custom_reward_function.name=compute_score ...

Written for verl 0.9.1. This module does not import verl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from grpo_envs.errors import ConfigError, GrpoEnvsError, require
from grpo_envs.interop.rows import (
    Row,
    environment_of,
    grade,
    messages_of,
    require_each_alone,
    require_single,
)
from grpo_envs.interop.rows import rows_of as _rows_of

SOURCE = "grpo_envs/"
"""The prefix of the environment's name in `data_source`."""


class GraderFailed(GrpoEnvsError):
    """The grader failed, and verl does not support a missing reward."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    invalid: float | None = None,
    **_: Any,
) -> dict[str, float]:
    """Grade an answer; called by verl's reward managers.

    Args:
        data_source: The row's `data_source`: `grpo_envs/` and the environment's name.
        solution_str: The answer.
        ground_truth: The row's `ground_truth`: the digest of its prompt.
        extra_info: The row's `extra_info`, which names the problem.
        invalid: The score of an answer whose grader failed; None ends the run. verl takes only
            numbers, so this score counts like an earned one.

    Returns:
        `score`, `valid` (1, or 0 if the grader failed), and each reward component, NaN if it does
        not apply. All rows of an environment have the same keys, as verl requires for a batch.

    Raises:
        ConfigError: the row is not one of ours.
        GraderFailed: the grader failed and `invalid` is None.
    """
    if not str(data_source).startswith(SOURCE):
        raise ConfigError(f"data_source={data_source}. Allowed: {SOURCE}NAME, of `export_data`.")
    row = Row.of({**(extra_info or {}), "digest": ground_truth})
    require(data_source == SOURCE + row.env, "data_source", data_source, f"{SOURCE}{row.env}")
    (graded,) = grade([row], [solution_str])
    parts = {name: graded.parts.get(name, math.nan) for name in row.environment.weights}
    if graded.total is not None:
        return {**parts, "score": graded.total, "valid": 1.0}
    if invalid is None:
        raise GraderFailed(
            f"env={row.env}, {row.split} problem {row.seed}: the grader failed: {graded.note} "
            "(+reward.custom_reward_function.reward_kwargs.invalid=0.0 counts it as 0)."
        )
    return {**parts, "score": float(invalid), "valid": 0.0}


def rows_of(name: str, keywords: Mapping[str, Any], split: str, count: int) -> list[dict[str, Any]]:
    """Return rows with verl's columns.

    Raises:
        ConfigError: verl cannot use the environment: its problems are conversations, or it grades
            all answers of a step together.
    """
    env, _ = environment_of(name, keywords)
    require_each_alone(name, env, "verl")
    rows = _rows_of(name, keywords, split, count)
    require_single(name, rows, "for which verl needs an agent loop")
    return [_columns(row) for row in rows]


def _columns(row: Row) -> dict[str, Any]:
    named = row.columns
    return {
        "data_source": f"{SOURCE}{row.env}",
        "prompt": messages_of(row),
        "ability": row.env,
        "reward_model": {"style": "rule", "ground_truth": named.pop("digest")},
        "extra_info": {"index": row.seed, **named},
    }
