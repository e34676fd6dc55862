"""Questions about two tables, by level, each with a query that answers it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from grpo_env_sql.tables import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and a query whose first column is the answer."""

    text: str
    sql: str


def count_kind(t: Theme, rng: random.Random) -> Question:
    """Count the rows of one kind."""
    kind = rng.choice(t.kinds)
    text = f"How many {t.table} have {t.kind} {kind}?"
    return Question(text=text, sql=f"SELECT count(*) FROM {t.table} WHERE {t.kind}='{kind}'")


def count_above(t: Theme, rng: random.Random) -> Question:
    """Count the rows above or below a number."""
    word, sign = rng.choice((("above", ">"), ("below", "<")))
    value = rng.randint(*t.numbers)
    text = f"How many {t.table} have {t.number} {word} {value}?"
    return Question(text=text, sql=f"SELECT count(*) FROM {t.table} WHERE {t.number}{sign}{value}")


def extreme(t: Theme, rng: random.Random) -> Question:
    """Find the largest or smallest number of a kind, or the sum."""
    word, name = rng.choice((("largest", "max"), ("smallest", "min"), ("total", "sum")))
    kind = rng.choice(t.kinds)
    text = f"What is the {word} {t.number} of {t.table} with {t.kind} {kind}?"
    sql = f"SELECT {name}({t.number}) FROM {t.table} WHERE {t.kind}='{kind}'"
    return Question(text=text, sql=sql)


def count_both(t: Theme, rng: random.Random) -> Question:
    """Count the rows of one kind above a number."""
    kind, value = rng.choice(t.kinds), rng.randint(*t.numbers)
    text = f"How many {t.table} have {t.kind} {kind} and {t.number} above {value}?"
    where = f"{t.kind}='{kind}' AND {t.number}>{value}"
    return Question(text=text, sql=f"SELECT count(*) FROM {t.table} WHERE {where}")


def count_joined(t: Theme, rng: random.Random) -> Question:
    """Count the rows of one kind that belong to the people of a place."""
    place, kind = rng.choice(t.places), rng.choice(t.kinds)
    text = f"How many {t.table} with {t.kind} {kind} have {t.a_person} whose {t.place} is {place}?"
    where = f"{t.kind}='{kind}' AND {t.place}='{place}'"
    return Question(text=text, sql=f"SELECT count(*) FROM {_joined(t)} WHERE {where}")


def sum_joined(t: Theme, rng: random.Random) -> Question:
    """Sum the numbers that belong to the people of a place, or find the largest."""
    word, name = rng.choice((("total", "sum"), ("largest", "max")))
    place = rng.choice(t.places)
    text = (
        f"What is the {word} {t.number} of all {t.table} with {t.a_person} whose {t.place} is "
        f"{place}?"
    )
    sql = f"SELECT {name}({t.number}) FROM {_joined(t)} WHERE {t.place}='{place}'"
    return Question(text=text, sql=sql)


def most_of(t: Theme, rng: random.Random) -> Question:
    """Find the most frequent kind, person or place."""
    column = rng.choice((t.kind, t.person, t.place))
    owner = t.people if column == t.place else t.table
    text = f"Which {column} has the most {t.table}?" if owner == t.people else ""
    text = text or f"Which {column} do most {t.table} have?"
    groups = f"SELECT {column} AS x, count(*) AS n FROM {_joined(t)} GROUP BY {column}"
    return Question(text=text, sql=_all_of_the_largest(groups))


def names_of(t: Theme, rng: random.Random) -> Question:
    """List the rows of one kind that belong to the people of a place."""
    place, kind = rng.choice(t.places), rng.choice(t.kinds)
    text = (
        f"Which {t.table} with {t.kind} {kind} have {t.a_person} whose {t.place} is {place}? "
        f"Give every {t.label}, separated by commas."
    )
    where, label = f"{t.kind}='{kind}' AND {t.place}='{place}'", f"{t.table}.{t.label}"
    return Question(text=text, sql=f"SELECT {label} FROM {_joined(t)} WHERE {where} ORDER BY 1")


def above_mean(t: Theme, rng: random.Random) -> Question:
    """Count the rows above the mean of their kind or person, or of all rows."""
    column = rng.choice((t.kind, t.person, ""))
    same = f" WHERE b.{column}=a.{column}" if column else ""
    of = f"those with the same {column}" if column else "all"
    text = f"How many {t.table} have a {t.number} above the mean {t.number} of {of}?"
    mean = f"SELECT avg(b.{t.number}) FROM {t.table} b{same}"
    return Question(text=text, sql=f"SELECT count(*) FROM {t.table} a WHERE a.{t.number}>({mean})")


def groups_having(t: Theme, rng: random.Random) -> Question:
    """Count the groups with at least some number of rows."""
    column, least = rng.choice((t.kind, t.person)), rng.randint(2, 6)
    text = f"How many different {t.kind}s" if column == t.kind else f"How many {t.people}"
    verb = "do" if column == t.kind else "have"
    what = f"at least {least} {t.table}"
    text += f" {verb} {what} have?" if column == t.kind else f" {verb} {what}?"
    groups = f"SELECT {column} FROM {t.table} GROUP BY {column} HAVING count(*)>={least}"
    return Question(text=text, sql=f"SELECT count(*) FROM ({groups})")


def second_largest(t: Theme, rng: random.Random) -> Question:
    """Find the row of a kind with the second or third largest number."""
    (word, place), kind = rng.choice((("second", 2), ("third", 3))), rng.choice(t.kinds)
    text = (
        f"Which of the {t.table} with {t.kind} {kind} has the {word} largest {t.number}? Give its "
        f"{t.label}."
    )
    ranked = (
        f"SELECT {t.label} AS x, rank() OVER (ORDER BY {t.number} DESC) AS n FROM {t.table} "
        f"WHERE {t.kind}='{kind}'"
    )
    return Question(text=text, sql=f"SELECT x FROM ({ranked}) WHERE n={place}")


def largest_step(t: Theme, rng: random.Random) -> Question:
    """Find the largest difference between neighbours in a sorted column."""
    kind = rng.choice(t.kinds)
    text = (
        f"Sort the {t.table} with {t.kind} {kind} by {t.number}. What is the largest difference "
        f"between two that follow each other?"
    )
    steps = (
        f"SELECT {t.number}-lag({t.number}) OVER (ORDER BY {t.number}) AS d FROM {t.table} "
        f"WHERE {t.kind}='{kind}'"
    )
    return Question(text=text, sql=f"SELECT max(d) FROM ({steps})")


def without_any(t: Theme, rng: random.Random) -> Question:
    """Count the people without a row of one kind."""
    kind = rng.choice(t.kinds)
    text = f"How many {t.people} have none of the {t.table} with {t.kind} {kind}?"
    having = f"SELECT {t.person} FROM {t.table} WHERE {t.kind}='{kind}'"
    return Question(text=text, sql=f"SELECT count(*) FROM {t.people} WHERE name NOT IN ({having})")


LEVELS: dict[int, tuple[Callable[[Theme, random.Random], Question], ...]] = {
    1: (count_above,),
    2: (count_kind, extreme, count_both),
    3: (
        *(count_joined, sum_joined, most_of, names_of),
        *(above_mean, groups_having, second_largest, largest_step, without_any),
    ),
}
"""The kinds of questions of each level."""


def _joined(t: Theme) -> str:
    return f"{t.table} JOIN {t.people} ON {t.table}.{t.person}={t.people}.name"


def _all_of_the_largest(groups: str) -> str:
    """Return a query for every `x` of the largest `n`; several rows if it is not unique."""
    return f"WITH g AS ({groups}) SELECT x FROM g WHERE n=(SELECT max(n) FROM g)"
