r"""Take the program out of a completion: the last fenced block of Python.

A fence of backticks or tildes is at the start of a line, after white space or list markers; their
indentation is removed from the code. Answer tags may stand beside a fence. Blocks labelled as
Python are preferred to blocks without a label, which are usually outputs. Code outside of a block
is not a program. If the last fence is not closed, there is no program, unless that fence has no
label and follows labelled Python.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from grpo_envs.graders.text import after_think

_FENCE = re.compile(
    r"(?P<lead>\ufeff?[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)"
    r"(?:(?P<ticks>`{3,})(?P<info>[^`]*)|(?P<tildes>~{3,})(?P<words>.*))"
)
_TAGGED = re.compile(
    r"^[ \t]*<answer>(?=[ \t]*(?:`{3}|~{3}))|^[ \t]*(?:`{3,}|~{3,})[ \t]*(?=</answer>)",
    re.MULTILINE,
)
_LANGUAGE = re.compile(r"[\s{.]*([\w+#-]*)")
_PYTHON = ("python", "python3", "py", "py3")
_DEFINES = re.compile(r"^(?:async )?(?:def|class) ", re.MULTILINE)
_QUOTES = re.compile(
    r"#.*|(?P<quotes>\"{3}|'{3})|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\\.", re.DOTALL
)
_MOST_LINES = 1000
"""Most lines between a fence within a string and the fence that closes the block."""
_STRAY = 3
"""Columns by which a closing fence may be indented beyond its opening fence, as in CommonMark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    language: str
    text: str
    closed: bool
    last: bool
    """Whether nothing but white space follows."""


def program_of(completion: str) -> str | None:
    r"""Return the program, or None if there is none.

    >>> program_of("<think>```python\n1\n```</think>So:\n```python\nx = 2\n```")
    'x = 2'
    >>> program_of("x = 2"), program_of("```python\nx = 2")
    (None, None)
    """
    rest = after_think(completion)
    block = _chosen(_blocks(rest)) if rest is not None else None
    return block.text if block is not None and _storable(block.text) else None


def well_formed(completion: str) -> bool:
    r"""Return whether `completion` has at most one think block, then exactly one block, at the end.

    >>> well_formed("<think>why</think>So:\n```python\nx = 2\n```\n")
    True
    >>> well_formed("```python\nx = 2\n```\nThat is it."), well_formed("x = 2")
    (False, False)
    """
    rest = after_think(completion)
    thinks = max(completion.count("<think>"), completion.count("</think>"))
    if rest is None or thinks > 1 or program_of(completion) is None:
        return False
    before = completion[: len(completion) - len(rest)].partition("<think>")[0]
    blocks = _blocks(rest)
    return len(blocks) == 1 and blocks[0].last and not _blocks(before)


def _chosen(blocks: Sequence[_Block]) -> _Block | None:
    """Return the block that is the program."""
    labelled = [block for block in blocks if block.closed and block.language in _PYTHON]
    if blocks and not blocks[-1].closed and (blocks[-1].language or not labelled):
        return None  # the answer was cut off
    bare = [block for block in blocks if block.closed and not block.language]
    if not labelled:
        return bare[-1] if bare else None
    after = blocks[blocks.index(labelled[-1]) + 1 :]
    defining = [b for b in after if b.closed and not b.language and _DEFINES.search(b.text)]
    return defining[-1] if defining else labelled[-1]


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    lines = _TAGGED.sub(r"\g<0>\n", text.replace("\r\n", "\n")).split("\n")
    at, written = 0, max((n for n, line in enumerate(lines) if line.strip()), default=-1)
    while at < len(lines):
        opening = _FENCE.fullmatch(lines[at])
        at += 1
        if opening is None:
            continue
        fence = opening["ticks"] or opening["tildes"]
        language = _LANGUAGE.match(opening["info"] or opening["words"] or "")
        label = language[1].lower() if language else ""
        indent = len(opening["lead"].lstrip("\ufeff").expandtabs(4))
        end = _end(lines, at, fence, indent, python=label in (*_PYTHON, ""))
        blocks.append(
            _Block(
                language=label,
                text=_unindented(lines[at:end], indent),
                closed=end < len(lines),
                last=written <= end,
            )
        )
        at = end + 1
    return blocks


def _end(lines: Sequence[str], start: int, fence: str, indent: int, *, python: bool) -> int:
    """Return the number of the line that closes a block; the number of lines if none does.

    A fence within a multi-line string (a docstring) closes the block only if no other fence does.
    """
    open_quotes, first = "", len(lines)
    for at in range(start, len(lines)):
        line = lines[at]
        if _closes(line, fence, indent):
            if not open_quotes:
                return at
            first = min(first, at)
        if at - first > _MOST_LINES:
            break
        if python:
            open_quotes = _quotes_after(line, open_quotes)
    return first


def _closes(line: str, fence: str, indent: int) -> bool:
    mark = line.strip()
    if not mark.startswith(fence) or mark.strip(fence[0]):
        return False
    before = line[: len(line) - len(line.lstrip())].expandtabs(4)
    return len(before) <= indent + _STRAY


def _quotes_after(line: str, quotes: str) -> str:
    """Return the quotes of the string that is open after `line`, with `quotes` open before it."""
    at = 0
    while True:
        if quotes:
            end = re.compile(rf"(?:\\.|[^\\])*?{quotes}").match(line, at)
            if end is None:
                return quotes
            at, quotes = end.end(), ""
        found = next((m for m in _QUOTES.finditer(line, at) if m["quotes"]), None)
        if found is None:
            return ""
        at, quotes = found.end(), found["quotes"]


def _unindented(lines: Sequence[str], indent: int) -> str:
    """Return the text of `lines` without the indentation of their fence, and without a BOM."""
    taken = [_without(line, indent) for line in lines]
    text = "\n".join(taken).lstrip("\ufeff")
    first = next((line for line in text.split("\n") if line.strip()), "")
    return textwrap.dedent(text) if first[:1] in (" ", "\t") else text


def _without(line: str, indent: int) -> str:
    """Return `line` without its first `indent` columns, if they are white space."""
    at = columns = 0
    while columns < indent and line[at : at + 1] in (" ", "\t") and at < len(line):
        columns += 4 - columns % 4 if line[at] == "\t" else 1
        at += 1
    return line[at:]


def _storable(program: str) -> bool:
    """Return whether the program is not empty and can be encoded as UTF-8."""
    try:
        program.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return bool(program.strip())
