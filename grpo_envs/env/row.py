"""One row of a dataset: the columns under the environment's names, and all other columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, time
from typing import Any

from grpo_envs.env.cells import Unreadable, plain_text
from grpo_envs.env.records import Table
from grpo_envs.errors import DatasetError
from grpo_envs.types import Problem

_RESERVED = frozenset({"env"})
"""Keys of `Problem.meta` that are not taken from columns, because a mixture writes them."""
_HALF = re.compile("[\ud800-\udfff]")
"""Code points that neither UTF-8 nor a tokenizer can encode; JSON may escape one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record, with its columns under the environment's names."""

    number: int
    """0-based position in its file or split."""
    source: str
    values: Mapping[str, Any]
    system: str | None = None
    """The system messages of a prompt that is a conversation; None if there are none."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The turns of a prompt that is a conversation; `values["prompt"]` is their transcript."""
    used: frozenset[str] = frozenset()
    """The dataset's columns that `values` come from."""
    table: Table | None = field(default=None, repr=False, compare=False)
    """The table of the row."""

    def text(self, column: str) -> str:
        """Return a column as stripped text.

        Raises:
            DatasetError: the cell is empty, an object or a list of anything but numbers, or no
                Unicode text; the message names file, row and column.
        """
        value = self.values[column]
        if type(value) is str:
            text = value.strip()
        else:
            try:
                text = "" if value is None else plain_text(value)
            except Unreadable as error:
                raise DatasetError(f"{self.where}: {column!r} {error}.") from None
        if not text:
            raise DatasetError(f"{self.where} has no {column!r}.")
        if not text.isascii() and _HALF.search(text):
            raise DatasetError(f"{self.where}: {column!r} has half of a surrogate pair.")
        return text

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.source}: row {self.number + 1}"

    def complete(self, made: Problem) -> Problem:
        """Return the problem of this row, completed with the data that `from_row` does not set.

        These are the messages of a conversation, a system message, and the other columns.
        """
        return replace(
            made,
            messages=made.messages or self.messages_for(made.prompt),
            system_prompt=self.system if made.system_prompt is None else made.system_prompt,
            columns=self.columns,
            meta={**self.meta, **made.meta},
        )

    def messages_for(self, prompt: str) -> tuple[Mapping[str, str], ...]:
        """Return the row's conversation, with the text that `prompt` adds at the end.

        () if the row has no conversation, or `prompt` does not begin with its transcript.
        """
        asked = self.values.get("prompt")
        if not self.messages or not prompt.startswith(str(asked)):
            return ()
        *earlier, last = self.messages
        content = last["content"] + prompt.removeprefix(str(asked))
        return (*earlier, {**last, "content": content})

    @property
    def columns(self) -> Mapping[str, Any]:
        """All cells, by the dataset's names."""
        return {} if self.table is None else self.table.record(self.number)

    @property
    def meta(self) -> dict[str, Any]:
        """The cells of columns that the environment does not read, if they are JSON values."""
        out = self.used | self.values.keys() | _RESERVED
        rest = {name: _json(cell) for name, cell in self.columns.items() if name not in out}
        return {name: cell for name, cell in rest.items() if cell is not _NOT_JSON}


_NOT_JSON = object()


def _json(cell: Any) -> Any:
    """Return a cell as a JSON value; `_NOT_JSON` if there is none (a picture, bytes)."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if cell is None or isinstance(cell, str | int):
        return cell
    if isinstance(cell, date | time):
        return cell.isoformat()
    if isinstance(cell, Mapping):
        inner = {str(key): _json(value) for key, value in cell.items()}
        return _NOT_JSON if _NOT_JSON in inner.values() else inner
    if isinstance(cell, Sequence) and not isinstance(cell, bytes | bytearray):
        listed = [_json(value) for value in cell]
        return _NOT_JSON if _NOT_JSON in listed else listed
    return _NOT_JSON
