"""Tables about pets, books and the like, generated from a number."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_env_sql.database import Database
from grpo_envs.seeding import rng_for

ROWS = (16, 30)
"""Least and most rows of the larger table."""
_PARENTS = (5, 8)
_SYLLABLES = (
    ("Ba", "Ka", "Lo", "Mi", "No", "Pe", "Ra", "Su", "To", "Vi"),
    ("bo", "da", "lin", "mo", "na", "ri", "ska", "to", "vin", "za"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The subject of two tables: things of several kinds, each of which belongs to a person."""

    table: str
    label: str
    kind: str
    kinds: tuple[str, ...]
    number: str
    numbers: tuple[int, int]
    """Least and most value of `number`."""
    person: str
    """The column that names the person."""
    people: str
    """The other table."""
    place: str
    places: tuple[str, ...]

    @property
    def a_person(self) -> str:
        """The person with its article."""
        return f"{'an' if self.person[0] in 'aeiou' else 'a'} {self.person}"

    @property
    def schema(self) -> str:
        """The larger table with its columns, as levels 1 and 2 show it."""
        return f"{self.table}({self.label}, {self.kind}, {self.number})"

    @property
    def both(self) -> str:
        """Both tables with their columns."""
        own = f"{self.table}({self.label}, {self.kind}, {self.number}, {self.person})"
        return f"{own}, {self.people}(name, {self.place})"


_CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Quito")
THEMES = (
    Theme(
        table="pets",
        label="name",
        kind="kind",
        kinds=("cat", "dog", "bird", "fish", "frog"),
        number="age",
        numbers=(1, 19),
        person="owner",
        people="owners",
        place="city",
        places=_CITIES,
    ),
    Theme(
        table="books",
        label="title",
        kind="genre",
        kinds=("crime", "poems", "travel", "drama", "comic"),
        number="price",
        numbers=(4, 60),
        person="author",
        people="authors",
        place="country",
        places=("Peru", "Chad", "Iran", "Cuba", "Mali"),
    ),
    Theme(
        table="cars",
        label="plate",
        kind="color",
        kinds=("red", "blue", "green", "white", "black"),
        number="price",
        numbers=(2, 99),
        person="dealer",
        people="dealers",
        place="city",
        places=_CITIES,
    ),
    Theme(
        table="films",
        label="title",
        kind="genre",
        kinds=("comedy", "horror", "drama", "western", "music"),
        number="length",
        numbers=(61, 199),
        person="director",
        people="directors",
        place="country",
        places=("Peru", "Chad", "Iran", "Cuba", "Mali"),
    ),
    Theme(
        table="dishes",
        label="name",
        kind="type",
        kinds=("soup", "salad", "fish", "pasta", "cake"),
        number="price",
        numbers=(3, 39),
        person="cook",
        people="cooks",
        place="city",
        places=_CITIES,
    ),
)


def fill(theme: Theme, number: int) -> Database:
    """Return database `number` about a theme."""
    rng = rng_for("sql", theme.table, number)
    return Database(_tables(theme, rng))


def _tables(
    theme: Theme, rng: random.Random
) -> Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]:
    names = _names(rng)
    people = [(names.pop(), rng.choice(theme.places)) for _ in range(rng.randint(*_PARENTS))]
    low, high = theme.numbers
    rows = [
        (names.pop(), rng.choice(theme.kinds), rng.randint(low, high), rng.choice(people)[0])
        for _ in range(rng.randint(*ROWS))
    ]
    columns = (theme.label, theme.kind, theme.number, theme.person)
    return {theme.table: (columns, rows), theme.people: (("name", theme.place), people)}


def _names(rng: random.Random) -> list[str]:
    first, second = _SYLLABLES
    names = [one + other for one in first for other in second]
    rng.shuffle(names)
    return names
