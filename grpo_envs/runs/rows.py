"""Completions and their problems as JSON rows of a run's files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_envs.runtime.files import shown
from grpo_envs.types import Group


def completion_rows(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield a row for each completion, group by group."""
    for group in groups:
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            yield {
                "problem": group.key,
                "prompt": group.prompt,
                "gold": group.gold,
                "meta": dict(group.meta),
                "text": completion.text,
                "reward": reward.total,
                "parts": dict(reward.parts),
                "valid": reward.valid,
                "error": reward.error,
                "note": reward.note,
                "finish_reason": completion.finish_reason,
                "tokens": completion.length,
                "turns": [asdict(turn) for turn in completion.turns],
            }


def problem_rows(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield a row of problems.jsonl for each group with a system message or tools."""
    for group in groups:
        if group.system_prompt or group.tools:
            tools = [dict(tool) for tool in group.tools]
            yield {
                "problem": group.key,
                "system_prompt": group.system_prompt,
                "tools": tools,
            }


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as JSON lines; lone surrogates are escaped."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's file; an incomplete last line is left out.

    Raises:
        ConfigError: there is no such file, or a line is not JSON; the message names it.
    """
    if not path.is_file():
        raise ConfigError(f"{path.parent}: no {path.name}. Give the folder of a run.")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ConfigError(f"{shown(path)}, line {number}: not JSON ({error}).") from error
    return rows
