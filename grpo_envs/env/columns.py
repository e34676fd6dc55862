"""Which columns of a dataset an environment reads: `env.columns`, and errors on missing ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from grpo_envs.env.cells import nested, opened
from grpo_envs.env.records import Table
from grpo_envs.errors import ConfigError, DatasetError, nearest, unknown

Names = Mapping[str, tuple[str, ...]]
"""The dataset's columns for each column of the environment."""
PART = 1000
"""Rows in one read."""
_LOOKED_AT = 50
"""Cells that are searched for nested names."""


def names_of(
    columns: Mapping[str, Any] | None, needs: Sequence[str], optional: Sequence[str]
) -> Names:
    """Return the dataset's columns for each column of the environment.

    Raises:
        UnknownName: `columns` renames something that the environment does not need.
        ConfigError: `columns` is not a mapping, a column's name is not text, or a column other than
            the prompt is made of several.
    """
    roles = (*needs, *optional)
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in roles}
    if columns is not None and not isinstance(columns, Mapping):
        raise ConfigError(f"env.columns={columns}. Allowed: names, as {{{needs[0]}: question}}.")
    for role, given in (columns or {}).items():
        if role not in names:
            raise unknown("column role in env.columns", role, roles)
        several = list(given) if isinstance(given, list | tuple) else [given]
        texts = all(isinstance(name, str) and name.strip() for name in several)
        if not several or not texts or (len(several) > 1 and role != "prompt"):
            wanted = "a column, or a list of columns" if role == "prompt" else "one column"
            raise ConfigError(f"env.columns={{{role}: {given}}}. Allowed: {wanted}.")
        names[role] = tuple(several)
    return names


def name_of(names: Sequence[str]) -> str:
    """Return the name of the columns in messages."""
    return " + ".join(names)


def require_columns(
    dataset: str, names: Names, required: Collection[str], *, table: Table, have: Sequence[str]
) -> None:
    """Require that the table has the columns that are needed or renamed.

    Raises:
        DatasetError: a column is missing; the message lists the columns that exist.
    """
    for role, columns in names.items():
        for name in columns if role in required else ():
            head, *keys = name.split(".")
            inner: list[str] = []
            if name in have:
                continue
            if keys and head in have:
                if any(nested(cell, keys) is not None for cell in _cells(table, head)):
                    continue
                inner = _inside(head, list(islice(_cells(table, head), _LOOKED_AT)))
            known = [*have, *inner]
            key = f"Set env.columns={{{role}: ...}} to one of: {', '.join(known)}."
            raise DatasetError(f"{dataset}: no column {name!r}.{nearest(name, known)} {key}")


def cells_of(record: Mapping[str, Any], names: Sequence[str], have: Collection[str]) -> list[Any]:
    """Return the cells of a record that make up one column of the environment.

    A name with dots that is not a column is a path inside a cell. NaN, which pandas writes for a
    missing cell, becomes None.
    """
    cells: list[Any] = []
    for name in names:
        if "." not in name or name in have:
            cells.append(record.get(name))
        else:
            head, *keys = name.split(".")
            cells.append(nested(record.get(head), keys))
    return [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells]


def heads(names: Names, have: Collection[str]) -> frozenset[str]:
    """Return the dataset's columns that are read."""
    every = (name for columns in names.values() for name in columns)
    return frozenset(name if name in have else name.partition(".")[0] for name in every)


def _cells(table: Table, name: str) -> Iterator[Any]:
    for start in range(0, len(table), PART):
        for record in table.part(start, start + PART, [name]).records:
            if isinstance(record, Mapping):
                yield record.get(name)


def _inside(name: str, cells: Sequence[Any]) -> list[str]:
    """Return the nested names in the cells of a column, two levels deep."""
    return list(dict.fromkeys(path for cell in cells for path in _paths(name, cell, 2)))


def _paths(name: str, cell: Any, depth: int) -> Iterator[str]:
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        cell = opened(cell)
    if isinstance(cell, Mapping) and depth:
        for key, inner in cell.items():
            yield f"{name}.{key}"
            yield from _paths(f"{name}.{key}", inner, depth - 1)
