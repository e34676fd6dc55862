"""Constraints on numbers of characters, sentences, paragraphs, lines, letters; soft length."""

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from grpo_envs.errors import require
from grpo_envs.graders.format.base import (
    Constraint,
    Counted,
    amount,
    need_bounds,
    need_one_of,
    within,
)
from grpo_envs.graders.format.sentences import sentences_of
from grpo_envs.graders.format.words import folded, words_of


def paragraphs_of(text: str) -> list[str]:
    """Return the paragraphs, which blank lines separate."""
    by_blank = groupby(text.splitlines(), key=lambda line: bool(line.strip()))
    return ["\n".join(lines) for filled, lines in by_blank if filled]


@dataclass(frozen=True, slots=True, kw_only=True)
class Characters(Counted):
    """The number of characters, without surrounding blanks."""

    name: ClassVar[str] = "characters"

    def _said(self) -> str:
        return f"use {self._amount('character')}"

    def _count(self, text: str) -> int:
        return len(text.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences(Counted):
    """The number of sentences; numbers of lists and abbreviations end none."""

    name: ClassVar[str] = "sentences"

    def _said(self) -> str:
        return f"write {self._amount('sentence')}"

    def _count(self, text: str) -> int:
        return len(sentences_of(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraphs(Counted):
    """The number of paragraphs, with blank lines between them."""

    name: ClassVar[str] = "paragraphs"

    def _said(self) -> str:
        return f"write {self._amount('paragraph')}, with a blank line between paragraphs"

    def _count(self, text: str) -> int:
        return len(paragraphs_of(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Counted):
    """The number of lines that are not blank."""

    name: ClassVar[str] = "lines"

    def _said(self) -> str:
        return f"write {self._amount('line')}"

    def _count(self, text: str) -> int:
        return sum(bool(line.strip()) for line in text.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFrequency(Counted):
    """The number of occurrences of a letter, in any case."""

    name: ClassVar[str] = "letter_frequency"
    letter: str

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)
        one = isinstance(self.letter, str) and len(self.letter) == 1 and self.letter.isalpha()
        require(one, "letter_frequency.letter", repr(self.letter), "one letter")

    def _said(self) -> str:
        return f"use the letter {self.letter} {self._amount('time')}"

    def _count(self, text: str) -> int:
        return folded(text).count(folded(self.letter))


@dataclass(frozen=True, slots=True, kw_only=True)
class CapitalWords(Counted):
    """The number of words in capital letters."""

    name: ClassVar[str] = "capital_words"

    def _said(self) -> str:
        return f"write {self._amount('word in capital letters')}"

    def _count(self, text: str) -> int:
        return sum(map(str.isupper, words_of(text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceWords(Counted):
    """The number of words in every sentence."""

    name: ClassVar[str] = "sentence_words"

    def _said(self) -> str:
        return f"use {self._amount('word')} in every sentence"

    def _measure(self, text: str) -> float:
        counts = [len(words) for words in sentences_of(text)]
        return bool(counts) and all(within(count, self.least, self.most) for count in counts)

    def _count(self, text: str) -> int:
        return max(map(len, sentences_of(text)), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Length(Constraint):
    """A range of lengths: 1 within it, falling linearly to 0 over `slope` outside of it."""

    name: ClassVar[str] = "length"
    least: int | None = None
    most: int | None = None
    slope: int = 0
    unit: str = "words"

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)
        need_one_of(self.name, "unit", self.unit, ("words", "characters"))
        steep = type(self.slope) is int and self.slope >= 0
        require(steep, "length.slope", self.slope, "a whole number, 0 or more")

    def _said(self) -> str:
        return f"be {amount(self.least, self.most, self.unit[:-1])} long"

    def _measure(self, text: str) -> float:
        long = len(words_of(text)) if self.unit == "words" else len(text.strip())
        below = (self.least or 0) - long
        above = long - self.most if self.most is not None else 0
        return max(0.0, 1 - max(below, above, 0) / (self.slope + 1))


KINDS = (
    Characters,
    Sentences,
    Paragraphs,
    Lines,
    LetterFrequency,
    CapitalWords,
    SentenceWords,
    Length,
)
