"""The last group of a run whose tokens were noted, as `grpo_envs.explain` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from grpo_envs.runs.explanation import Table, explain, last_noted
from grpo_envs.runs.record import Record


def explained(run: Record) -> Iterator[str]:
    """Yield a section of the page; nothing of a run without tokens.jsonl."""
    if place := last_noted(run):
        yield "<h2>A group, token by token</h2>"
        for part in explain(run, place):
            yield _html(part) if isinstance(part, Table) else f"<p>{escape(part)}</p>"


def _html(table: Table) -> str:
    cells = [_row("th", table.header), *(_row("td", row) for row in table.rows)]
    return f'<div class="wide numbers"><table>{"".join(cells)}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
