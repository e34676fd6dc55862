"""Reading a dataset once: which rows can be read, and which of them are held out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_envs.env.cells import Asked, Unreadable, asked, joined
from grpo_envs.env.columns import PART, Names, cells_of, heads, name_of, require_columns
from grpo_envs.env.records import Table
from grpo_envs.env.row import Row
from grpo_envs.errors import ConfigError, DatasetError
from grpo_envs.runtime.progress import phase
from grpo_envs.seeding import seed_for

_EVAL_NAMES = ("eval", "test", "validation")
_HELD_OUT = 0.1
_EXAMPLES = 3
_CONVERSATION = ("[", "{", "array(")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of reading a dataset. Rows are numbered across all tables."""

    train: Sequence[int]
    held_out: Sequence[int]
    have: Mapping[str, Sequence[str]]
    """The columns of each table."""
    kinds: Sequence[str] = ()
    """The distinct texts that `read` returned."""
    refused: int = 0
    """Rows that cannot be read."""
    examples: Sequence[str] = ()
    """The reasons for the first of them."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """The tables of a dataset, and how their rows are read."""

    dataset: str
    tables: Mapping[str, Table]
    names: Names
    required: Collection[str]
    by: str
    """The column that rows are split by."""
    read: Callable[[Row], object] | None = None
    unreadable: str | None = None
    held_out: float | None = None

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(map(len, self.tables.values()))

    def row(self, position: int, have: Mapping[str, Sequence[str]]) -> Row:
        """Return a row by its number across all tables; `have` are the columns of each table."""
        for split, table in self.tables.items():
            if position < len(table):
                return next(self._rows(split, have[split], range(position, position + 1)))[0]
            position -= len(table)
        raise IndexError(position)

    def position(self, row: Row) -> int:
        """Return a row's number across all tables."""
        before = 0
        for table in self.tables.values():
            if row.table is table:
                break
            before += len(table)
        return before + row.number

    def verdict(self) -> Verdict:
        """Read every row.

        Raises:
            DatasetError: a table is empty or lacks a column, rows cannot be read, or there are too
                few rows to split.
            ConfigError: `held_out` is given for a dataset with a split of its own.
        """
        kept: dict[str, list[tuple[int, str]]] = {}
        have: dict[str, Sequence[str]] = {}
        kinds: set[str] = set()
        examples: list[str] = []
        refused = done = 0
        with phase(f"reading {self.dataset}", self.total) as reading:
            for split, table in self.tables.items():
                have[split], kept[split] = self._columns(split, table), []
                for row, broken in self._rows(split, have[split], range(len(table))):
                    why = broken or self._refused(row, kinds)
                    if not why:
                        kept[split].append((done, row.text(self.by)))
                    elif len(examples) < _EXAMPLES:
                        examples.append(why)
                    refused += bool(why)
                    done += 1
                    if done % PART == 0:
                        reading.advance(PART)
        self._require_readable(refused, examples)
        train, held_out = self._split(kept)
        return Verdict(
            train=train,
            held_out=held_out,
            have=have,
            kinds=sorted(kinds),
            refused=refused,
            examples=examples,
        )

    def _source(self, split: str) -> str:
        return self.dataset if split == "train" else f"{self.dataset} ({split})"

    def _columns(self, split: str, table: Table) -> Sequence[str]:
        if not len(table):
            raise DatasetError(f"{self._source(split)}: empty, it has no rows.")
        have = table.column_names
        if have:  # else no row is an object, which each row reports
            require_columns(self.dataset, self.names, self.required, table=table, have=have)
        return have

    def _rows(self, split: str, have: Sequence[str], numbers: range) -> Iterator[tuple[Row, str]]:
        """Yield rows, each with the reason why it cannot be read ('' if it can)."""
        table, used, known = self.tables[split], heads(self.names, have), frozenset(have)
        make = partial(Row, source=self._source(split), used=used, table=table)
        for start in range(numbers.start, numbers.stop, PART):
            part = table.part(start, min(start + PART, numbers.stop), used)
            for i in range(len(part)):
                try:
                    values, found = self._values(part.record(i), known)
                except Unreadable as error:
                    row = make(number=start + i, values={})
                    yield row, f"{row.where}{error}."
                    continue
                if found is None:
                    yield make(number=start + i, values=values), ""
                else:
                    system, messages = found.system, found.messages
                    row = make(number=start + i, values=values, system=system, messages=messages)
                    yield row, ""

    def _values(
        self, record: Mapping[str, Any], have: Collection[str]
    ) -> tuple[dict[str, Any], Asked | None]:
        """Return a row's values, and its parsed prompt if that is a conversation.

        Raises:
            Unreadable: the prompt is neither text nor a conversation.
        """
        values: dict[str, Any] = {}
        try:
            for role, names in self.names.items():
                cells = cells_of(record, names, have)
                values[role] = cells[0] if len(cells) == 1 else joined(cells)
            cell = values.get("prompt")
            if cell is None or (type(cell) is str and not cell.lstrip().startswith(_CONVERSATION)):
                return values, None
            found = asked(cell)
        except Unreadable as error:
            raise Unreadable(f": {name_of(self.names['prompt'])!r} {error}") from None
        if found is None or (type(cell) is str and not found.messages):
            return values, None
        values["prompt"] = found.prompt
        return values, found

    def _refused(self, row: Row, kinds: set[str]) -> str:
        """Return why a row cannot be read; '' if it can."""
        try:
            row.text(self.by)
            kind = self.read(row) if self.read else None
        except DatasetError as error:
            return str(error)
        if isinstance(kind, str):
            kinds.add(kind)
        return ""

    def _require_readable(self, refused: int, examples: Sequence[str]) -> None:
        if not refused or self.unreadable == "drop":
            return
        count = f"{refused} of {self.total} rows cannot be read"
        if refused == 1:
            hint = f" {count}; env.unreadable=drop leaves it out."
            raise DatasetError(examples[0] + (hint if self.unreadable else ""))
        hint = " env.unreadable=drop leaves them out." if self.unreadable else ""
        raise DatasetError(
            f"{self.dataset}: {count}: {shown(self.dataset, refused, examples)}.{hint}"
        )

    def _split(self, kept: Mapping[str, list[tuple[int, str]]]) -> tuple[list[int], list[int]]:
        """Return the positions of the training rows and of the held-out rows."""
        own = next((name for name in _EVAL_NAMES if name in kept), None)
        if own and "train" in kept:
            if self.held_out is not None:
                raise ConfigError(
                    f"env.held_out={self.held_out}: {self.dataset} has a split {own!r} of its own, "
                    "which is kept for evaluation. Leave the key out."
                )
            for split in ("train", own):
                if not kept[split]:
                    raise DatasetError(f"{self.dataset}: no row of {split!r} can be read.")
            return [i for i, _ in kept["train"]], [i for i, _ in kept[own]]
        rows = [row for split in kept.values() for row in split]
        order = sorted({prompt for _, prompt in rows}, key=lambda text: seed_for("split", text))
        if not order:
            raise DatasetError(f"{self.dataset}: no row can be read.")
        if len(order) == 1:
            few = f"1 distinct {self.by}; at least 2 are needed to split"
            raise DatasetError(f"{self.dataset}: {few}.")
        share = _HELD_OUT if self.held_out is None else self.held_out
        out = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
        return [i for i, text in rows if text not in out], [i for i, text in rows if text in out]


def shown(dataset: str, refused: int, examples: Sequence[str]) -> str:
    """Return the examples of rows that cannot be read as one line, without the dataset's name."""
    texts = [text.removeprefix(f"{dataset}: ").rstrip(".") for text in examples]
    return "; ".join(texts) + ("; ..." if refused > len(texts) else "")
