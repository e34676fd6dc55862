"""Problems out of files: rows of a dataset, their columns renamed, split in two without overlap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from grpo_envs.env.cells import Unreadable, asked, joined, nested, plain_text
from grpo_envs.env.columns import name_of, names_of, require_columns
from grpo_envs.env.tables import Records, Table, load_tables
from grpo_envs.errors import DatasetError, require_one_of
from grpo_envs.seeding import rng_for, seed_for

__all__ = ["UNREADABLE", "Records", "Row", "Rows", "Table", "load_tables"]

log = logging.getLogger(__name__)

UNREADABLE = ("error", "drop")
"""What `env.unreadable` may be: rows that cannot be read are an error, or are left out."""
_EVAL_NAMES = ("eval", "test", "validation")
_HELD_OUT = 0.1
_EXAMPLES = 3
_CONVERSATION = ("[", "{")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record, its columns already renamed to what the environment calls them."""

    number: int
    """0-based position in its file or split."""
    source: str
    values: Mapping[str, Any]
    system: str | None = None
    """The system messages of a prompt that is a conversation; None where there are none."""

    def text(self, column: str) -> str:
        """Return a column as stripped text.

        Raises:
            DatasetError: the cell is empty, an object or a list of anything but numbers; the
                message names file, row and column.
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
        return text

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.source}: row {self.number + 1}"


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
        columns: Mapping[str, Any] | None = None,
        records: Records | Mapping[str, Table] | None = None,
        read: Callable[[Row], object] | None = None,
        unreadable: str | None = None,
    ) -> None:
        """Load `dataset`.

        Args:
            dataset: A local `.jsonl`, `.json`, `.csv` or `.parquet` file, a folder, or a hub id,
                with `:subset` after it where it has subsets (`openai/gsm8k:main`).
            needs: What the environment calls its columns; the first is what rows are split by.
            optional: Columns that are None in every row where the dataset has none of the name.
            columns: From the environment's names to the dataset's, e.g. {"gold": "answer"}, with
                dots for what is inside of a cell (`reward_model.ground_truth`). A prompt may be a
                list of columns, whose texts are put together line by line.
            records: The rows themselves, read elsewhere; `dataset` then only names them.
            read: Called with every row; raises DatasetError for one that cannot be read.
            unreadable: `error` or `drop`: the value of `env.unreadable`. None is `error` in an
                environment that has no such key.

        Raises:
            DatasetError: no such dataset, no rows, a missing column, too few rows to split, rows
                that cannot be read.
            ConfigError: `columns` renames something that the environment does not need.
        """
        if unreadable is not None:
            require_one_of("env.unreadable", unreadable, UNREADABLE)
        self.dataset, self._unreadable = dataset, unreadable
        self._names = names_of(columns, needs, optional)
        self._required = {*needs, *(columns or {})}
        wanted = [name for names in self._names.values() for name in names]
        if records is None:
            records = load_tables(dataset, wanted)
        tables = {"train": records} if isinstance(records, Records) else records
        kept: dict[str, list[Row]] = {}
        why: list[str] = []
        total = 0
        for split, table in tables.items():
            rows, broken = self._rows(table, split)
            for row in rows:
                cell = row.values.get(needs[0])
                if read is None and type(cell) is str and cell and not cell.isspace():
                    continue
                if row.number not in broken and (text := _refused(row, needs[0], read)):
                    broken[row.number] = text
            kept[split] = [row for row in rows if row.number not in broken] if broken else rows
            why += [broken[number] for number in sorted(broken)]
            total += len(rows)
        if why:
            self._refuse_or_log(why, total)
        self._train, self._eval = self._split(kept, needs[0])

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

    def drop(self, rows: Collection[Row]) -> None:
        """Leave `rows` out.

        Raises:
            DatasetError: no row is left of a split.
        """
        out = set(map(id, rows))
        self._train = [row for row in self._train if id(row) not in out]
        self._eval = [row for row in self._eval if id(row) not in out]
        if not (self._train and self._eval):
            raise DatasetError(f"{self.dataset}: no row that can be read is left of a split.")

    def _refuse_or_log(self, why: Sequence[str], total: int) -> None:
        """Say which rows cannot be read, as an error unless they are dropped."""
        shown = [text.removeprefix(f"{self.dataset}: ").rstrip(".") for text in why[:_EXAMPLES]]
        more = "; ..." if len(why) > len(shown) else ""
        count = f"{len(why)} of {total} rows cannot be read"
        if self._unreadable == "drop":
            _warn(f"{self.dataset}: {count}, left out: {'; '.join(shown)}{more}")
            return
        if len(why) == 1:
            hint = f" {count}; env.unreadable=drop leaves it out."
            raise DatasetError(why[0] + (hint if self._unreadable else ""))
        hint = " env.unreadable=drop leaves them out." if self._unreadable else ""
        raise DatasetError(f"{self.dataset}: {count}: {'; '.join(shown)}{more}.{hint}")

    def _split(self, tables: Mapping[str, list[Row]], by: str) -> tuple[list[Row], list[Row]]:
        own = next((name for name in _EVAL_NAMES if name in tables), None)
        if own and "train" in tables:
            for split in ("train", own):
                if not tables[split]:
                    raise DatasetError(f"{self.dataset}: no row of {split!r} can be read.")
            return tables["train"], tables[own]
        rows = [row for table in tables.values() for row in table]
        if not rows:
            raise DatasetError(f"{self.dataset}: no row can be read.")
        prompts = [row.text(by) for row in rows]
        order = sorted(set(prompts), key=lambda prompt: seed_for("split", prompt))
        held_out = set(order[: max(1, round(_HELD_OUT * len(order)))])
        pairs = list(zip(rows, prompts, strict=True))
        train = [row for row, prompt in pairs if prompt not in held_out]
        if not train:
            raise DatasetError(f"{self.dataset}: 1 distinct {by}; at least 2 are needed to split.")
        return train, [row for row, prompt in pairs if prompt in held_out]

    def _rows(self, table: Table, split: str) -> tuple[list[Row], dict[int, str]]:
        """Return the rows of a table, and why some of them cannot be read, by number."""
        source = self.dataset if split == "train" else f"{self.dataset} ({split})"
        if not len(table):
            raise DatasetError(f"{source}: empty, it has no rows.")
        broken = {}
        if isinstance(table, Records):
            broken = {i: f"{source}: row {i + 1} {why}." for i, why in table.broken.items()}
        if len(broken) == len(table):
            return [Row(number=i, source=source, values={}) for i in broken], broken
        have = table.column_names
        require_columns(self.dataset, self._names, self._required, have=have, table=table)
        picked = {need: _column(table, names, have) for need, names in self._names.items()}
        names = tuple(picked)
        rows = [
            Row(number=number, source=source, values=dict(zip(names, cells, strict=True)))
            for number, cells in enumerate(zip(*picked.values(), strict=True))
        ]
        for number, cell in enumerate(picked.get("prompt", ())):
            if type(cell) is str and not cell.lstrip().startswith(_CONVERSATION):
                continue
            try:
                rows[number] = _with_text(rows[number])
            except Unreadable as error:
                column = name_of(self._names["prompt"])
                broken.setdefault(number, f"{rows[number].where}: {column!r} {error}.")
        return rows, broken


def _column(table: Table, names: Sequence[str], have: Sequence[str]) -> Sequence[Any]:
    """Return the cells of a column, of something inside of it, or of several columns."""
    if len(names) > 1:
        columns = [_column(table, [name], have) for name in names]
        return [_Several(cells) for cells in zip(*columns, strict=True)]
    (name,) = names
    if name not in have:
        head, *keys = name.split(".")
        if head not in have:
            return [None] * len(table)
        return [nested(cell, keys) for cell in _column(table, [head], have)]
    cells: Sequence[Any] = table[name]
    return cells if isinstance(cells, list) else cells[:]


class _Several(tuple[Any, ...]):
    """The cells of the columns that a prompt is made of."""

    __slots__ = ()


def _with_text(row: Row) -> Row:
    """Return the row with a prompt that is text.

    Raises:
        Unreadable: the prompt is neither text nor a conversation.
    """
    cell = row.values["prompt"]
    found = asked(joined(cell) if isinstance(cell, _Several) else cell)
    if found is None:
        return replace(row, values={**row.values, "prompt": None})
    if type(cell) is str and found.prompt == cell.strip() and found.system is None:
        return row  # as it stands, white space included
    return replace(row, values={**row.values, "prompt": found.prompt}, system=found.system)


def _refused(row: Row, by: str, read: Callable[[Row], object] | None) -> str:
    """Return why a row cannot be read, '' where it can."""
    try:
        row.text(by)
        if read is not None:
            read(row)
    except DatasetError as error:
        return str(error)
    return ""


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    """Log a line once, however many environments read the dataset."""
    log.warning("%s", text)


@lru_cache(maxsize=8)
def _shuffle(split: str, epoch: int, size: int) -> list[int]:
    order = list(range(size))
    rng_for("rows", split, epoch).shuffle(order)
    return order
