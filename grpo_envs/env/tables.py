"""Tables of a dataset: local JSONL, JSON, CSV and Parquet, or a dataset of the hub.

JSON is read into plain Python values: whole numbers keep all their digits, and a column may hold
values of several types. A `.json` file holds a list of rows, rows line by line, or one object in a
layout of pandas: columns of cells (`to_json()`), of lists, by index, `split` or `table`.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from grpo_envs.env.cells import Unreadable
from grpo_envs.errors import ConfigError, DatasetError, require_training
from grpo_envs.runtime.hub import missing_on_hub

if TYPE_CHECKING:
    import datasets

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLITS = ("train", "eval", "test", "validation")
_REMEDY = "Give a local .jsonl, .json, .csv or .parquet file, or a reachable hub id."
_LAYOUTS = "a list of rows, or pandas' columns, index, split or table"


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


@dataclass(frozen=True, slots=True)
class _Lines(Sequence[Any]):
    """Lines of JSON, each parsed on request: a mapping, or an Unreadable."""

    lines: Sequence[str]

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> _Lines: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _Lines(self.lines[index])
        try:
            return json.loads(self.lines[index])
        except (ValueError, RecursionError) as error:
            return Unreadable(f" is no JSON ({error})")


@dataclass(frozen=True, slots=True)
class _Arrow:
    """A table of the library `datasets`."""

    dataset: datasets.Dataset

    @property
    def column_names(self) -> Sequence[str]:
        return list(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def record(self, number: int) -> Mapping[str, Any]:
        record: Mapping[str, Any] = self.dataset[number]
        return record

    def part(self, start: int, stop: int, names: Collection[str]) -> Records:
        own = [name for name in self.dataset.column_names if name in names]
        columns = self.dataset.select_columns(own)[start:stop]
        return Records(
            [dict(zip(own, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )


def load_tables(dataset: str, names: Collection[str] = ()) -> Mapping[str, Table]:
    """Return the tables of `dataset` by split.

    Args:
        dataset: A local file, a folder, or a hub id, followed by `:subset` if it has subsets.
        names: Expected columns, which help to recognise the layout of a JSON object.

    Raises:
        ConfigError: files of this type are not supported.
        DatasetError: there is no such dataset, or it cannot be read.
    """
    path = Path(dataset).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None and path.is_file():
        raise ConfigError(f"env.dataset={dataset}: not one of {', '.join(_READERS)}.")
    if reader and not path.is_file():
        raise DatasetError(f"env.dataset={dataset}: no such file (looked in {Path.cwd()}).")
    if reader and not path.read_bytes().strip():
        raise DatasetError(f"env.dataset={dataset}: the file is empty, it has no rows.")
    if reader == "json":
        return {"train": _json_table(path, dataset, names)}
    files = sorted(path.iterdir()) if path.is_dir() else []
    if files and all(_is_json_of_a_split(file) for file in files):
        return {file.stem: _json_table(file, dataset, names) for file in files}
    return _arrow_tables(dataset, path, reader)


def _is_json_of_a_split(file: Path) -> bool:
    return _READERS.get(file.suffix.lower()) == "json" and file.stem in _SPLITS and file.is_file()


def _json_table(path: Path, dataset: str, names: Collection[str]) -> Records:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"env.dataset={dataset}: cannot be read ({error}). {_REMEDY}") from error
    if path.suffix.lower() == ".json":
        try:
            return _records(json.loads(text), dataset, names)
        except (ValueError, RecursionError) as error:
            if len(text.splitlines()) == 1 or _first_line_is_no_object(text):
                why = f"env.dataset={dataset}: cannot be read ({error}). {_REMEDY}"
                raise DatasetError(why) from error
    return _of_lines(text, dataset, names)


def _first_line_is_no_object(text: str) -> bool:
    """Return whether a text is not JSON Lines, which have a whole row in each line."""
    try:
        return not isinstance(json.loads(text.lstrip().partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        return True


def _of_lines(text: str, dataset: str, names: Collection[str]) -> Records:
    rows = _Lines([line for line in text.split("\n") if line and not line.isspace()])
    if len(rows) == 1 and isinstance(rows[0], dict):
        return _records(rows[0], dataset, names)  # a whole table, as pandas' to_json() writes it
    return Records(rows)


def _records(whole: Any, dataset: str, names: Collection[str]) -> Records:
    """Return the rows of a JSON value."""
    rows = whole if isinstance(whole, list) else _rows_of_object(whole, names)
    if rows is None:
        keys = ", ".join(map(str, whole)) if isinstance(whole, dict) else type(whole).__name__
        raise DatasetError(
            f"env.dataset={dataset}: one JSON object with {keys[:80]}. Allowed: {_LAYOUTS}."
        )
    return Records(rows)


def _rows_of_object(whole: Any, names: Collection[str]) -> list[Any] | None:
    """Return the rows of an object in one of the layouts; None if it has none of them."""
    if not isinstance(whole, dict):
        return None
    cells = list(whole.values())
    if isinstance(whole.get("data"), list) and set(whole) <= {"columns", "index", "schema", "data"}:
        columns = whole.get("columns")
        if not isinstance(columns, list):
            return list(whole["data"])
        fits = all(isinstance(row, list) and len(row) == len(columns) for row in whole["data"])
        return [dict(zip(columns, row, strict=True)) for row in whole["data"]] if fits else None
    if cells and all(isinstance(cell, dict) for cell in cells):
        return _of_objects(whole, names)
    if cells and all(isinstance(cell, list) for cell in cells) and not _is_one_row(whole, names):
        if len({len(cell) for cell in cells}) > 1:
            return None
        return [dict(zip(whole, row, strict=True)) for row in zip(*cells, strict=True)]
    return [whole]


def _of_objects(whole: Mapping[str, Any], names: Collection[str]) -> list[Any]:
    """Return the rows of an object of objects: by column, else by index."""
    wanted = {name.partition(".")[0] for name in names} | {*names}
    indices = list(dict.fromkeys(index for cell in whole.values() for index in cell))
    by_index = all(index.isdigit() for index in whole) or bool(wanted & {*indices})
    if by_index and not wanted & {*whole}:
        return list(whole.values())
    return [{name: cell.get(index) for name, cell in whole.items()} for index in indices]


def _is_one_row(whole: Mapping[str, Any], names: Collection[str]) -> bool:
    """Return whether an object of lists is a single row, because one list is a conversation."""
    firsts = [cell[0] for name, cell in whole.items() if name in names and cell]
    return bool(firsts) and all(isinstance(one, dict) and "role" in one for one in firsts)


def _arrow_tables(dataset: str, path: Path, reader: str | None) -> Mapping[str, Table]:
    require_training(f"env.dataset={dataset}", ["datasets", "pandas"])
    import datasets  # heavy, like pandas: kept off the import path of grpo_envs
    import pandas

    local = bool(reader) or path.is_dir()
    source, _, subset = (str(path), "", "") if local else dataset.partition(":")
    absent = "" if local else missing_on_hub(source, "dataset")
    if absent:
        raise DatasetError(f"env.dataset={dataset}: {absent}. {_REMEDY}")
    bars_were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if reader == "csv":  # as text: guessing types would turn 007 into 7 and NA into nothing
            frame = pandas.read_csv(path, dtype=str, keep_default_na=False)
            return {"train": _Arrow(datasets.Dataset.from_pandas(frame))}
        if reader:
            exact = glob.escape(str(path))  # escaped: [ and * would be patterns
            table = datasets.load_dataset(reader, data_files=exact, split="train")
            return {"train": _Arrow(_undecoded(table))}
        loaded = datasets.load_dataset(source, subset or None)
    except Exception as error:  # of any library: reported as one line with the remedy
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(
            f"env.dataset={dataset}: cannot be read ({first[0]}). {_REMEDY}"
        ) from error
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()
    return {str(name): _Arrow(_undecoded(table)) for name, table in loaded.items()}


def _undecoded(table: datasets.Dataset) -> datasets.Dataset:
    """Return the table with pictures and sounds as bytes, because decoding needs packages."""
    for name, feature in table.features.items():
        if getattr(feature, "decode", False):
            table = table.cast_column(name, type(feature)(decode=False))
    return table
