"""Read one number, exactly: `parse_number("1,131.50") == Fraction(2263, 2)`."""

import re
from fractions import Fraction
from functools import lru_cache

_LONGEST = 400  # characters; longer runs are noise and would make big integers slow
_LARGEST_EXPONENT = 400

_SIGN = r"(?P<sign>[+-]?)"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"  # 1131 or 1,131; never 1 131, never 11,31
_DECIMAL = re.compile(rf"{_SIGN}(?P<body>{_DIGITS}(?:\.\d*)?|\.\d+)", re.ASCII)
_FRACTION = re.compile(
    rf"{_SIGN}(?:(?P<whole>\d+) )?(?P<top>{_DIGITS}) ?/ ?(?P<bottom>{_DIGITS})", re.ASCII
)
_SCIENTIFIC = re.compile(
    rf"{_SIGN}(?P<body>\d+(?:\.\d*)?)(?: ?\* ?10\^|e)(?P<exponent>[+-]?\d{{1,4}})",
    re.ASCII | re.IGNORECASE,
)
_PART = r"(?:\{ ?(-?\d{1,400}) ?\}|(\d))"
_FRAC = re.compile(rf"\\[dtc]?frac ?{_PART} ?{_PART}", re.ASCII)
_THIN_SPACE = re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))", re.ASCII)  # 1\,000 is 1000
_BRACED_POWER = re.compile(r"\^\{ ?([+-]?\d{1,4}) ?\}", re.ASCII)
_MARKED = re.compile(r"[\\${\u2212\u00d7]")  # characters that `clean` removes
_PLAIN = re.compile(r"[+-]?\d+", re.ASCII)
_REPLACE = (
    ("\u2212", "-"),
    ("\\left.", ""),
    ("\\right.", ""),
    ("\\left", ""),
    ("\\right", ""),
    ("\\,", " "),
    ("\\!", ""),
    ("\\;", " "),
    ("\\%", "%"),
    ("\\$", ""),
    ("$", " "),
    ("{,}", ","),
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\u00d7", "*"),
)


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    r"""Remove text that does not change a value: outer spaces, `$`, a full stop, `\left`, `\,`.

    >>> clean(r"$\frac{1}{2}$.")
    '1/2'
    """
    if _MARKED.search(text):
        text = _BRACED_POWER.sub(r"^\1", _THIN_SPACE.sub("", text))
        for old, new in _REPLACE:
            text = text.replace(old, new)
    text = " ".join(text.split()).rstrip()
    text = text if text.endswith("...") else text.rstrip(". ")
    if "frac" in text:
        text = _FRAC.sub(_plain_fraction, text).removeprefix("--")
    return text.strip()


def parse_number(text: str) -> Fraction | None:
    r"""Return the number in `text` as an exact fraction; None if the text is not one number.

    Integers, decimals, `a/b`, `\frac{a}{b}`, mixed numbers, scientific notation, thousands
    separators and percent (50% is 1/2). Digits are never joined across a space.

    >>> parse_number("1,131.50"), parse_number(r"-\frac{3}{4}"), parse_number("50%")
    (Fraction(2263, 2), Fraction(-3, 4), Fraction(1, 2))
    >>> parse_number("12 34") is None and parse_number("1/0") is None
    True
    """
    return _read(text) if len(text) <= _LONGEST else None


def parse_numbers(text: str) -> tuple[str, tuple[Fraction, ...]] | None:
    r"""Return the brackets and the numbers of a flat collection; None for any other text.

    Within brackets a comma always separates: (1,200) is a pair.

    >>> parse_numbers(r"\left(1, \frac{1}{2}\right]")
    ('(]', (Fraction(1, 1), Fraction(1, 2)))
    """
    text = clean(text) if len(text) <= _LONGEST else ""
    if text[:2] == "\\{" and text[-2:] == "\\}":
        brackets, inner = "{}", text[2:-2]
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        brackets, inner = text[0] + text[-1], text[1:-1]
    else:
        return None
    parts = [parse_number(part) for part in inner.split(",")]
    if len(parts) < 2 or None in parts:
        return None
    return brackets, tuple(part for part in parts if part is not None)


@lru_cache(maxsize=4096)
def _read(text: str) -> Fraction | None:
    if _PLAIN.fullmatch(text):
        return Fraction(int(text))
    text = clean(text)
    percent = text.endswith("%")
    value = _parse(text.removesuffix("%").rstrip())
    return value / 100 if percent and value is not None else value


def _parse(text: str) -> Fraction | None:
    if match := _DECIMAL.fullmatch(text):
        return _signed(match, Fraction(match["body"].replace(",", "")))
    if match := _FRACTION.fullmatch(text):
        top, bottom = (int(match[part].replace(",", "")) for part in ("top", "bottom"))
        return _signed(match, int(match["whole"] or 0) + Fraction(top, bottom)) if bottom else None
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match["exponent"])
        if abs(exponent) > _LARGEST_EXPONENT:
            return None
        return _signed(match, Fraction(match["body"]) * Fraction(10) ** exponent)
    return None


def _signed(match: re.Match[str], value: Fraction) -> Fraction:
    return -value if match["sign"] == "-" else value


def _plain_fraction(match: re.Match[str]) -> str:
    top, bottom = int(match[1] or match[2]), int(match[3] or match[4])
    sign = "-" if (top < 0) != (bottom < 0) else ""
    space = " " if match.start() and match.string[match.start() - 1].isdigit() else ""
    after = " " if match.string[match.end() : match.end() + 1].isdigit() else ""
    return f"{space}{sign}{abs(top)}/{abs(bottom)}{after}"
