r"""Take the program out of a completion: the last fenced block of Python.

A fence stands at the start of a line. A block without a language counts as Python; code outside of
a block is no program, and where the last fence is never closed there is none either.
"""

import re
from dataclasses import dataclass

from grpo_envs.graders.text import after_think

_FENCE = re.compile(r" {0,3}(?P<ticks>`{3,})(?P<language>[^`]*)")
_PYTHON = ("", "python", "python3", "py")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    language: str
    text: str
    closed: bool
    last: bool
    """Whether nothing but white space follows."""


def program_of(completion: str) -> str | None:
    r"""Return the program, None where there is none.

    >>> program_of("<think>```python\n1\n```</think>So:\n```python\nx = 2\n```")
    'x = 2'
    >>> program_of("x = 2"), program_of("```python\nx = 2")
    (None, None)
    """
    rest = after_think(completion)
    blocks = _blocks(rest) if rest is not None else []
    if not blocks or not blocks[-1].closed:
        return None
    programs = [block.text for block in blocks if block.language in _PYTHON]
    return programs[-1] if programs and _storable(programs[-1]) else None


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


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    lines = text.replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        opening = _FENCE.fullmatch(lines[at])
        at += 1
        if opening is None:
            continue
        start, ticks = at, opening["ticks"]
        while at < len(lines) and not _closes(lines[at], ticks):
            at += 1
        blocks.append(
            _Block(
                language=opening["language"].strip().lower(),
                text="\n".join(lines[start:at]),
                closed=at < len(lines),
                last=not any(line.strip() for line in lines[at + 1 :]),
            )
        )
        at += 1
    return blocks


def _closes(line: str, ticks: str) -> bool:
    fence = line.strip()
    return fence.startswith(ticks) and not fence.strip("`")


def _storable(program: str) -> bool:
    """Return whether there is a program at all that can be written down as UTF-8."""
    try:
        program.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return bool(program.strip())
