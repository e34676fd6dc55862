"""A small read-only SQLite database with limits for each query.

The limits count steps of SQLite's virtual machine and bytes, so that a query has the same result on
a busy machine. The clock only ends queries with single steps that take far too long.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

_EVERY, _MOST = 1000, 100
"""Steps between two checks of a query, and the checks after which it is ended: about 10 ms."""
_MOST_S = 2.0
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 500,  # bytes of a text, a blob or a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 2000,
    sqlite3.SQLITE_LIMIT_COLUMN: 50,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 20_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
}
_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FUNCTIONS = frozenset(
    (
        *("abs", "avg", "ceil", "ceiling", "char", "coalesce", "concat", "concat_ws", "count"),
        *("cume_dist", "dense_rank", "exp", "first_value", "floor", "glob", "group_concat", "hex"),
        *("ifnull", "iif", "instr", "lag", "last_value", "lead", "length", "like", "ln", "log"),
        *("log10", "log2", "lower", "ltrim", "max", "min", "mod", "nth_value", "ntile", "nullif"),
        *("percent_rank", "pow", "power", "quote", "rank", "replace", "round", "row_number"),
        *("rtrim", "sign", "sqrt", "string_agg", "substr", "substring", "sum", "total", "trim"),
        *("trunc", "typeof", "unicode", "upper"),
    )
)
"""Deterministic functions, unlike `random` and the functions of time. `printf` is not among them:
with a large width a single step of it takes minutes, in spite of the limits."""


class Database:
    """Read-only tables in memory. Only one thread at a time may use it."""

    def __init__(self, tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]) -> None:
        """Fill the tables.

        Args:
            tables: The columns and rows of each table, by its name.
        """
        self._looks, self._late = 0, 0.0
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for name, (columns, rows) in tables.items():
            self._connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
            places = ", ".join("?" * len(columns))
            self._connection.executemany(f"INSERT INTO {name} VALUES ({places})", rows)
        self._connection.commit()
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.execute("PRAGMA temp_store = MEMORY")
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)
        self._connection.set_authorizer(_allowed)
        self._connection.set_progress_handler(self._look, _EVERY)

    def rows(self, sql: str, most: int) -> list[tuple[Any, ...]]:
        """Return the first rows of a query.

        Raises:
            ValueError: `sql` is not a query, is not allowed, or takes too long; the message says
                why.
        """
        self._looks, self._late = 0, time.monotonic() + _MOST_S
        try:
            cursor = self._connection.execute(sql)
            found = cursor.fetchmany(most)
            if cursor.description is None:
                raise ValueError("that is no query")
            cursor.close()
        except (sqlite3.Error, sqlite3.Warning) as error:
            ended = self._looks >= _MOST
            raise ValueError("the query takes too long" if ended else str(error)) from error
        return found

    def close(self) -> None:
        """Close the database, which deletes its tables."""
        self._connection.close()

    def _look(self) -> bool:
        self._looks = _MOST if time.monotonic() > self._late else self._looks + 1
        return self._looks >= _MOST


def _allowed(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    function = action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
    return sqlite3.SQLITE_OK if action in _ACTIONS or function else sqlite3.SQLITE_DENY
