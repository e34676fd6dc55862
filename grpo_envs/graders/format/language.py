"""The language of a text, from its script and its small words.

Most of the letters must be of one script. Greek, Hebrew, Thai, Hangul and most scripts of India
stand for one language each. A text with kana is Japanese; a text with Han characters but no kana is
Chinese if it has characters of Chinese small words. Latin, Cyrillic, Arabic and Devanagari texts
are distinguished by small words: a fifth of all words, and at least three, must belong to the
language. Of the words, and of letters such as `ã`, that distinguish it from another language, four
times as many must be its own; related languages such as Catalan are included. For a text that is
too short, mixed, or only names, the language is unknown.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import ClassVar

from grpo_envs.graders.format.base import Constraint, need_one_of
from grpo_envs.graders.format.languages import (
    CHINESE,
    LETTERS,
    NAMES,
    OF_SCRIPT,
    SMALL_WORDS,
)
from grpo_envs.graders.format.sentences import sentences_of
from grpo_envs.graders.format.words import compared, words_of

_LEAST_SHARE = 0.75  # share of the letters in one script
_LEAST_COVER = 0.2  # share of small words among the words
_LEAST_WORDS = 3
_LEAD = 4
_LEAST_KANA = 0.1
_KANA = {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}


_LIKE = {"ja": ("zh",), "zh": ("ja",)}
"""Languages that a single sentence of a language may be mistaken for."""


def language_of(text: str) -> str | None:
    """Return the code of the language of a text; None if it is unknown.

    >>> language_of("The fox is in the house."), language_of("Der Fuchs ist in dem Haus.")
    ('en', 'de')
    >>> language_of("Fox Berlin 3") is None
    True
    """
    scripts = Counter(map(_script_of, filter(str.isalpha, text)))
    letters = scripts.total()
    kana = sum(scripts[name] for name in _KANA)
    if letters and kana + scripts["CJK"] >= _LEAST_SHARE * letters:
        return _of_han(text, kana, scripts["CJK"])
    script, count = next(iter(scripts.most_common(1)), ("", 0))
    if count < _LEAST_SHARE * letters or count <= 1:
        return None
    return OF_SCRIPT.get(script) or _by_small_words(text, SMALL_WORDS.get(script, {}))


def small_words_of(language: str) -> tuple[str, ...]:
    """Return the small words of a language; () if its script identifies it.

    >>> "und" in small_words_of("de"), "in" in small_words_of("de"), small_words_of("ko")
    (True, False, ())
    """
    for languages in SMALL_WORDS.values():
        if language in languages:
            owners = _owners(tuple(languages.items()))
            return tuple(word for word, own in owners.items() if own == (language,))
    return ()


def _of_han(text: str, kana: int, han: int) -> str | None:
    if kana:
        return "ja" if kana >= _LEAST_KANA * (kana + han) and kana > 1 else None
    return "zh" if han > 1 and CHINESE & {*text} else None


def _by_small_words(text: str, languages: Mapping[str, str]) -> str | None:
    words = Counter(words_of(compared(text)))
    owners = _owners(tuple(languages.items()))
    hits = Counter[str]()
    for word, count in words.items():
        hits.update(dict.fromkeys(owners.get(word, ()), count))
    best, most = next(iter(hits.most_common(1)), ("", 0))
    if most < max(_LEAST_WORDS, _LEAST_COVER * words.total()):
        return None
    evidence = [(_evidence(word, owners), count) for word, count in words.items()]
    rivals = {own for owned, _ in evidence for own in owned} - {best}
    for other in rivals:
        ours = sum(count for own, count in evidence if best in own and other not in own)
        theirs = sum(count for own, count in evidence if other in own and best not in own)
        if ours < max(1, _LEAD * theirs):
            return None
    return best


def _evidence(word: str, owners: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the languages that a word indicates, as a small word or by its letters."""
    if word in owners or word.isascii():
        return owners.get(word, ())
    found = [languages.split() for letters, languages in LETTERS if {*letters} & {*word}]
    return tuple(language for languages in found for language in languages)


@cache
def _owners(languages: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    """Return the languages that have each small word."""
    owners: dict[str, tuple[str, ...]] = {}
    for language, listed in languages:
        for word in dict.fromkeys(compared(listed).split()):
            owners[word] = (*owners.get(word, ()), language)
    return owners


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "none").split()[0].removesuffix("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language(Constraint):
    """Every sentence of the text is in this language: `en`, `de`, `zh` or one of 37 others."""

    name: ClassVar[str] = "language"
    language: str

    def _require(self) -> None:
        need_one_of(self.name, "language", self.language, NAMES)

    def _said(self) -> str:
        return f"write in {NAMES[self.language]} and in no other language"

    def _measure(self, text: str) -> float:
        if language_of(text) != self.language:
            return 0.0
        sentences = {" ".join(words) for words in sentences_of(text)}
        return not ({*map(language_of, sentences)} & {*NAMES}) - {
            self.language,
            *_LIKE.get(self.language, ()),
        }


KINDS = (Language,)
