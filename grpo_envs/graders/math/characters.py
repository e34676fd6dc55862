r"""Unicode characters as equivalent ASCII or LaTeX: `ascii_of("x⁻² ⩽ ½")`."""

import re
import unicodedata

_MINUS = "\u2010\u2011\u2012\u2212\ufe63\uff0d"
_DASHES = "\u2014\u2015"
_INVISIBLE = (
    "\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2063\u2064\ufeff\u00ad\ufe0e\ufe0f\u202a\u202c"
    "\u2066\u2069\u061c"
)
_SPACES = (
    "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_TIMES = "\u2062\u22c5\u2219\u2217\u2022\u30fb\u2715\u2716\u2a2f"
_FRACTIONS = {
    **{"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5"},
    **{"⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8"},
    **{"⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10", "↉": "0/3"},
}
_SIGNS = {
    **{"⩽": "≤", "≦": "≤", "⩾": "≥", "≧": "≥", "⁄": "/", "∕": "/", "∶": ":", "∣": "|", "‖": r"\|"},
    **{"≃": "≈", "≅": "≈", "∼": "≈", "≡": r"\equiv ", "∉": r"\notin ", "⊂": r"\subset "},
    **{
        "⊆": r"\subseteq ",
        "∖": r"\setminus ",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "⌊": r"\lfloor ",
    },
    **{"⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∑": r"\sum ", "∏": r"\prod "},
    **{
        "∫": r"\int ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℚ": r"\mathbb{Q}",
        "ℕ": r"\mathbb{N}",
    },
    **{"ℂ": r"\mathbb{C}", "∛": r"\sqrt[3]", "∠": r"\angle ", "△": r"\triangle ", "ℓ": r"\ell "},
    **{
        "⋯": "...",
        "˚": "°",
        "℃": r"\text{ °C}",
        "℉": r"\text{ °F}",
        "￥": "¥",
        "⇒": r"\Rightarrow ",
    },
    **{"⟹": r"\Rightarrow ", "∴": r"\therefore ", "′": "'", "″": "''", "ø": r"\emptyset "},
    **{"、": ",", "。": ".", "【": "[", "】": "]", "「": '"', "」": '"', "“": '"', "”": '"'},
    **{"‘": "'", "’": "'", "«": '"', "»": '"', "㎡": "m^2", "㎥": "m^3", "µ": "μ", "∧": ","},
    **{
        "∨": " or ",
        "ϕ": r"\phi ",
        "ϵ": r"\epsilon ",
        "或": " or ",
        "和": ",",
        "及": ",",
        "与": ",",
    },
}
_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta"},
    **{"η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda", "ν": "nu", "ξ": "xi", "ρ": "rho"},
    **{"σ": "sigma", "τ": "tau", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega"},
    **{"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Σ": "Sigma", "Φ": "Phi"},
    **{"Ψ": "Psi"},
}
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᵏᵐᵗ", "0123456789+-=()nixyabkmt", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢₓₐₑₒₖₘⱼₜₛₚ", "0123456789+-=()nixaeokmjtsp", strict=True))
_SUPERS = re.compile(f"[{''.join(_SUPER)}]+")
_SUBS = re.compile(f"[{''.join(_SUB)}]+")
_VULGAR = re.compile(f"[{''.join(_FRACTIONS)}]")
_LINE, _DOT = "\u0305", "\u0307"  # combining, over the character before
_OVERLINED = re.compile(rf"(?:\d{_LINE})+", re.ASCII)
_DOTTED = re.compile(rf"(\d){_DOT}", re.ASCII)
_DASHED = re.compile(rf"(^|[=(\[{{,:<>$≈≤≥])(\s*)[{_DASHES}](?=\s*[\d.\\A-Za-z(])")
# LaTeX read with the escapes of JSON or Python: a form feed and "rac" were \\frac.
_READ_AS_ESCAPES = re.compile(
    r"[\x07\x08\x0b\x0c](?=[a-z])|\t(?=(?:ext|imes|heta|an|au|frac|riangle|ilde)(?![a-z]))"
    r"|\r(?=(?:ight|ho|angle)(?![a-z]))|\n(?=(?:eq|abla|otin)(?![a-z]))"
)
_LETTERS = {"\a": "a", "\b": "b", "\v": "v", "\f": "f", "\t": "t", "\r": "r", "\n": "n"}


class _Table(dict[int, str]):
    """The characters to replace, and the ranges that their compatibility form replaces."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        plain = 0xFF01 <= code <= 0xFF5E or 0x1D400 <= code <= 0x1D7FF or 0x3380 <= code <= 0x33DF
        return unicodedata.normalize("NFKC", char) if plain else char


_TABLE = _Table(
    {
        **{ord(char): "-" for char in _MINUS},
        **{ord(char): "" for char in _INVISIBLE},
        **{ord(char): " " for char in _SPACES},
        **{ord(char): "*" for char in _TIMES},
        **{ord(char): text for char, text in _SIGNS.items()},
        **{ord(char): f"\\{name} " for char, name in _GREEK.items()},
    }
)


def ascii_of(text: str) -> str:
    r"""Return `text` with Unicode signs as ASCII or LaTeX; letters of other scripts are unchanged.

    A long dash is a minus only at the start of a value: 3—8 may be a range.

    >>> ascii_of("\uff11\uff15"), ascii_of("4½"), ascii_of("x⁻²"), ascii_of("\u20148")
    ('15', '4\\frac{1}{2}', 'x^{-2}', '-8')
    """
    if text.isascii():
        return text
    text = _VULGAR.sub(_fraction, text)
    text = _OVERLINED.sub(lambda m: rf"\overline{{{m[0].replace(_LINE, '')}}}", text)
    text = text if _DOT not in text else _DOTTED.sub(r"\\dot{\1}", text)
    text = _SUPERS.sub(lambda match: f"^{{{''.join(map(_SUPER.__getitem__, match[0]))}}}", text)
    text = _SUBS.sub(lambda match: f"_{{{''.join(map(_SUB.__getitem__, match[0]))}}}", text)
    return _DASHED.sub(r"\1\2-", text.translate(_TABLE))


def _fraction(match: re.Match[str]) -> str:
    above, below = _FRACTIONS[match[0]].split("/")
    return rf"\frac{{{above}}}{{{below}}}"


def unescaped(text: str) -> str:
    r"""Return LaTeX whose backslashes were read as escapes with its commands.

    >>> unescaped("\frac{1}{2}"), unescaped("\theta"), unescaped("a\nb")
    ('\\frac{1}{2}', '\\theta', 'a\nb')
    """
    return _READ_AS_ESCAPES.sub(lambda match: f"\\{_LETTERS[match[0]]}", text)
