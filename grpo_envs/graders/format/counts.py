"""Constraints on numbers of words, letters, items and occurrences, and on a sum of numbers."""

from dataclasses import dataclass
from typing import ClassVar

from grpo_envs.errors import require
from grpo_envs.graders.format.base import (
    Constraint,
    Counted,
    amount,
    need_bounds,
    need_text,
    need_words,
    within,
)
from grpo_envs.graders.format.words import counts_of, words_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Counted):
    """The number of words."""

    name: ClassVar[str] = "words"

    def _said(self) -> str:
        return f"use {self._amount('word')}"

    def _count(self, text: str) -> int:
        return len(words_of(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters(Counted):
    """The number of letters of any alphabet; digits and signs do not count."""

    name: ClassVar[str] = "letters"

    def _said(self) -> str:
        return f"use {self._amount('letter')}"

    def _count(self, text: str) -> int:
        return sum(map(str.isalpha, text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Items(Counted):
    """The number of items in a list with separators; each item has a word."""

    name: ClassVar[str] = "items"
    separator: str = ","

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)
        need_text(self.name, "separator", self.separator)

    def _said(self) -> str:
        sign = "commas" if self.separator == "," else repr(self.separator)
        return f"list {self._amount('item')} with {sign} between them"

    def _measure(self, text: str) -> float:
        items = text.split(self.separator)
        listed = all(any(map(str.isalnum, item)) for item in items)
        return listed and within(len(items), self.least, self.most)

    def _count(self, text: str) -> int:
        return text.count(self.separator) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency(Counted):
    """The number of occurrences of a word in any case, with or without hyphenated words."""

    name: ClassVar[str] = "frequency"
    word: str

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)
        need_words(self.name, "word", (self.word,))

    def _said(self) -> str:
        return f"use the word {self.word} {self._amount('time')}"

    def _measure(self, text: str) -> float:
        counts = counts_of(self.word, text)
        return all(within(count, self.least, self.most) for count in counts)

    def _count(self, text: str) -> int:
        return counts_of(self.word, text)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(Constraint):
    """The text is only this number of positive whole numbers, with this sum."""

    name: ClassVar[str] = "sum"
    total: int
    least: int = 1
    most: int | None = None

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)
        least = max(self.least, 1)
        can = type(self.total) is int and least <= self.total <= 10**9
        require(can, "sum.total", self.total, f"a whole number, {least} to 10^9")

    def _said(self) -> str:
        return f"write {amount(self.least, self.most, 'number')} with the sum {self.total}"

    def _measure(self, text: str) -> float:
        numbers = text.replace(",", " ").split()
        if not all(n.isascii() and n.isdigit() and len(n) < 12 and int(n) > 0 for n in numbers):
            return 0.0
        added = sum(map(int, numbers)) == self.total
        return added and within(len(numbers), self.least, self.most)


KINDS = (Words, Letters, Items, Frequency, Sum)
