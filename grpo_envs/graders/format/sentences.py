"""Where sentences end.

A sentence ends at a word followed by `.`, `!`, `?` or `...`, and at every stop of other scripts
(`。！？`). No sentence ends at the number of a list (`1. First`), at an abbreviation within a
sentence (`Dr. Smith`, `e.g. this`, `No. 5`, `at 5 p.m. we`), at an initial (`J. R. R. Tolkien`), or
at the end of a quotation within it (`"Go!" he said`). The text after the last stop is a sentence,
too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from grpo_envs.graders.format.words import without_tags, words_in

_STOPS = "\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u1362\u0589\u17d4\u203d\u2047\u2048"
_ENDS = (".", "!", "?", "\u2026", *_STOPS)
_CLOSERS = "\"')]}*_`\u201d\u2019\u00bb\u300d\u300f\uff09\u3011"
_OPENERS = "\"'*_`\u201c\u2018\u00ab\u300c\u300e"
_SET_OFF = re.compile(r"[-*+>\u2022\u2013]|#{1,6}")
_NUMBERED = re.compile(r"[*_(\[]{0,3}(\d{1,3}|[A-Za-z]|[ivxIVX]{2,5})[.)\]][.)\]*_]{0,3}")

_TITLES = {"dr", "mr", "mrs", "ms", "mx", "prof", "messrs"}
_RANKS = {
    *("St", "Mt", "Mme", "Mlle", "Sra", "Rev", "Hon", "Gen", "Col", "Capt", "Lt", "Sgt", "Maj"),
    *("Cmdr", "Gov", "Sen", "Rep", "Pres", "Supt", "Fr", "Sr"),
}
_GO_ON = {
    *("e.g", "i.e", "eg", "cf", "vs", "viz", "approx", "ca", "esp", "incl", "resp", "z.b", "d.h"),
    *("u.a", "bzw"),
}
_BEFORE_NUMBERS = {
    *("no", "nos", "nr", "p", "pp", "fig", "figs", "eq", "eqs", "vol", "vols", "ch", "sec", "art"),
    *("par", "tab", "ver", "v", "op"),
}
_DATES = {
    *("Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec"),
    *("Mon", "Tue", "Tues", "Wed", "Thu", "Thur", "Thurs", "Fri", "Sat", "Sun"),
}
_PERHAPS = {"etc", "al", "a.m", "p.m", "usw"}
"""Abbreviations that end a sentence if a capital follows."""
_UNITS = {"ft", "in", "lb", "lbs", "oz", "min", "sec", "hr", "hrs", "yr", "yrs"}
"""Abbreviations of units, which after a number end a sentence if a capital follows."""
_NAMED = {"inc", "ltd", "corp", "co", "bros", "jr", "dept", "univ", "ave", "blvd", "est"}
"""Abbreviations that end a sentence if a typical first word follows, like single letters."""
_INITIALISM = re.compile(r"[^\W\d](?:\.[^\W\d])+|[A-Z][a-z]?(?:\.[A-Z][a-z]?)+")
_LETTERED = {
    *("a", "an", "the", "plan", "vitamin", "option", "type", "class", "grade", "part", "point"),
    *("team", "group", "section", "appendix", "letter", "variable", "set", "and", "or"),
}
_BEGINNINGS = {
    *("the", "he", "she", "it", "we", "they", "i", "you", "this", "that", "these", "those", "a"),
    *("an", "in", "on", "at", "but", "and", "so", "my", "our", "his", "her", "their", "your"),
    *("then", "when", "if", "as", "for", "after", "before", "there", "here", "what", "why", "how"),
    *("who", "where", "yes", "no", "now", "its", "all", "some", "many", "most", "however"),
    *("everyone", "everybody", "finally", "later", "also", "next", "today", "yesterday", "not"),
}
_MOST_INITIALS = 4


def sentences_of(text: str) -> list[list[str]]:
    r"""Return the sentences as lists of words, without the numbers of lists.

    >>> sentences_of('It is 3.5 m. "Really?" Yes')
    [['It', 'is', '3.5', 'm'], ['Really'], ['Yes']]
    >>> sentences_of("1. Dr. Fox came.\n2. No!")
    [['Dr', 'Fox', 'came'], ['No']]
    """
    reader = _Reader()
    for paragraph in _paragraphs(text):
        reader.read(paragraph)
    return reader.sentences


@dataclass(frozen=True, slots=True)
class _Token:
    """A piece of text between blanks."""

    text: str
    first: bool
    """Whether it starts a line, or follows a sign at the start of a line."""


def _paragraphs(text: str) -> Iterator[list[_Token]]:
    """Yield the tokens of each paragraph; blank lines separate paragraphs."""
    tokens: list[_Token] = []
    for line in without_tags(text).splitlines():
        first, found = True, line.split()
        for one in found:
            tokens.append(_Token(one, first))
            first = first and bool(_SET_OFF.fullmatch(one))
        if not found:
            yield tokens
            tokens = []
    yield tokens


@dataclass(slots=True)
class _Reader:
    sentences: list[list[str]] = field(default_factory=list)
    open: bool = False
    """Whether the last sentence is incomplete."""
    number: int = 0
    """The last number of a list."""

    def read(self, tokens: list[_Token]) -> None:
        """Read a paragraph, whose end alone does not end a sentence."""
        for place, token in enumerate(tokens):
            if self._numbers(tokens, place):
                self.open = False
                continue
            end, word = 0, ""
            for at, word in words_in(token.text):
                if end and _breaks(self.sentences[-1][-1], token.text[end : at - len(word)], word):
                    self.open = False
                self._add(word)
                end = at
            rest = token.text[end:].rstrip(_CLOSERS)
            if self.open and rest.endswith(_ENDS):
                short = rest.lstrip(_CLOSERS) == "." and self._goes_on(tokens, place, word)
                self.open = short or _quotes(tokens, place)

    def _add(self, word: str) -> None:
        if not self.open:
            self.sentences.append([])
        self.sentences[-1].append(word)
        self.open = True

    def _numbers(self, tokens: list[_Token], place: int) -> bool:
        """Return whether a token is the number of a list item with text."""
        token = tokens[place]
        found = _NUMBERED.fullmatch(token.text)
        if found is None or place + 1 == len(tokens) or tokens[place + 1].first:
            return False
        behind = _first_word(tokens[place + 1])
        digits = found[1].isdigit()
        follows = digits and not self.open and self.number > 0 and int(found[1]) == self.number + 1
        right = any(map(str.isalpha, behind)) if digits else len(behind) > 1
        if not right or not (token.first or follows):
            return False
        self.number = int(found[1]) if digits else self.number
        return True

    def _goes_on(self, tokens: list[_Token], place: int, word: str) -> bool:
        """Return whether a word with a stop is an abbreviation within a sentence."""
        if place + 1 == len(tokens) or not word:
            return False
        sentence = self.sentences[-1]
        before = sentence[-2].casefold() if len(sentence) > 1 else ""
        if len(word) == 1 and word.isupper() and word != "I":
            return before not in _LETTERED and _is_name(tokens, place + 1)
        behind = _first_word(tokens[place + 1])
        return bool(behind) and _abbreviates(word, before, behind)


def _abbreviates(word: str, before: str, behind: str) -> bool:
    """Return whether a word before a stop is an abbreviation between two words of a sentence."""
    small, capital = word.casefold(), behind[0].isupper()
    begins = capital and behind.casefold() in _BEGINNINGS
    if small in _GO_ON:
        return True
    if small in _UNITS and before[-1:].isdigit():
        return not capital
    if small in _TITLES or (word in _RANKS and capital):
        return not begins
    if small in _BEFORE_NUMBERS or word in _DATES:
        return behind[0].isdigit()
    if small in _PERHAPS:
        return not capital and (small != "al" or before == "et")
    return (small in _NAMED or bool(_INITIALISM.fullmatch(word))) and not begins


def _is_name(tokens: list[_Token], place: int) -> bool:
    """Return whether a name is at `place`, possibly after more initials."""
    for token in tokens[place : place + _MOST_INITIALS]:
        text = token.text
        if len(text) == len("J.") and text[0].isupper() and text[1] == ".":
            continue
        word = _first_word(token)
        return len(word) > 1 and word[0].isupper() and word.casefold() not in _BEGINNINGS
    return False


def _quotes(tokens: list[_Token], place: int) -> bool:
    """Return whether a quotation within a sentence ends at `place`."""
    behind = _first_word(tokens[place + 1]) if place + 1 < len(tokens) else ""
    return tokens[place].text.endswith(tuple(_CLOSERS)) and behind[:1].islower()


def _first_word(token: _Token) -> str:
    return next((word for _, word in words_in(token.text)), "")


def _breaks(before: str, between: str, behind: str) -> bool:
    """Return whether the signs between two words without a blank end a sentence."""
    if any(sign in _STOPS for sign in between):
        return True
    stop = between.rstrip(_OPENERS).lstrip(_CLOSERS)
    if stop and not stop.strip(".\u2026"):
        short = len(before) == 1 or before.casefold() in _TITLES or before in _RANKS
        return behind[0].isupper() and not (short and stop == ".")
    return bool(stop) and not stop.strip("!?")
