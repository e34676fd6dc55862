r"""Numerals in another base: `101_2`, `0.0101_{2}`, `B7_{12}`, `\text{B7}_{12}`."""

from grpo_envs.graders.math.grammar import Parser
from grpo_envs.graders.math.nodes import Node

_LARGEST_BASE = 36
_WORDS_TEXT = """two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen"""
_WORDS = {word: str(base) for base, word in enumerate(_WORDS_TEXT.split(), 2)}


def numeral(parser: Parser, first: str) -> Node | None:
    """Read a numeral with letters, whose first token was taken; None if there is none.

    Without a digit it has two letters or more: A_{12} is a name.
    """
    digits, at = first, parser.at
    while parser.tokens[at][0] in ("num", "name"):
        digits += parser.tokens[at][1]
        at += 1
    if parser.tokens[at] != ("op", "_") or not _has_letters(digits):
        return None
    base = _base(parser, at + 1)
    if base is None or not 10 < base <= _LARGEST_BASE or not _in_base(digits, base):
        return None
    parser.at = at + 1
    return ("base", digits, _read_base(parser))


def based(parser: Parser, left: Node) -> Node:
    """Read the base of a numeral, or the index of a group: 101_2, {x}_n."""
    kind, value = parser.tokens[parser.at - 1]
    parser.at += 1
    if left[0] == "num":
        return ("base", left[1], _read_base(parser))
    base = _base(parser, parser.at)
    if left[0] == "word" and base is not None and _in_base(left[1], base):
        return ("base", left[1].upper(), _read_base(parser))
    if left[0] == "var" and (kind, value) == ("op", "}"):
        return ("var", f"{left[1]}_{_index(parser)}")
    return parser.fail("_")


def _has_letters(digits: str) -> bool:
    letters = sum(map(str.isalpha, digits))
    upper = digits.upper() == digits
    return digits.isalnum() and upper and letters > 0 and (letters < len(digits) or letters > 1)


def _in_base(digits: str, base: int) -> bool:
    return all(char.isalnum() and char.isascii() and int(char, 36) < base for char in digits)


def _base(parser: Parser, at: int) -> int | None:
    """Return the base at position `at` if it is a plain number."""
    at += parser.tokens[at] == ("op", "{")
    kind, value = parser.tokens[at]
    return int(value) if kind == "num" and value.isdecimal() and len(value) < 3 else None


def _read_base(parser: Parser) -> Node:
    kind, value = parser.tokens[parser.at]
    if kind == "num":
        parser.at += 1
        return ("num", value)
    base = parser.argument()
    return ("num", _WORDS[base[1]]) if base[0] == "word" and base[1] in _WORDS else base


def _index(parser: Parser) -> str:
    index = parser.argument()
    return str(index[1]) if index[0] in ("var", "num") else parser.fail("_")
