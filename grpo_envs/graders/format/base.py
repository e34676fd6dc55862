"""The base class of constraints, and checks of their options.

Every check is pure, never raises for any string, and takes time that is nearly linear in its
length. The constraints are similar to those of IFEval (Zhou et al. 2023, arXiv:2311.07911).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from grpo_envs.errors import require, require_one_of
from grpo_envs.graders.format.words import is_word

MOST_CHARACTERS = 50_000
"""A longer text satisfies no constraint, because reading it would take too long."""
MOST_DEPTH = 50
"""Structures that are nested more deeply satisfy no constraint either."""


class TooMuch(Exception):
    """A text would take too long to read, so it satisfies no constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint(ABC):
    """A constraint on a text. The fields of a subclass are its options."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse options without meaning."""
        self._require()

    @property
    def instruction(self) -> str:
        """The instruction for the writer, in English, without initial capital and full stop."""
        return self._said()

    def check(self, text: str) -> float:
        """Return how far `text` satisfies the constraint: 1 fully, 0 not at all.

        A blank text satisfies no constraint, not even one that only forbids something.
        """
        if len(text) > MOST_CHARACTERS or not text.strip():
            return 0.0
        try:
            return float(self._measure(text))
        except TooMuch:
            return 0.0

    def _require(self) -> None:  # noqa: B027  most refuse nothing
        """Raise a ConfigError if an option has no meaning."""

    @abstractmethod
    def _said(self) -> str:
        """Return the instruction."""

    @abstractmethod
    def _measure(self, text: str) -> float:
        """Return how far `text`, which is neither blank nor too long, satisfies the constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Constraint):
    """A constraint on the number of something."""

    least: int | None = None
    most: int | None = None

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)

    def _measure(self, text: str) -> float:
        return within(self._count(text), self.least, self.most)

    @abstractmethod
    def _count(self, text: str) -> int:
        """Return the number in `text`."""

    def _amount(self, noun: str) -> str:
        return amount(self.least, self.most, noun)


def within(count: int, least: int | None, most: int | None) -> bool:
    """Return whether `count` is within two bounds; None is no bound."""
    return (least is None or least <= count) and (most is None or count <= most)


def amount(least: int | None, most: int | None, noun: str) -> str:
    """Return two bounds in words.

    >>> amount(3, 3, "word"), amount(3, 5, "word"), amount(1, None, "word"), amount(None, 0, "word")
    ('exactly 3 words', '3 to 5 words', 'at least 1 word', 'no word')
    """
    if most == 0:
        return f"no {noun}"
    if least == most:
        return f"exactly {least} {plural(noun, least)}"
    if most is None:
        return f"at least {least} {plural(noun, least)}"
    if not least:
        return f"at most {most} {plural(noun, most)}"
    return f"{least} to {most} {plural(noun, most)}"


def plural(noun: str, count: int | None) -> str:
    """Return `noun` in the form after a number; for `a in b`, `a` gets the plural."""
    head, space, tail = noun.partition(" in ")
    return noun if count == 1 else f"{head}s{space}{tail}"


# Options


def need_bounds(name: str, least: Any, most: Any) -> None:
    """Refuse bounds that are not whole numbers, or that exclude every number."""
    require(least is not None or most is not None, f"{name}.least", None, "least or most is needed")
    for key, bound in (("least", least), ("most", most)):
        whole = bound is None or (type(bound) is int and 0 <= bound <= MOST_CHARACTERS)
        require(whole, f"{name}.{key}", bound, f"a whole number, 0 to {MOST_CHARACTERS}")
    ordered = least is None or most is None or least <= most
    require(ordered, f"{name}.least", least, f"at most {name}.most={most}")


def need_text(name: str, option: str, value: Any) -> None:
    """Require an option to be a text that is not blank."""
    given = isinstance(value, str) and bool(value.strip()) and len(value) <= MOST_CHARACTERS
    require(given, f"{name}.{option}", repr(value)[:80], "a text that is not empty")


def need_texts(name: str, option: str, values: Any) -> None:
    """Require an option to be a list of at least one text that is not blank."""
    listed = isinstance(values, tuple) and bool(values)
    require(listed, f"{name}.{option}", repr(values)[:80], "a list of one text or more")
    for value in values:
        need_text(name, option, value)


def need_words(name: str, option: str, values: Any) -> None:
    """Require an option to be a list of single words."""
    need_texts(name, option, values)
    for value in values:
        require(is_word(value), f"{name}.{option}", repr(value)[:80], "single words")


def need_one_of(name: str, option: str, value: Any, allowed: Iterable[str]) -> None:
    """Require an option to be one of some names."""
    require_one_of(f"{name}.{option}", value, allowed)
