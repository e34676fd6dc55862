"""Tables of a dataset: local JSONL, JSON, CSV and Parquet, or a dataset of the hub.

JSON is read into plain Python values: whole numbers keep all their digits, and a column may hold
values of several types. A `.json` file holds a list of rows, rows line by line, or one object in a
layout of pandas: columns of cells (`to_json()`), of lists, by index, `split` or `table`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from grpo_envs.env.arrow import ENCODING, REMEDY, arrow_tables
from grpo_envs.env.cells import Unreadable
from grpo_envs.env.records import Records, Table
from grpo_envs.errors import ConfigError, DatasetError

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLITS = {name: name for name in ("train", "eval", "test", "validation")}
_SPLITS |= dict.fromkeys(("val", "valid", "dev"), "validation")
"""File names of splits, and the split that each means (as in `datasets`)."""
_LAYOUTS = "a list of rows, or pandas' columns, index, split or table"


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
    if reader:
        return _file_tables(path, dataset, names, reader)
    files = sorted(path.iterdir()) if path.is_dir() else []
    splits = list(map(_split_of, files))
    if files and all(splits) and len({*splits}) == len(files):
        return {
            split: _file_tables(file, str(file), names, _READERS[file.suffix.lower()])["train"]
            for split, file in zip(splits, files, strict=True)
        }
    return arrow_tables(dataset, path, None)


def _split_of(file: Path) -> str:
    """Return the split that a file of JSON or CSV is named after; '' for any other file."""
    plain = _READERS.get(file.suffix.lower()) in ("json", "csv") and file.is_file()
    return _SPLITS.get(file.stem, "") if plain else ""


def _file_tables(
    path: Path, dataset: str, names: Collection[str], reader: str
) -> Mapping[str, Table]:
    if not path.read_bytes().strip():
        raise DatasetError(f"env.dataset={dataset}: the file is empty, it has no rows.")
    if reader == "json":
        return {"train": _json_table(path, dataset, names)}
    return arrow_tables(dataset, path, reader)


def _json_table(path: Path, dataset: str, names: Collection[str]) -> Records:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"env.dataset={dataset}: {ENCODING}") from error
    except OSError as error:
        raise DatasetError(f"env.dataset={dataset}: cannot be read ({error}). {REMEDY}") from error
    lines = path.suffix.lower() != ".json"
    if lines and not text.lstrip().startswith("["):
        return _of_lines(text, dataset, names)
    try:
        whole = json.loads(text)  # a list of rows, under either name
    except (ValueError, RecursionError) as error:
        if not lines and (len(text.splitlines()) == 1 or _first_line_is_no_object(text)):
            why = f"env.dataset={dataset}: cannot be read ({error}). {REMEDY}"
            raise DatasetError(why) from error
        return _of_lines(text, dataset, names)
    return _records(whole, dataset, names)


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
