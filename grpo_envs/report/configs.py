"""The configurations and versions of runs on a page, and the keys in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape

from grpo_envs.report.html import table
from grpo_envs.runs.record import Record


def configurations(runs: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    """Yield the keys that differ between several runs, and then all keys, as HTML."""
    flat = [run.settings for run in runs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    rows = {
        key: [json.dumps(config[key]) if key in config else "-" for config in flat] for key in keys
    }
    head = ["key", *map(escape, names)]
    different = [key for key in keys if len(set(rows[key])) > 1]
    if len(runs) > 1:
        yield f"<h3>Where they differ: {len(different)} of {len(keys)} keys</h3>"
        if different:
            yield table([head, *([escape(key), *map(_cell, rows[key])] for key in different)])
    yield "<details><summary>all keys</summary>"
    yield table([head, *([escape(key), *map(escape, rows[key])] for key in keys)])
    yield "</details>"


def _cell(text: str) -> str:
    return f"<code>{escape(text)}</code>"
