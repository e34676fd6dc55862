"""A table of a dataset, and the simplest one: a list of plain records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from grpo_envs.env.cells import Unreadable


class Table(Protocol):
    """Rows with named columns, read on request."""

    @property
    def column_names(self) -> Sequence[str]:
        """The names of all columns, in order of appearance."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def record(self, number: int) -> Mapping[str, Any]:
        """Return a row with all of its columns.

        Raises:
            Unreadable: the row is not an object with columns.
        """

    def part(self, start: int, stop: int, names: Collection[str]) -> Records:
        """Return rows `start` to `stop` with at least these columns; faster than single rows."""


@dataclass(frozen=True)
class Records:
    """A table of plain records; a column may hold values of several types."""

    records: Sequence[Any]
    """Mappings; any other member is a row that cannot be read, and an Unreadable has the reason."""

    @cached_property
    def column_names(self) -> Sequence[str]:
        """The names that any record has, in order of appearance."""
        found = (record for record in self.records if isinstance(record, Mapping))
        return list(dict.fromkeys(name for record in found for name in record))

    def __len__(self) -> int:
        return len(self.records)

    def record(self, number: int) -> Mapping[str, Any]:
        """Return a record."""
        record = self.records[number]
        if isinstance(record, Unreadable):
            raise record
        if not isinstance(record, Mapping):
            raise Unreadable(" is no object with columns")
        return record

    def part(self, start: int, stop: int, names: Collection[str]) -> Records:
        """Return some of the records, whole."""
        return Records(self.records[start:stop])
