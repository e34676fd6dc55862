"""Answers in Markdown: sections, tables, lists, code."""

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
    TooMuch,
    need_bounds,
    need_texts,
    within,
)

_MOST_LINES = 2_000
_HIDDEN = re.compile(
    r"<!--(?:-?>|.*?(?:-->|\Z))|<(script|style|template)\b.*?(?:</\1>|\Z)|<[!?/A-Za-z][^<>]{0,500}>"
    r"|&(?:nbsp|ensp|emsp|thinsp|zwnj|zwj|shy|#(?:160|8203|173)|#x(?:a0|200b|ad));"
    "|[\u00ad\u200b-\u200f\u2060\ufeff]",
    re.DOTALL | re.IGNORECASE,
)
"""Parts of a text that a reader of the page does not see."""
_LANGUAGE = re.compile(r"[^\s,:{]+")
"""The first word after the fence, also in `python:a.py` and `python{1,3}`."""
_CODE = ("fence", "code_block")


@cache
def _reader() -> MarkdownIt:
    """Return a parser of blocks, which does not parse inline markup."""
    reader = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table")
    reader.core.ruler.enableOnly(["normalize", "block"])
    return reader


def blocks_of(text: str) -> list[Token]:
    """Return the blocks of a Markdown text, as a flat list.

    Raises:
        TooMuch: the text has too many lines.
    """
    if len(text.splitlines()) > _MOST_LINES:
        raise TooMuch
    return _reader().parse(text)


def seen(token: Token) -> str:
    """Return the visible text of a block: all of a code block, else without comments and tags.

    >>> [seen(token) for token in blocks_of("a <!-- b -->") if token.content]
    ['a']
    """
    text = token.content if token.type in _CODE else _HIDDEN.sub("", token.content)
    return text.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections(Constraint):
    """The text has exactly these Markdown headings in this order, and text in each section."""

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
            elif filled and seen(token):
                filled[-1] = True
        return found == [heading.strip() for heading in self.headings] and all(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Counted):
    """One Markdown table with these columns and this number of rows, without blank cells."""

    name: ClassVar[str] = "table"
    columns: tuple[str, ...]

    def _require(self) -> None:
        need_texts(self.name, "columns", self.columns)
        need_bounds(self.name, self.least, self.most)

    def _said(self) -> str:
        columns = ", ".join(self.columns)
        return f"write a Markdown table with the columns {columns} and {self._amount('row')}"

    def _measure(self, text: str) -> float:
        tokens = blocks_of(text)
        rows = list(_rows(tokens))
        if sum(token.type == "table_open" for token in tokens) != 1:
            return 0.0
        columns = [column.strip() for column in self.columns]
        if rows[0] != columns or not all(all(row) for row in rows):
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
            row.append(seen(token))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets(Counted):
    """The number of Markdown bullet points (`-`, `*` or `+`), each with text."""

    name: ClassVar[str] = "bullets"

    def _said(self) -> str:
        return f"write {self._amount('bullet point')} in Markdown"

    def _count(self, text: str) -> int:
        return _points(blocks_of(text), "-*+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered(Counted):
    """The number of items of a numbered Markdown list (`1.`), each with text."""

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
            count += bool(seen(content if inside.type == "paragraph_open" else inside))
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock(Constraint):
    """One fenced code block that is not blank; in `language`, if given."""

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
        language = _LANGUAGE.match(fences[0].info.strip())
        return not self.language or bool(language and language[0] == self.language)


KINDS = (
    Sections,
    Table,
    Bullets,
    Numbered,
    CodeBlock,
)
