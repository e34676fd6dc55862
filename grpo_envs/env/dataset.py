"""Problems from files: the rows of a dataset, with renamed columns and two disjoint splits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from grpo_envs.env.columns import names_of
from grpo_envs.env.dataset_cache import key_of, load, save
from grpo_envs.env.reading import Reading, Verdict, shown
from grpo_envs.env.records import Records, Table
from grpo_envs.env.row import Row
from grpo_envs.env.tables import load_tables
from grpo_envs.errors import ConfigError, DatasetError, require, require_one_of
from grpo_envs.runtime.progress import phase
from grpo_envs.seeding import rng_for

__all__ = ["UNREADABLE", "Records", "Row", "Rows", "Table", "load_tables", "require_dataset"]

log = logging.getLogger(__name__)

UNREADABLE = ("error", "drop")
"""Values of `env.unreadable`: rows that cannot be read are an error, or are left out."""


def require_dataset(dataset: str | None, **keys: object) -> None:
    """Refuse keys for a dataset if there is no dataset.

    Args:
        dataset: The value of `env.dataset`.
        keys: The values of other keys, by name.

    Raises:
        ConfigError: one of them is given.
    """
    given = [name for name, value in keys.items() if value not in (None, "error")]
    if dataset is None and given:
        raise ConfigError(f"env.{given[0]} is for a dataset: set env.dataset.")


class Rows:
    """The rows of a dataset, in two disjoint splits, in a keyed order.

    A dataset's own split for evaluation (eval, test or validation) is kept. Otherwise a hashed
    share of the distinct prompts is held out, so that a repeated question is in one split only.
    """

    def __init__(
        self,
        dataset: str,
        *,
        needs: Sequence[str],
        optional: Sequence[str] = (),
        columns: Mapping[str, Any] | None = None,
        records: Records | Mapping[str, Table] | None = None,
        read: Callable[[Row], object] | None = None,
        unreadable: str | None = None,
        held_out: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Load `dataset`.

        Args:
            dataset: A local `.jsonl`, `.json`, `.csv` or `.parquet` file, a folder, or a hub id,
                followed by `:subset` if it has subsets (`openai/gsm8k:main`).
            needs: The environment's names of its columns; rows are split by the first.
            optional: Further columns; None in every row if the dataset has no such column.
            columns: From the environment's names to the dataset's, e.g. {"gold": "answer"}; dots
                name values inside a cell (`reward_model.ground_truth`). A prompt may be a list of
                columns, whose texts are joined by newlines.
            records: Rows that were read elsewhere; `dataset` is then only their name in messages.
            read: Called with every row; raises DatasetError if the row cannot be read. `kinds`
                collects the texts that it returns.
            unreadable: `error` or `drop`: the value of `env.unreadable`. None: as `error`, in an
                environment without that key.
            held_out: Share of the distinct prompts that is held out for evaluation; None: 0.1.
            settings: JSON values that `read` depends on, besides the row. With them the result of
                reading a large dataset is cached for the next run, see `dataset_cache`.

        Raises:
            DatasetError: no such dataset, no rows, a missing column, too few rows to split, rows
                that cannot be read.
            ConfigError: `columns` renames a column that the environment does not have, `held_out`
                is not a share, or it is given for a dataset with a split of its own.
        """
        if unreadable is not None:
            require_one_of("env.unreadable", unreadable, UNREADABLE)
        share = type(held_out) in (int, float) and 0 < float(held_out or 0) < 1
        require(held_out is None or share, "env.held_out", held_out, "a share between 0 and 1")
        self.dataset = dataset
        names = names_of(columns, needs, optional)
        if records is None:
            with phase(f"opening {dataset}"):
                records = load_tables(dataset, [name for some in names.values() for name in some])
        self._reading = Reading(
            dataset=dataset,
            tables={"train": records} if isinstance(records, Records) else records,
            names=names,
            required={*needs, *(columns or {})},
            by=needs[0],
            read=read,
            unreadable=unreadable,
            held_out=held_out,
        )
        verdict = self._verdict(None if read and settings is None else {"read": settings})
        self._train, self._eval = verdict.train, verdict.held_out
        self._have = verdict.have
        self.kinds = frozenset(verdict.kinds)
        """The texts that `read` returned."""

    def __len__(self) -> int:
        return len(self._train) + len(self._eval)

    @property
    def columns(self) -> frozenset[str]:
        """The dataset's own names of its columns."""
        return frozenset(name for names in self._have.values() for name in names)

    def count(self, split: str) -> int:
        """Return how many rows `split` (train or eval) has."""
        return len(self._train if split == "train" else self._eval)

    def all(self) -> list[Row]:
        """Return every row, for checks before training starts."""
        return [self._row(position) for position in (*self._train, *self._eval)]

    def pick(self, seed: int, split: str) -> Row:
        """Return row number `seed` of a keyed shuffle; after the last row a new shuffle follows."""
        positions = self._train if split == "train" else self._eval
        epoch, number = divmod(seed, len(positions))
        return self._row(positions[_shuffle(split, epoch, len(positions))[number]])

    def drop(self, rows: Collection[Row]) -> None:
        """Leave `rows` out.

        Raises:
            DatasetError: a split has no row left.
        """
        out = {self._reading.position(row) for row in rows}
        self._train, self._eval = (
            [i for i in some if i not in out] for some in (self._train, self._eval)
        )
        if not (self._train and self._eval):
            raise DatasetError(f"{self.dataset}: no row that can be read is left of a split.")

    def _row(self, position: int) -> Row:
        return self._reading.row(position, self._have)

    def _verdict(self, settings: Mapping[str, Any] | None) -> Verdict:
        """Read all rows, or load the cached verdict of an earlier run."""
        reading, key = self._reading, None
        if settings is not None:
            about = (reading.names, sorted(reading.required), reading.by)
            how = {"rows": [about, reading.unreadable, reading.held_out], **settings}
            key = key_of(self.dataset, reading.total, reading.read, how)
        found = load(key, reading.total) if key else None
        if found is None:
            found = reading.verdict()
            if key:
                save(key, found)
        if found.refused:
            examples = shown(self.dataset, found.refused, found.examples)
            count = f"{found.refused} of {reading.total} rows cannot be read"
            _warn(f"{self.dataset}: {count}, left out: {examples}")
        return found


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    """Log a line once, even if several environments read the dataset."""
    log.warning("%s", text)


@lru_cache(maxsize=8)
def _shuffle(split: str, epoch: int, size: int) -> list[int]:
    order = list(range(size))
    rng_for("rows", split, epoch).shuffle(order)
    return order
