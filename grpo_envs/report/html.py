"""Parts of a page as HTML. Texts of a run are escaped here or by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are HTML, and the first row is the head."""
    head, *body = rows
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def labelled(label: str, text: str) -> str:
    """Return a line of small text with a label before it; '' if there is no text."""
    return f'<p class="note"><b>{label}</b> {escape(text)}</p>' if text else ""
