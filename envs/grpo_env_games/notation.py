r"""Converting arithmetic from LaTeX, other signs and brackets to `+-*/` and `()`.

Only the notation changes, not the numbers, the operators or their order. Unknown text is not
changed, and the reader of arithmetic refuses it.
"""

import re
from dataclasses import dataclass

from grpo_envs.graders.arithmetic import DEEPEST, MOST_CHARACTERS, Unreadable

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_BLANK, _TIMES, _BY, _MINUS = " ", "*", "/", "-"
_SAME = {
    **dict.fromkeys(("\\times", "\\cdot", "\\ast", "\\*", "\u22c5", "\u2219", "\u2217"), _TIMES),
    **dict.fromkeys(("\u2715", "\u2716", "\uff0a"), _TIMES),
    **dict.fromkeys(("\\div", "\u2215", "\u2044", "\u2797", "\uff0f"), _BY),
    **dict.fromkeys(("\u2013", "\u2796", "\uff0d"), _MINUS),
    **dict.fromkeys(("\uff0b", "\u2795"), "+"),
    **dict.fromkeys(("\\,", "\\;", "\\:", "\\!", "\\ ", "~", "\\quad", "\\qquad"), _BLANK),
    **dict.fromkeys(("\u00a0", "\u2009", "\u202f", "\ufe0f"), _BLANK),
    **dict.fromkeys(("\\displaystyle", "\\textstyle", "\\left", "\\right"), _BLANK),
    **{
        f"\\{size}{side}": _BLANK for size in ("big", "Big", "bigg", "Bigg") for side in ("", *"lr")
    },
}
_BRACKETS = {
    "(": ")",
    "[": "]",
    "{": "}",
    "\\{": "\\}",
    "\\lbrack": "\\rbrack",
    "\\lbrace": "\\rbrace",
    "\uff08": "\uff09",
    "\uff3b": "\uff3d",
}
_CLOSING = {*_BRACKETS.values()}
_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
_DIGITS = "0123456789"


def plain(text: str) -> str:
    r"""Return an expression in plain notation.

    Raises:
        Unreadable: the text is too long, brackets do not match, or a fraction lacks a part.

    >>> plain(r"$\frac{8}{3} \times [4 - 1]$")
    '((8)/(3))  *  (4 - 1)'
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"longer than {MOST_CHARACTERS} characters")
    return _Reader(_TOKEN.findall(undelimited(text))).until("", 0)


def undelimited(text: str) -> str:
    r"""Return a text without math delimiters, if they enclose the whole text.

    >>> undelimited(r"\( 3*4 \)"), undelimited("$3$ + $4$")
    ('3*4', '$3$ + $4$')
    """
    text = text.strip()
    for opening, closing in _DELIMITERS:
        inside = text[len(opening) : -len(closing)].strip()
        around = text.startswith(opening) and text.endswith(closing)
        if around and inside and opening not in inside and closing not in inside:
            return inside
    return text


@dataclass(slots=True)
class _Reader:
    """Rewrites tokens from left to right."""

    tokens: list[str]
    at: int = 0

    def until(self, closing: str, depth: int) -> str:
        """Return the text before a closing bracket ('' for the end) in plain notation."""
        if depth > DEEPEST:
            raise Unreadable(f"deeper than {DEEPEST}")
        written: list[str] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if token == closing:
                return "".join(written)
            if token in _CLOSING:
                break
            if token in _FRACTIONS:
                above = self.part(depth)
                written.append(f"(({above})/({self.part(depth)}))")
            elif token in _BRACKETS:
                written.append(f"({self.until(_BRACKETS[token], depth + 1)})")
            else:
                written.append(f" {_SAME[token]} " if token in _SAME else token)
        else:
            if not closing:
                return "".join(written)
        raise Unreadable("brackets that do not match")

    def part(self, depth: int) -> str:
        """Return a part of a fraction: the text in braces, or one digit."""
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        self.at += 1
        if token == "{":
            return self.until("}", depth + 1)
        if token and token in _DIGITS:
            return token
        raise Unreadable("a fraction without two parts")
