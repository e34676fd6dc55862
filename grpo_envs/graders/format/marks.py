"""IFEval's marks: highlights, placeholders, a title, a postscript, parts, two responses."""

import re
from dataclasses import dataclass
from typing import ClassVar

from grpo_envs.graders.format.base import (
    Constraint,
    Counted,
    need_bounds,
    need_one_of,
    need_words,
    within,
)
from grpo_envs.graders.format.text_counts import paragraphs_of
from grpo_envs.graders.format.words import compared, words_of

_BODY = r"(?![\s*])[^*\n]{1,500}(?<!\s)"
_HIGHLIGHT = re.compile(rf"(?<!\*)(?:\*{{3}}{_BODY}\*{{3}}|\*{{1,2}}{_BODY}\*{{1,2}})(?!\*)")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]{1,200}\]")
_TITLE = re.compile(r"<<[^<>\n]{1,500}>>")
_AROUND_TITLE = re.compile(r"[\s#>*_\"'`.:-]*")
_OPERAND_BEFORE = re.compile(r"[\w)\]]\s*\Z")
_OPERAND_BEHIND = re.compile(r"\s*[\w(]")
_SEPARATOR = re.compile(r"(?m)^[ \t]*\*{3,}[ \t]*\r?$")
_SIX = re.compile(r"(?m)^[ \t]*\*{6}[ \t]*\r?$")
_NEAR = 80  # characters that are checked on either side of a title
_SECTION = r"[ \t#*_>]*{} (\d{{1,4}})(?!\w)([ \t*_#]*(?:[:.)\u2013\u2014-](?!\d).*)?)"
_MARKERS = ("P.S.", "P.P.S.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Highlights(Counted):
    """The number of highlights: `*words*` or `**words**` on a line."""

    name: ClassVar[str] = "highlights"

    def _said(self) -> str:
        return f"highlight {self._amount('part')} with asterisks, as in *this*"

    def _count(self, text: str) -> int:
        return len(_HIGHLIGHT.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholders(Counted):
    """The number of placeholders in square brackets, such as `[name]`."""

    name: ClassVar[str] = "placeholders"

    def _said(self) -> str:
        return f"use {self._amount('placeholder')} in square brackets, such as [name]"

    def _count(self, text: str) -> int:
        return sum(bool(words_of(found)) for found in _PLACEHOLDER.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Title(Constraint):
    """A title in double angle brackets, such as `<<a title>>`, and other text beside it."""

    name: ClassVar[str] = "title"

    def _said(self) -> str:
        return "give it a title in double angle brackets, such as <<title>>"

    def _measure(self, text: str) -> float:
        titled = any(_has_title(line) for line in text.splitlines() if "<<" in line)
        return titled and bool(words_of(_TITLE.sub(" ", text)))


def _has_title(line: str) -> bool:
    """Return whether a line has a title, not operators as in `a << b >> c`."""
    for found in _TITLE.finditer(line):
        near = max(found.start() - _NEAR, 0)
        before, behind = line[near : found.start()], line[found.end() : found.end() + _NEAR]
        inside = found[0][2:-2]
        if not words_of(inside):
            continue
        whole = near == 0 and found.end() + _NEAR >= len(line)
        if whole and _AROUND_TITLE.fullmatch(before + behind):
            return True
        apart = not (_OPERAND_BEFORE.search(before) and _OPERAND_BEHIND.match(behind))
        joined = before[-1:].isalnum() or behind[:1].isalnum() or before.rstrip().endswith("=")
        if inside == inside.strip() and apart and not joined:
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Postscript(Constraint):
    """A postscript: a last paragraph that starts with `marker`, P.S. or P.P.S., and has text."""

    name: ClassVar[str] = "postscript"
    marker: str = "P.S."

    def _require(self) -> None:
        need_one_of(self.name, "marker", self.marker, _MARKERS)

    def _said(self) -> str:
        return f"end with a paragraph that starts with {self.marker} and goes on"

    def _measure(self, text: str) -> float:
        *before, last = paragraphs_of(text)
        start, marker, rest = last.lstrip().partition(self.marker)
        return bool(before) and not start and bool(marker) and bool(words_of(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Counted):
    """The number of parts that are not blank, with lines of three or more asterisks between."""

    name: ClassVar[str] = "parts"

    def _said(self) -> str:
        return f"write {self._amount('part')} with a line of *** between parts"

    def _count(self, text: str) -> int:
        parts = _SEPARATOR.split(text)
        return len(parts) if all(map(words_of, parts)) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedSections(Counted):
    """The number of sections that start with lines such as `Section 1`, from 1, each with text."""

    name: ClassVar[str] = "numbered_sections"
    word: str = "Section"

    def _require(self) -> None:
        need_bounds(self.name, self.least, self.most)
        need_words(self.name, "word", (self.word,))

    def _said(self) -> str:
        sections = self._amount("section")
        return f"write {sections}, each below a line {self.word} 1, {self.word} 2 and so on"

    def _measure(self, text: str) -> float:
        numbers, texts = self._found(text)
        counted = numbers == list(range(1, len(numbers) + 1)) and all(map(words_of, texts))
        return counted and within(len(numbers), self.least, self.most)

    def _count(self, text: str) -> int:
        return len(self._found(text)[0])

    def _found(self, text: str) -> tuple[list[int], list[str]]:
        """Return the numbers of the sections, and the text after each number."""
        numbers: list[int] = []
        texts: list[list[str]] = []
        head = re.compile(_SECTION.format(re.escape(self.word)))
        for line in text.splitlines():
            found = head.fullmatch(line)
            if found:
                numbers.append(int(found[1]))
                texts.append([found[2]])
            elif texts:
                texts[-1].append(line)
        return numbers, ["\n".join(lines) for lines in texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoResponses(Constraint):
    """Two responses that differ in their words, with a line of six asterisks between them."""

    name: ClassVar[str] = "two_responses"

    def _said(self) -> str:
        return "give two different responses with a line of ****** between them"

    def _measure(self, text: str) -> float:
        responses = [words_of(compared(part)) for part in _SIX.split(text)]
        two = len(responses) == len(("one", "other"))
        return two and all(responses) and responses[0] != responses[1]


KINDS = (Highlights, Placeholders, Title, Postscript, Parts, NumberedSections, TwoResponses)
