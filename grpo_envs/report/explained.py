"""The last group of a run in tokens.jsonl, as `grpo_envs.explain` prints it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from html import escape

from grpo_envs.runs.explanation import Table, explain, last_noted
from grpo_envs.runs.record import Record

_HEAD = "<h2>A group, token by token</h2>"
_MOST_LIVE = 2**24
"""Bytes of tokens.jsonl that a page which follows its run reads each time."""


def explained(run: Record, *, live: bool = False) -> Iterator[str]:
    """Yield a section of the page; nothing for a run without tokens.jsonl.

    Args:
        run: The run; while it goes on, the step that is being written is left out.
        live: Whether the page follows the run. If the file is long, the section names the command
            instead.
    """
    file = run.path / "tokens.jsonl"
    if live and file.is_file() and file.stat().st_size > _MOST_LIVE:
        size = file.stat().st_size / 2**20
        command = f"python -m grpo_envs.explain {shlex.quote(str(run.path))} --step ..."
        yield f"{_HEAD}<p>tokens.jsonl has {size:.0f} MiB, too much to read every two seconds. "
        yield f"<code>{escape(command)}</code> prints a group.</p>"
        return
    growing = live and run.state != "done" and run.completions
    before = run.completions[-1]["step"] if growing else None
    if place := last_noted(run, before):
        yield _HEAD
        for part in explain(run, place):
            yield _html(part) if isinstance(part, Table) else f"<p>{escape(part)}</p>"


def _html(table: Table) -> str:
    cells = [_row("th", table.header), *(_row("td", row) for row in table.rows)]
    return f'<div class="wide numbers"><table>{"".join(cells)}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
