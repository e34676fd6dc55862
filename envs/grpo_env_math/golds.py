"""The golds of a row: one answer, or several in a list."""

import ast
import json
import re
from typing import Any

from grpo_envs.env.dataset import Row
from grpo_envs.errors import DatasetError
from grpo_envs.graders.math import extract

_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_LIST_OF_TEXTS = re.compile(r"""\[\s*["'].*["']\s*\]""", re.DOTALL)


def golds_of(row: Row) -> list[str]:
    """Return the golds of a row without duplicates: one, or those of a list.

    Raises:
        DatasetError: there is no gold, or the cell is an object or a list of other things.
    """
    cell = _opened(row.values["gold"])
    while isinstance(cell, list | tuple) and len(cell) == 1:
        cell = cell[0]
    if not isinstance(cell, list | tuple):
        return [row.text("gold") if cell is row.values["gold"] else _answer(cell, row)]
    answers = [_bare(extract(text) or text) for text in (_answer(item, row) for item in cell)]
    if not answers:
        raise DatasetError(f"{row.where} has no 'gold'.")
    return list(dict.fromkeys(answers))


def _opened(cell: Any) -> Any:
    """Return the list of strings that a text contains; any other cell is returned unchanged.

    `[0, 1]` is not such a list: it is an interval.
    """
    if not (isinstance(cell, str) and _LIST_OF_TEXTS.fullmatch(cell.strip())):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            opened = read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(opened, list) and all(isinstance(item, str) for item in opened):
            return opened
    return cell


def _answer(item: Any, row: Row) -> str:
    """Return one answer of a list as text."""
    text = str(item).strip() if isinstance(item, str | int | float) else ""
    if not text:
        raise DatasetError(f"{row.where}: gold is a list with {str(item)[:40]!r}, which is none.")
    return text


def _bare(text: str) -> str:
    """Return an answer without math delimiters around it, which a joined list cannot contain."""
    for left, right in _DELIMITERS:
        inner = text[len(left) : -len(right)]
        whole = len(text) > len(left + right) and text == f"{left}{inner}{right}"
        if whole and left not in inner and right not in inner:
            return inner.strip()
    return text
