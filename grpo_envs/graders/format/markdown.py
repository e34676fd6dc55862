"""Answers in Markdown: sections, tables, lists, code, highlights, and IFEval's marks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token

from grpo_envs.errors import require
from grpo_envs.graders.format.base import (
    Constraint,
    Counted,
    need_bounds,
    need_texts,
    within,
    words_of,
)

_HIGHLIGHT = re.compile(r"(?<!\*)\*{1,2}(?![\s*])[^*\n]{1,500}(?<!\s)\*{1,2}(?!\*)")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]{1,200}\]")
_TITLE = re.compile(r"<<[^<>\n]{1,500}>>")
_SEPARATOR = re.compile(r"(?m)^[ \t]*\*{3,}[ \t]*$")


@cache
def _reader() -> MarkdownIt:
    """Return a reader of blocks; what stands within a line is not read."""
    reader = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table")
    reader.core.ruler.enableOnly(["normalize", "block"])
    return reader


def blocks_of(text: str) -> list[Token]:
    """Return the blocks of a Markdown text, flat."""
    return _reader().parse(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections(Constraint):
    """Markdown sections with these headings in this order, no others, and text in each."""

    name: ClassVar[str] = "sections"
    headings: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "headings", self.headings)

    def _said(self) -> str:
        return f"write Markdown sections with the headings {', '.join(self.headings)}"

    def _measure(self, text: str) -> float:
        found, filled = [], []
        tokens = blocks_of(text)
        for token, before in zip(tokens, [None, *tokens], strict=False):
            if token.type == "inline" and before is not None and before.type == "heading_open":
                found.append(token.content.strip())
                filled.append(False)
            elif filled and token.content.strip():
                filled[-1] = True
        return found == [heading.strip() for heading in self.headings] and all(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Counted):
    """One Markdown table with these columns and so many rows, no cell of them blank."""

    name: ClassVar[str] = "table"
    columns: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "columns", self.columns)
        need_bounds(self.name, self.least, self.most)

    def _said(self) -> str:
        columns = ", ".join(self.columns)
        return f"write a Markdown table with the columns {columns} and {self._amount('row')}"

    def _measure(self, text: str) -> float:
        rows = list(_rows(blocks_of(text)))
        columns = [column.strip() for column in self.columns]
        if not rows or rows[0] != columns or not all(all(row) for row in rows):
            return 0.0
        return within(len(rows) - 1, self.least, self.most)

    def _count(self, text: str) -> int:
        return len(list(_rows(blocks_of(text)))) - 1


def _rows(tokens: list[Token]) -> Iterator[list[str]]:
    row: list[str] | None = None
    for token in tokens:
        if token.type == "tr_open":
            row = []
        elif token.type == "tr_close" and row is not None:
            yield row
            row = None
        elif token.type == "inline" and row is not None:
            row.append(token.content.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets(Counted):
    """So many bullet points of Markdown (`-`, `*` or `+`), each with text."""

    name: ClassVar[str] = "bullets"

    def _said(self) -> str:
        return f"write {self._amount('bullet point')} in Markdown"

    def _count(self, text: str) -> int:
        return _points(blocks_of(text), "-*+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered(Counted):
    """So many points of a numbered Markdown list (`1.`), each with text."""

    name: ClassVar[str] = "numbered"

    def _said(self) -> str:
        return f"write a numbered list of {self._amount('point')}"

    def _count(self, text: str) -> int:
        return _points(blocks_of(text), ".)")


def _points(tokens: list[Token], marks: str) -> int:
    """Count the items of lists with these marks that have text in their first block."""
    count = 0
    for token, inside, content in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.type == "list_item_open" and token.markup in marks:
            text = inside.content + (content.content if inside.type == "paragraph_open" else "")
            count += bool(text.strip())
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock(Constraint):
    """One fenced code block that is not blank, in `language` where one is given."""

    name: ClassVar[str] = "code_block"
    language: str = ""

    def _require(self) -> None:
        word = isinstance(self.language, str) and len(self.language.split()) <= 1
        require(word, "code_block.language", repr(self.language)[:80], "a word")

    def _said(self) -> str:
        language = f" in {self.language}" if self.language else ""
        return f"write one fenced code block{language}"

    def _measure(self, text: str) -> float:
        fences = [token for token in blocks_of(text) if token.type == "fence"]
        if len(fences) != 1 or not fences[0].content.strip():
            return 0.0
        return not self.language or fences[0].info.strip() == self.language


@dataclass(frozen=True, slots=True, kw_only=True)
class Highlights(Counted):
    """So many highlights: *words* or **words** on a line."""

    name: ClassVar[str] = "highlights"

    def _said(self) -> str:
        return f"highlight {self._amount('part')} with asterisks, as in *this*"

    def _count(self, text: str) -> int:
        return len(_HIGHLIGHT.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholders(Counted):
    """So many placeholders in square brackets, such as [name]."""

    name: ClassVar[str] = "placeholders"

    def _said(self) -> str:
        return f"use {self._amount('placeholder')} in square brackets, such as [name]"

    def _count(self, text: str) -> int:
        return sum(bool(words_of(found)) for found in _PLACEHOLDER.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Title(Constraint):
    """A title in double angle brackets, such as <<a title>>, and other text beside it."""

    name: ClassVar[str] = "title"

    def _said(self) -> str:
        return "give it a title in double angle brackets, such as <<title>>"

    def _measure(self, text: str) -> float:
        titled = any(words_of(found) for found in _TITLE.findall(text))
        return titled and bool(words_of(_TITLE.sub(" ", text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Postscript(Constraint):
    """A postscript: a last paragraph that starts with `P.S.` and goes on."""

    name: ClassVar[str] = "postscript"

    def _said(self) -> str:
        return "end with a paragraph that starts with P.S."

    def _measure(self, text: str) -> float:
        before, found, after = text.strip().rpartition("\n\nP.S.")
        return (
            bool(found) and bool(before.strip()) and "\n\n" not in after and bool(words_of(after))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Counted):
    """So many parts that are not blank, with a line of three asterisks or more between them."""

    name: ClassVar[str] = "parts"

    def _said(self) -> str:
        return f"write {self._amount('part')} with a line of *** between parts"

    def _count(self, text: str) -> int:
        parts = _SEPARATOR.split(text)
        return len(parts) if all(map(words_of, parts)) else 0


KINDS = (
    Sections,
    Table,
    Bullets,
    Numbered,
    CodeBlock,
    Highlights,
    Placeholders,
    Title,
    Postscript,
    Parts,
)
