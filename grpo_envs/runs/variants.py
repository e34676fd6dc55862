"""What tells runs apart: the values of their keys, and the names of variants."""

from __future__ import annotations

import json
from collections.abc import Sequence

from grpo_envs.runs.record import Record

_NO_EFFECT = ("resume", "logger", "run")
"""Keys, and those below them, that have no effect on a run's result."""


def setting(run: Record, key: str) -> str:
    """Return the value of a key or the option of a group in a run, as text; '' if there is none.

    >>> from pathlib import Path
    >>> setting(Record(Path("run"), [], [], {"agent.name": "grpo", "seed": 3}, {}, "done"), "seed")
    '3'
    """
    for found in (run.about.get("choices", {}), run.config, run.overrides):
        if key in found:
            value = found[key]
            return value if isinstance(value, str) else json.dumps(value)
    return str(run.config.get(f"{key}.name", ""))


def varying(runs: Sequence[Record], but: Sequence[str] = ()) -> list[str]:
    """Return the overrides in which runs differ, in the order of the commands."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides if key not in but)
    keys = {key: None for key in keys if key.partition(".")[0] not in _NO_EFFECT}
    return [key for key in keys if len({setting(run, key) for run in runs}) > 1]


def variant_name(run: Record, by: Sequence[str]) -> str:
    """Return the name of the variant that a run belongs to."""
    return named(run, by) or "all runs"


def named(run: Record, keys: Sequence[str]) -> str:
    """Return the keys with their values in a run; a key that it does not have is `-`."""
    return " ".join(f"{key}={setting(run, key) or '-'}" for key in keys)
