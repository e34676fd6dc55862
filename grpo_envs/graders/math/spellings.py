r"""Rewriting of a text before it is split into tokens: `\not=` becomes `\ne`."""

import re

_BEHIND_NUMBER = r"(?<=\d)(?:[\s~]|\\[,;:! ])*"
_SPELLINGS = (  # text to look for first, the pattern, and its replacement
    ("\\end", re.compile(r"\.\s*(?=\\\\|\\end)"), ""),  # the full stop after a line of a system
    ("Ce^", re.compile(r"Ce\^"), "C e^"),  # the constant of integration, not a word
    ("\\not", re.compile(r"\\not\s*="), r"\\ne "),
    ("\\not", re.compile(r"\\not\s*\\in(?![A-Za-z])"), r"\\notin "),
    ("or", re.compile(r"(?<=\d)or(?=[A-Za-z](?:\([A-Za-z]\))?=)"), " or "),  # f(x)=1orf(x)=2
    (  # x = 1 \quad y = 2
        "quad",
        re.compile(r"(?<=[\w)])\s*\\q?quad\s*(?=[A-Za-z](?:_\{?\w\}?)?\s*=)"),
        ", ",
    ),
    (")", re.compile(r"\(\s*([0-9A-Z]+)\s*\)\s*_(?=\s*\{?\s*\d)"), r"\1_"),  # (2A7)_{16}
    ("\\min", re.compile(rf"{_BEHIND_NUMBER}\\min\s*\Z"), r"\\text{ min}"),  # 15 \min
    ("\\sec", re.compile(rf"{_BEHIND_NUMBER}\\sec\s*\Z"), r"\\text{ s}"),
    ("\\deg", re.compile(rf"{_BEHIND_NUMBER}\\deg(?![A-Za-z])"), r"^\\circ "),
    (  # 413 (base 7), 413 in base 7
        "base",
        re.compile(
            r"(?<![\w.])([0-9A-Z]+(?:\.[0-9A-Z]+)?)\s*(?:\\[ ,]\s*)?"
            r"(?:\\text\s*\{)?\s*\(?(?:in )?base"
            r"[\s~-]*(?:\}\s*)?(\d{1,2}|[a-z]+)\s*\)?\s*\}?(?=\s*\Z)"
        ),
        r"\1_{\2}",
    ),
    (  # the constant of integration
        "const",
        re.compile(r"(?<=\+)\s*(?:\\(?:text|mathrm)\s*\{\s*)?const(?:ant)?\.?(?:\s*\})?\s*\Z"),
        " C",
    ),
    (  # the ratio 2 to 3
        "to",
        re.compile(r"\A\s*(\d+)\s*(?:to|\\text\s*\{\s*to\s*\})\s*(\d+)\s*\Z"),
        r"\1:\2",
    ),
    (  # _nC_k, ^nC_k: choices
        "C",
        re.compile(
            r"(?:\{\}|(?<![\w}]))[_^]\s*(?:\{\s*(\w+)\s*\}|(\w))\s*"
            r"(?:C|\\(?:mathrm|text|mathbf)\s*\{C\})\s*_\s*(?:\{\s*(\w+)\s*\}|(\w))"
        ),
        lambda match: rf"\binom{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}",
    ),
    ("(mod", re.compile(r"\(mod(?:ulo)?\s+(\w+)\s*\)"), r"\\pmod{\1}"),
    ("qq", re.compile(r"\\([lg]e)qq(?![A-Za-z])"), r"\\\1 "),
)
_EDGE = r"(?:\A|(?:\\(?:c[au]p|in|setminus)|=|\bU)(?![A-Za-z]))\s*"
_BOUNDS = r"\s*([^\[\](){},;]+[,;][^\[\](){},;]+?)\s*"
# Intervals that are open at a bracket turned outwards: ]2, 3], [2, 3[.
_TURNED = re.compile(
    rf"({_EDGE})(?:\\left\s*)?([\[\]]){_BOUNDS}([\[\]])(?=\s*(?:\Z|[.$=]|\\c[au]p|\bU))"
)
_GREATER, _LESS = (
    r"(>=?|\\g(?:e|eq|eqslant|t)(?![A-Za-z]))",
    r"(<=?|\\l(?:e|eq|eqslant|t)(?![A-Za-z]))",
)
_BOUND = r"\s*([^<>=(),]+?)\s*"
_AND = r"(?<![A-Za-z])(?:\\(?:land|wedge)|and|\\text\s*\{\s*and\s*\})(?![A-Za-z])"
_ABOVE_AND_BELOW = re.compile(rf"\s*([A-Za-z])\s*{_GREATER}{_BOUND}{_AND}\s*\1\s*{_LESS}{_BOUND}")
_BELOW_AND_ABOVE = re.compile(rf"\s*([A-Za-z])\s*{_LESS}{_BOUND}{_AND}\s*\1\s*{_GREATER}{_BOUND}")
_SIGN = r"(?:[<>]|\\[gl](?:e|eq|eqslant|t)(?![A-Za-z]))"
_IN_BRACKETS = re.compile(
    rf"\s*\(([^(),]*{_SIGN}[^(),]*(?:and|or|\\land|\\lor|\\wedge|\\vee)(?![a-z])[^(),]*{_SIGN}[^(),]*)\)\s*"
)


def respelt(text: str) -> str:
    r"""Return `text` in the spelling that the tokenizer reads.

    >>> respelt(r"x \not= 2"), respelt("(x>2 and x<3)")
    ('x \\ne  2', '2 < x < 3')
    """
    for mark, pattern, spelling in _SPELLINGS:
        if mark in text:
            text = pattern.sub(spelling, text)
    if "]" in text[:-1] or "[" in text[1:]:
        text = _TURNED.sub(_interval, text)
    joined = "and" in text or "or" in text or "\\land" in text or "\\wedge" in text
    return _between(text) if joined else text


def _interval(match: re.Match[str]) -> str:
    before, opening, bounds, closing = match.groups()
    open_, close = ("[", "(")[opening == "]"], ("]", ")")[closing == "["]
    return f"{before}{open_}{bounds.replace(';', ',')}{close}"


def _between(text: str) -> str:
    """Return `x > 2 and x < 3` as one chain, without outer brackets."""
    if match := _IN_BRACKETS.fullmatch(text):
        text = match[1]
    if match := _ABOVE_AND_BELOW.fullmatch(text):
        name, greater, low, less, high = match.groups()
    elif match := _BELOW_AND_ABOVE.fullmatch(text):
        name, less, high, greater, low = match.groups()
    else:
        return text
    return f"{low} {_less(greater)} {name} {_less(less)} {high}"


def _less(sign: str) -> str:
    return "<" if sign in ("<", ">", "\\lt", "\\gt") else r"\le"
