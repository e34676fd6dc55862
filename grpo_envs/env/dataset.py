"""Problems out of files: local JSONL, JSON, CSV and Parquet, or a dataset of the hub."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from grpo_envs.errors import ConfigError, DatasetError, nearest, unknown
from grpo_envs.runtime.hub import missing_on_hub
from grpo_envs.seeding import rng_for, seed_for

if TYPE_CHECKING:
    import datasets

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_EVAL_NAMES = ("eval", "test", "validation")
_HELD_OUT = 0.1
_REMEDY = "Give a local .jsonl, .json, .csv or .parquet file, or a reachable hub id."


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record, its columns already renamed to what the environment calls them."""

    number: int
    """0-based position in its file or split."""
    source: str
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.source}: row {self.number + 1}"

    def text(self, column: str) -> str:
        """Return a column as stripped text.

        Raises:
            DatasetError: the cell is empty; the message names file, row and column.
        """
        value = self.values[column]
        if value is None or not str(value).strip():
            raise DatasetError(f"{self.source}: row {self.number + 1} has no {column!r}.")
        return str(value).strip()


@dataclass(frozen=True, slots=True)
class Records:
    """A table of plain records, whose columns may hold values of any type beside each other."""

    records: Sequence[Mapping[str, Any]]

    @property
    def column_names(self) -> list[str]:
        """The names that any record has, in order of appearance."""
        return list(dict.fromkeys(name for record in self.records for name in record))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, column: str) -> list[Any]:
        return [record.get(column) for record in self.records]


Table = Union["datasets.Dataset", Records]


class Rows:
    """The rows of a dataset, split in two without overlap, in a keyed order.

    A dataset with a split of its own for evaluation (eval, test or validation) keeps it. Else a
    hashed tenth of the distinct prompts is held out, so that a repeated question never straddles.
    """

    def __init__(
        self,
        dataset: str,
        *,
        needs: Sequence[str],
        optional: Sequence[str] = (),
        columns: Mapping[str, str] | None = None,
        records: Records | None = None,
        plain: bool = False,
    ) -> None:
        """Load `dataset`.

        Args:
            dataset: A local `.jsonl`, `.json`, `.csv` or `.parquet` file, a folder, or a hub id,
                with `:subset` after it where it has subsets (`openai/gsm8k:main`).
            needs: What the environment calls its columns; the first is what rows are split by.
            optional: Columns that are None in every row where the dataset has none of the name.
            columns: From the environment's names to the dataset's, e.g. {"gold": "answer"}.
            records: The rows themselves, read elsewhere; `dataset` then only names them.
            plain: Read `.jsonl` and `.json` into plain Python values. Otherwise each column has
                one type, as Arrow wants it, which lists such as [1, "a"] have not.

        Raises:
            DatasetError: no such dataset, no rows, a missing column, too few rows to split.
            UnknownName: `columns` renames something that the environment does not need.
        """
        self.dataset = dataset
        for name in columns or {}:
            if name not in (*needs, *optional):
                raise unknown("column role in env.columns", name, (*needs, *optional))
        self._names = {name: (columns or {}).get(name, name) for name in (*needs, *optional)}
        self._required = {*needs, *(columns or {})}
        if plain and records is None:
            records = _load_plain(dataset)
        tables: Mapping[str, Table] = _load(dataset) if records is None else {"train": records}
        for table in tables.values():
            if len(table):  # an empty one is refused below
                self._require_columns(table.column_names)
        self._train, self._eval = self._split(tables, needs[0])

    def __len__(self) -> int:
        return len(self._train) + len(self._eval)

    def count(self, split: str) -> int:
        """Return how many rows `split` (train or eval) has."""
        return len(self._train if split == "train" else self._eval)

    def all(self) -> list[Row]:
        """Return every row, for checks before training starts."""
        return [*self._train, *self._eval]

    def pick(self, seed: int, split: str) -> Row:
        """Return row number `seed` of a keyed shuffle, which starts anew after the last row."""
        rows = self._train if split == "train" else self._eval
        epoch, position = divmod(seed, len(rows))
        return rows[_shuffle(split, epoch, len(rows))[position]]

    def _require_columns(self, have: Sequence[str]) -> None:
        for need, name in self._names.items():
            if name not in have and need in self._required:
                key = f"Set env.columns={{{need}: ...}} to one of: {', '.join(have)}."
                raise DatasetError(
                    f"{self.dataset}: no column {name!r}.{nearest(name, have)} {key}"
                )

    def _split(self, tables: Mapping[str, Table], by: str) -> tuple[list[Row], list[Row]]:
        own = next((name for name in _EVAL_NAMES if name in tables), None)
        if own and "train" in tables:
            return self._rows(tables["train"], "train"), self._rows(tables[own], own)
        rows = [row for name, table in tables.items() for row in self._rows(table, name)]
        prompts = {row.text(by) for row in rows}
        order = sorted(prompts, key=lambda prompt: seed_for("split", prompt))
        held_out = set(order[: max(1, round(_HELD_OUT * len(order)))])
        train = [row for row in rows if row.text(by) not in held_out]
        if not train:
            raise DatasetError(f"{self.dataset}: 1 distinct {by}; at least 2 are needed to split.")
        return train, [row for row in rows if row.text(by) in held_out]

    def _rows(self, table: Table, split: str) -> list[Row]:
        source = self.dataset if split == "train" else f"{self.dataset} ({split})"
        if not len(table):
            raise DatasetError(f"{source}: empty, it has no rows.")
        absent = [None] * len(table)
        picked = {
            need: table[name] if name in table.column_names else absent
            for need, name in self._names.items()
        }
        return [
            Row(
                number=i, source=source, values={need: column[i] for need, column in picked.items()}
            )
            for i in range(len(table))
        ]


@lru_cache(maxsize=8)
def _shuffle(split: str, epoch: int, size: int) -> list[int]:
    order = list(range(size))
    rng_for("rows", split, epoch).shuffle(order)
    return order


def _load_plain(dataset: str) -> Records | None:
    """Return the records of a local `.jsonl` or `.json` file, None for anything else."""
    path = Path(dataset).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".json") or not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"env.dataset={dataset}: cannot be read ({error}).") from error
    if suffix == ".jsonl":
        lines = [line for line in text.split("\n") if line.strip()]
        return Records([_parsed(line, dataset, i) for i, line in enumerate(lines)])
    try:
        whole = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"env.dataset={dataset}: cannot be read ({error}).") from error
    rows = whole if isinstance(whole, list) else [whole]
    return Records([_object(row, dataset, i) for i, row in enumerate(rows)])


def _parsed(line: str, dataset: str, number: int) -> Mapping[str, Any]:
    try:
        return _object(json.loads(line), dataset, number)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{dataset}: row {number + 1} is no JSON ({error}).") from error


def _object(row: Any, dataset: str, number: int) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DatasetError(f"{dataset}: row {number + 1} is no object with columns.")
    return row


def _load(dataset: str) -> Mapping[str, datasets.Dataset]:
    import datasets  # heavy, like pandas: kept off the import path of grpo_envs
    import pandas

    path = Path(dataset).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None and path.is_file():
        raise ConfigError(f"env.dataset={dataset}: not one of {', '.join(_READERS)}.")
    if reader and not path.is_file():
        raise DatasetError(f"env.dataset={dataset}: no such file (looked in {Path.cwd()}).")
    if reader and not path.read_bytes().strip():
        raise DatasetError(f"env.dataset={dataset}: the file is empty, it has no rows.")
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
            return {"train": datasets.Dataset.from_pandas(frame)}
        if reader:
            exact = glob.escape(str(path))  # else a name with [ or * is a pattern
            return {"train": datasets.load_dataset(reader, data_files=exact, split="train")}
        loaded = datasets.load_dataset(source, subset or None)
    except Exception as error:  # of many libraries below; promised: one line with the remedy
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(
            f"env.dataset={dataset}: cannot be read ({first[0]}). {_REMEDY}"
        ) from error
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()
    return {str(name): table for name, table in loaded.items()}
