"""Constraints on words and signs: required, forbidden, case, alphabet, repetition."""

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from grpo_envs.errors import require
from grpo_envs.graders.format.base import (
    Constraint,
    need_one_of,
    need_text,
    need_texts,
    need_words,
)
from grpo_envs.graders.format.sentences import sentences_of
from grpo_envs.graders.format.words import (
    compared,
    counts_of,
    folded,
    is_word,
    parts_of_word,
    words_of,
)

SCRIPTS = {
    "latin": ("LATIN",),
    "greek": ("GREEK",),
    "cyrillic": ("CYRILLIC",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "thai": ("THAI",),
    "hangul": ("HANGUL",),
    "han": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
}
_CASES = {
    "upper": "in capital letters only",
    "lower": "in lower-case letters only",
    "title": "with a capital at the start of every word",
    "sentence": "with a capital at the start of every sentence",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contains(Constraint):
    """The text contains each of these phrases exactly as given."""

    name: ClassVar[str] = "contains"
    phrases: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "phrases", self.phrases)

    def _said(self) -> str:
        return f"include {listed(self.phrases)}"

    def _measure(self, text: str) -> float:
        return all(phrase in text for phrase in self.phrases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Avoids(Constraint):
    """The text has none of these words, alone or in a hyphenated word, in any case."""

    name: ClassVar[str] = "avoids"
    words: tuple[str, ...]

    def _require(self) -> None:
        need_words(self.name, "words", self.words)

    def _said(self) -> str:
        return f"do not use the {'words' if len(self.words) > 1 else 'word'} {listed(self.words)}"

    def _measure(self, text: str) -> float:
        return not any(max(counts_of(word, text)) for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class AvoidsPhrases(Constraint):
    """No sentence has any of these phrases; case, and signs between its words, do not matter."""

    name: ClassVar[str] = "avoids_phrases"
    phrases: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "phrases", self.phrases)
        for phrase in self.phrases:
            option = f"{self.name}.phrases"
            require(bool(words_of(phrase)), option, repr(phrase)[:80], "phrases with a word")

    def _said(self) -> str:
        noun = "phrases" if len(self.phrases) > 1 else "phrase"
        return f"do not use the {noun} {listed(self.phrases)}"

    def _measure(self, text: str) -> float:
        sentences = "\n".join(f" {_plain(sentence)} " for sentence in sentences_of(text))
        spaced = (f" {_plain(words_of(phrase))} " for phrase in self.phrases)
        unspaced = [phrase for phrase in self.phrases if is_word(phrase) and not phrase.isascii()]
        return not any(phrase in sentences for phrase in spaced) and not any(
            max(counts_of(phrase, text)) for phrase in unspaced
        )


def _plain(words: list[str]) -> str:
    """Return words for the search of phrases; hyphenated words are split."""
    return " ".join(
        part for word in compared(" ".join(words)).split() for part in parts_of_word(word)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Without(Constraint):
    """The text has none of these letters or signs, in any case, but at least one word."""

    name: ClassVar[str] = "without"
    characters: str

    def _require(self) -> None:
        need_text(self.name, "characters", self.characters)

    def _said(self) -> str:
        return f"do not use {listed(tuple(self.characters))} anywhere"

    def _measure(self, text: str) -> float:
        return bool(words_of(text)) and not {*folded(text)} & {*folded(self.characters)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct(Constraint):
    """No word occurs twice, and there are at least `least` words."""

    name: ClassVar[str] = "distinct"
    least: int = 2

    def _require(self) -> None:
        right = type(self.least) is int and self.least > 0
        require(right, "distinct.least", self.least, "a whole number above 0")

    def _said(self) -> str:
        return f"use at least {self.least} words and no word twice"

    def _measure(self, text: str) -> float:
        words = words_of(compared(text))
        return self.least <= len(words) == len({*words})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Constraint):
    """All letters are in one case: `upper`, `lower`, or a capital first in words or sentences."""

    name: ClassVar[str] = "case"
    case: str

    def _require(self) -> None:
        need_one_of(self.name, "case", self.case, _CASES)

    def _said(self) -> str:
        return f"write {_CASES[self.case]}"

    def _measure(self, text: str) -> float:
        if self.case == "upper":
            return text.isupper()
        if self.case == "lower":
            return text.islower()
        if self.case == "title":
            words = [word for word in words_of(text) if word[0].isalpha()]
            return bool(words) and all(w[0] == w[0].upper() and _small(w[1:]) for w in words)
        firsts = [sentence[0][0] for sentence in sentences_of(text) if sentence[0][0].isalpha()]
        return bool(firsts) and all(first == first.upper() for first in firsts)


def _small(text: str) -> bool:
    return text == text.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Script(Constraint):
    """All letters are of one script: latin, greek, cyrillic, arabic, han, japanese and others."""

    name: ClassVar[str] = "script"
    script: str

    def _require(self) -> None:
        need_one_of(self.name, "script", self.script, SCRIPTS)

    def _said(self) -> str:
        return f"write in {self.script.capitalize()} script only"

    def _measure(self, text: str) -> float:
        letters = {*filter(str.isalpha, text)}
        own = SCRIPTS[self.script]
        return bool(letters) and all(_script_of(letter) in own for letter in letters)


def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "none").split()[0].removesuffix("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf(Constraint):
    """The text is exactly one of these options."""

    name: ClassVar[str] = "one_of"
    options: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "options", self.options)

    def _said(self) -> str:
        return f"answer with one of these and nothing else: {', '.join(self.options)}"

    def _measure(self, text: str) -> float:
        return text.strip() in {option.strip() for option in self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted(Constraint):
    """The whole text is in one pair of double quotes."""

    name: ClassVar[str] = "quoted"

    def _said(self) -> str:
        return "put the whole text in double quotes"

    def _measure(self, text: str) -> float:
        text = text.strip()
        inside = text[1:-1]
        around = len(text) > 2 and text[0] == text[-1] == '"'
        return around and '"' not in inside and bool(words_of(inside))


def listed(phrases: tuple[str, ...]) -> str:
    """Return phrases in quotes, as a list.

    >>> listed(("a", "b", "c"))
    '"a", "b" and "c"'
    """
    quoted = [f'"{phrase}"' for phrase in phrases]
    return " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


KINDS = (Contains, Avoids, AvoidsPhrases, Without, Distinct, Case, Script, OneOf, Quoted)
