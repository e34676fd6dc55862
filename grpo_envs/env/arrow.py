"""Tables of the library `datasets`: CSV and Parquet files, folders, and datasets of the hub."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_envs.env.records import Records, Table
from grpo_envs.errors import DatasetError, require_training
from grpo_envs.runtime.hub import missing_on_hub

if TYPE_CHECKING:
    import datasets

ENCODING = "the file is not UTF-8. Save it as UTF-8."
REMEDY = "Give a local .jsonl, .json, .csv or .parquet file, or a reachable hub id."
_SAVED = ("state.json", "dataset_dict.json")
"""Files in a folder that `save_to_disk` wrote: of one dataset, of one with splits."""
_NARROW = ("float16", "float32")
_SEPARATORS = (";", "\t", "|")
"""That tables are written with in place of commas."""


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
        features = self.dataset.features
        return {
            name: _shortest(cell, features[name]) for name, cell in self.dataset[number].items()
        }

    def part(self, start: int, stop: int, names: Collection[str]) -> Records:
        features = self.dataset.features
        own = [name for name in self.dataset.column_names if name in names]
        read = self.dataset.select_columns(own)[start:stop]
        columns = [
            [_shortest(cell, features[name]) for cell in column]
            if _narrow(features[name])
            else column
            for name, column in read.items()
        ]
        return Records([dict(zip(own, row, strict=True)) for row in zip(*columns, strict=True)])


def arrow_tables(dataset: str, path: Path, reader: str | None) -> Mapping[str, Table]:
    """Return the tables of a dataset by split.

    Args:
        dataset: The value of `env.dataset`.
        path: The same as a path.
        reader: `csv` or `parquet` for a file; None for a folder or a dataset of the hub.

    Raises:
        DatasetError: there is no such dataset, or it cannot be read.
    """
    require_training(f"env.dataset={dataset}", ["datasets", "pandas"])
    if reader == "csv":
        with _reading(dataset):
            return {"train": _csv(path)}
    if reader:
        with _reading(dataset):
            return {"train": _Arrow(_undecoded(_parquet(path)))}
    source, _, subset = (str(path), "", "") if path.is_dir() else dataset.partition(":")
    absent = "" if path.is_dir() else missing_on_hub(source, "dataset")
    if absent:
        raise DatasetError(f"env.dataset={dataset}: {absent}. {REMEDY}")
    with _reading(dataset):
        loaded = _loaded(source, subset)
    return {str(name): _Arrow(_undecoded(table)) for name, table in loaded.items()}


@contextmanager
def _reading(dataset: str) -> Iterator[None]:
    """Turn exceptions into one line, without the bars and log lines of `datasets`."""
    import datasets  # heavy: kept off the import path of grpo_envs

    bars_were_on = datasets.is_progress_bar_enabled()
    said = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"env.dataset={dataset}: {error}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"env.dataset={dataset}: {ENCODING}") from error
    except Exception as error:  # of any library: reported as one line with the remedy
        made = isinstance(error, datasets.exceptions.DatasetGenerationError)
        cause = (made and error.__cause__) or error
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise DatasetError(f"env.dataset={dataset}: cannot be read ({first}). {REMEDY}") from error
    finally:
        datasets.logging.set_verbosity(said)
        if bars_were_on:
            datasets.enable_progress_bars()


def _csv(path: Path) -> _Arrow:
    """Read a CSV as text: guessing types would turn 007 into 7 and NA into nothing.

    Raises:
        DatasetError: rows have more cells than the header, and pandas would shift or drop columns;
            or cells are not separated by commas, and pandas would read a single column.
    """
    import datasets
    import pandas

    header = list(pandas.read_csv(path, dtype=str, nrows=0).columns)
    if len(header) == 1 and (found := [mark for mark in _SEPARATORS if mark in header[0]]):
        raise DatasetError(f"its cells are separated by {found[0]!r}. Save it with commas.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            frame = pandas.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
        except pandas.errors.ParserWarning:
            raise DatasetError("its rows have more cells than its header has names.") from None
    return _Arrow(datasets.Dataset.from_pandas(frame))


def _parquet(path: Path) -> datasets.Dataset:
    """Read a Parquet file.

    Raises:
        DatasetError: it has no rows, which `datasets` does not read.
    """
    import datasets
    from pyarrow import parquet

    if not parquet.read_metadata(path).num_rows:
        raise DatasetError("the file is empty, it has no rows.")
    exact = glob.escape(str(path))  # escaped: [ and * would be patterns
    table: datasets.Dataset = datasets.load_dataset("parquet", data_files=exact, split="train")
    return table


def _loaded(source: str, subset: str) -> Mapping[str, datasets.Dataset]:
    """Load a folder or a dataset of the hub, by split."""
    import datasets

    if any((Path(source) / name).is_file() for name in _SAVED):
        saved = datasets.load_from_disk(source)
        return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    loaded: Mapping[str, datasets.Dataset] = datasets.load_dataset(source, subset or None)
    return loaded


def _undecoded(table: datasets.Dataset) -> datasets.Dataset:
    """Return the table with pictures and sounds as bytes, because decoding needs packages."""
    for name, feature in table.features.items():
        if getattr(feature, "decode", False):
            table = table.cast_column(name, type(feature)(decode=False))
    return table


def _narrow(feature: Any) -> bool:
    """Return whether a column has numbers of less than 64 bits."""
    if isinstance(feature, Mapping):
        return any(map(_narrow, feature.values()))
    inner = getattr(feature, "feature", None)
    return getattr(feature, "dtype", "") in _NARROW if inner is None else _narrow(inner)


def _shortest(cell: Any, feature: Any) -> Any:
    """Return a cell with its narrow numbers as they were written: 0.1 and not 0.10000000149."""
    import numpy

    if cell is None or not _narrow(feature):
        return cell
    if isinstance(feature, Mapping):
        return {name: _shortest(cell[name], inner) for name, inner in feature.items()}
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return [_shortest(each, inner) for each in cell]
    return float(str(numpy.dtype(feature.dtype).type(cell)))
