r"""Units after a number: their positions in a text, and their standard spellings.

A unit is certain if it is in a font (`\text{ m}`), or if variables are never written so (`km`,
`hours`). Bare letters (`8 m`, `8 m/s`) are a unit only if no variable is expected, because the
gold has none. The words for units are a closed list (`unit_names`). Counted things are an open
class, except for words that change the value (`nouns`).
"""

import re
from functools import lru_cache
from typing import NamedTuple

from grpo_envs.graders.math.nouns import counted, may_follow
from grpo_envs.graders.math.unit_names import (
    CHINESE,
    CLOSE,
    KNOWN,
    MEASURE,
    SCALES,
    SPACED,
    SYMBOLS,
    WORDS,
)

FONTS = "text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|rm|operatorname\\*?"
_SPACE = r"(?:[\s~]|\\[,;:!>\ ]|\\q?quad(?![A-Za-z]))*"
_LETTER = r"[^\W\d_]"
_FONT = rf"\\(?:{FONTS})(?![A-Za-z])\s*(?:\{{(?!\s*(?:and|or)\s*\}})[^{{}}]*\}}|[A-Za-z])"
_ATOM = (
    rf"(?:{_FONT}|\\(?:Omega|mu)(?![A-Za-z])|(?!(?:and|or)(?![A-Za-z]))"
    rf"°?{_LETTER}+(?:[-.']{_LETTER}+)*(?!{_LETTER})\.?|[€£¥₹₽¢])"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\s*\d\s*\}|-?\d))"
_SIGN = r"(?:[/*]|\\cdot(?![A-Za-z])|\\times(?![A-Za-z]))"
_PHRASE = re.compile(
    rf"{_SPACE}\(?{_ATOM}{_POWER}?(?:{_SPACE}(?:{_SIGN}{_SPACE}\(?)?{_ATOM}{_POWER}?\)?){{0,7}}\)?"
)
_FOLLOWS = re.compile(
    r"[\s~.$]*(?:$|[,;)\]}=&|]|\\[)\]}\\]|\\(?:approx|text|quad|qquad)(?![A-Za-z])"
    r"|(?:and|or)(?![A-Za-z]))"
)
_IN_FONT = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*(?:\{{([^{{}}]*)\}}|([A-Za-z]))")
_LAYOUT = re.compile(r"[~{}\s]|\\[,;:!>\ ]|\\q?quad(?![A-Za-z])")
_PIECE = re.compile(rf"\^-?\d|[*/()]|°?{_LETTER}+(?:[-.']{_LETTER}+)*|[€£¥₹₽¢]")
_CHINESE = re.compile(r"[\u4e00-\u9fff]+(?:/[\u4e00-\u9fff]+)?")
_SCALE = re.compile("|".join(f"{word}(?![a-z])" for word in sorted(SCALES, key=len, reverse=True)))
_DENYING = frozenset("不非没无错或和负减加乘除以零一二三四五六七八九十百千万亿半双多少约上下倍")
_STROKES = ("/", "per", "Per")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SUFFIXES = {"squared": 2, "cubed": 3}
_LIKE_SCALES = frozenset("KMBTk")  # 8K dollars are 8,000 dollars
_FUNCTIONS = frozenset({"min", "sec"})
_DEGREES = re.compile(r"\bdegrees? (?=(?:celsius|fahrenheit)\b)", re.IGNORECASE)
_PREFIXED_OHM = re.compile(r"\b([kMm]) (?=Ω)")
_LONGEST = 160


# A quick test of the whole text, before the slow patterns after each number.
_MAY_HAVE_UNIT = re.compile(
    r"[0-9)\]}|!'][\s~]*(?:\\[ ,;:!>]\s*|\\q?quad\s*)*(?:[A-Za-z]|(?:\([A-Za-z]|(?<=\s)\()[A-Za-z])"
    r"|\\(?:text|mathrm|mbox|hbox|rm|operatorname|Omega|mu)|[^\x00-\x7f]"
)


def may_have_unit(text: str) -> bool:
    """Return False if `text` cannot contain a unit."""
    return _MAY_HAVE_UNIT.search(text) is not None


class Quantity(NamedTuple):
    """A unit after a number."""

    name: str
    """The standard spelling; '' if there is only a scale."""
    end: int
    """The position after the unit."""
    scale: int = 0
    """The factor of the number: 10**6 in `8 million dollars`; 0 if there is none."""


def quantity(text: str, at: int, *, bare: bool) -> Quantity | None:
    r"""Return the unit at `at`, after a number; None if there is none.

    Args:
        text: The text of an answer.
        at: The end of the number.
        bare: Whether letters without a font are units, too, if nothing else follows.

    >>> quantity(r"8\text{ m}/\text{s}", 1, bare=False).name, quantity("8 m/s", 1, bare=True).name
    ('m/s', 'm/s')
    >>> quantity("8 m", 1, bare=False), quantity("8 m x", 1, bare=True)
    (None, None)
    """
    match = _PHRASE.match(text, at)
    if match is None or match.end() - at > _LONGEST:
        return None
    raw, end = match[0], match.end()
    if raw.endswith(")") and raw.count("(") < raw.count(")"):
        raw, end = raw[:-1], end - 1
    found = _named(raw)
    if found is None:
        scaled = _scaled(raw)
        return scaled and scaled._replace(end=end)
    if found.certain and not found.function:
        return Quantity(found.name, end)
    alone = (found.function or (bare and found.bare)) and _FOLLOWS.match(text, end)
    return Quantity(found.name, end) if alone else None


@lru_cache(maxsize=4096)
def _scaled(raw: str) -> Quantity | None:
    """Return the scale at the start of a phrase: 8 million, 8 million dollars."""
    flat = _flat(raw)
    match = _SCALE.match(flat)
    if match is None:
        return None
    rest = flat[match.end() :].strip()
    name = unit_of(rest) if rest else ""
    return None if name is None else Quantity(name, len(raw), SCALES[match[0].lower()])


class _Named(NamedTuple):
    name: str
    certain: bool
    """Whether it is always a unit after a value."""
    bare: bool
    """Whether it may be a unit if no variable is expected."""
    function: bool
    """Whether it is also the name of a function: `min`, `sec`."""


@lru_cache(maxsize=4096)
def _named(raw: str) -> _Named | None:
    flat = _flat(raw)
    name = unit_of(flat)
    if name is None:
        return None
    words = [word for word in re.findall(rf"{_LETTER}+", flat) if word not in ("per", "a", "an")]
    fonted = _IN_FONT.search(raw) is not None
    if not fonted and len(words) > 1 and words[0] in _LIKE_SCALES:
        return None
    spaced = raw[:1] in " ~\\\t\n"
    bare = all(word in CLOSE or (spaced and (word in SPACED or len(word) > 1)) for word in words)
    sure = any(word in KNOWN or (len(word) > 2 and word not in _FUNCTIONS) for word in words)
    certain = fonted or sure or not raw.isascii()
    function = not fonted and not _FUNCTIONS.isdisjoint(words)
    return _Named(name, certain, bare, function)


def _flat(raw: str) -> str:
    """Return a phrase without fonts and layout, with single spaces."""
    text = _IN_FONT.sub(lambda match: f" {match[1] or match[2]} ", raw)
    text = text.replace("\\cdot", "*").replace("\\times", "*").replace("\\Omega", "Ω")
    text = text.replace("\\mu", "μ").replace("µ", "μ").replace("\\%", "%")
    text = " ".join(_LAYOUT.sub(" ", text).split()).replace("μ ", "μ")
    text = _PREFIXED_OHM.sub(r"\1", text)
    text = _DEGREES.sub("", re.sub(r" ?([*/^]) ?", r"\1", text))
    return text.strip(" .,;:") if text[-2:] not in ("a.", "p.") else text


@lru_cache(maxsize=4096)
def unit_of(flat: str) -> str | None:
    """Return the standard spelling of a unit or of counted things; None for other words.

    >>> unit_of("square centimeters"), unit_of("cm^2"), unit_of("feet"), unit_of("miles per hour")
    ('cm^2', 'cm^2', 'ft', 'mi/h')
    >>> unit_of("hens"), unit_of("million"), unit_of("below zero")
    ('hen', None, None)
    """
    flat = flat.strip()
    if flat.startswith("(") and flat.endswith(")"):
        flat = flat[1:-1].strip()
    if _CHINESE.fullmatch(flat):
        return _chinese(flat)
    factors = _factors(flat)
    if factors is not None:
        return _spelt(factors)
    words = flat.split()
    for size in range(len(words) - 1, 0, -1):  # years old, meters of rope
        factors = _factors(" ".join(words[:size]))
        if factors is not None and may_follow(" ".join(words[size:]).lower()):
            return _spelt(factors)
    return counted(" ".join(words).lower())


def _factors(flat: str) -> dict[str, int] | None:
    """Return the units of a product with their exponents; None if a piece is not a unit."""
    pieces = _PIECE.findall(flat)
    if "".join(pieces).replace(".", "") != flat.replace(" ", "").replace(".", ""):
        return None
    product = _Product()
    return product.found if all(map(product.add, pieces)) and product.complete() else None


class _Product:
    """The units of a product, read piece by piece."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self._last = ""
        self._sign = self._power = 1
        self._inside = False  # brackets after a slash

    def add(self, piece: str) -> bool:
        """Read one more piece; return whether it is allowed there."""
        if piece in _STROKES or piece in ("a", "an"):
            self._sign = -1
            return bool(self._last)
        if piece in "()":
            self._inside = piece == "(" and self._sign < 0
        elif piece == "*":
            self._sign = self._sign if self._inside else 1
        elif piece[0] == "^" or piece in _SUFFIXES:
            if not self._last:
                return False
            self.found[self._last] *= _SUFFIXES.get(piece) or int(piece[1:])
        elif piece.lower() in _POWERS:
            self._power = _POWERS[piece.lower()]
        else:
            return self._unit(_one_unit(piece))
        return True

    def complete(self) -> bool:
        """Return whether there is a unit, and one after each `square`."""
        return bool(self.found) and self._power == 1

    def _unit(self, name: str | None) -> bool:
        for unit, exponent in _split(name) if name else ():
            change = self._sign * self._power * exponent
            self.found[unit] = self.found.get(unit, 0) + change
            self._last = unit
        self._sign, self._power = (self._sign if self._inside else 1), 1
        return name is not None


def _one_unit(piece: str) -> str | None:
    return SYMBOLS.get(piece.rstrip(".")) or WORDS.get(piece.lower().rstrip("."))


def _split(name: str) -> list[tuple[str, int]]:
    """Return the factors of a spelling in the vocabulary: km/h, cm^3."""
    top, _, bottom = name.partition("/")
    unit, _, power = top.partition("^")
    return [(unit, int(power or 1)), *([(bottom, -1)] if bottom else [])]


def _spelt(factors: dict[str, int]) -> str:
    above = [_power(unit, exponent) for unit, exponent in sorted(factors.items()) if exponent > 0]
    below = [_power(unit, -exponent) for unit, exponent in sorted(factors.items()) if exponent < 0]
    return "*".join(above or ["1"]) + "".join(f"/{unit}" for unit in below)


def _power(unit: str, exponent: int) -> str:
    return unit if exponent == 1 else f"{unit}^{exponent}"


def _chinese(text: str) -> str | None:
    top, _, bottom = text.partition("/")
    top, each, rest = top.partition("每")
    if each or bottom:
        units = [_chinese(part) for part in (top, bottom or rest)]
        return None if None in units else "/".join(map(str, units))
    for before, power in (("平方", "^2"), ("立方", "^3")):
        if text.startswith(before) and text[2:] in CHINESE:
            return CHINESE[text[2:]] + power
    if text in CHINESE:
        return CHINESE[text]
    if text[0] in MEASURE and len(text) <= 8 and not _DENYING & set(text[1:]):
        return text
    return None
