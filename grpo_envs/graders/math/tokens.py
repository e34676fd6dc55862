r"""Cut LaTeX or plain mathematics into tokens, in one pass: `tokenize(text) -> list[Token]`.

A token is (kind, value): num, sci, repeat, name, const, fn, text, cmd (without its backslash),
begin, end or op. All spellings have one token: `\le`, `\leq`, `<=` and the Unicode sign are ("op",
"<=").
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from string import ascii_letters

from grpo_envs.graders.math.units import FONTS, may_have_unit
from grpo_envs.graders.math.units import quantity as unit_behind

Token = tuple[str, str]

MOST_CHARACTERS = 4000
MOST_TOKENS = 1200
MOST_DIGITS = 1000


class Unreadable(Exception):
    """The text is not mathematics that we can read, or is too large."""


_FUNCTIONS = """sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh
    coth sech csch arcsinh arccosh arctanh exp ln log lg abs floor ceil sgn re im arg conj gcd lcm
    max min det"""
_GREEK = """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu
    nu xi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda
    Xi Pi Sigma Upsilon Phi Psi Omega ell hbar"""
_SIGNS = {  # commands and characters that are operators
    **{"le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">="},
    **{"lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "approx": "~", "simeq": "~", "equiv": "="},
    **{"in": "in", "notin": "notin", "subset": "subset", "subseteq": "subset", "to": "to"},
    **{"rightarrow": "to", "times": "*", "cdot": "*", "ast": "*", "div": "/", "pm": "pm"},
    **{"mp": "mp", "cup": "cup", "cap": "cap", "setminus": "setminus", "backslash": "setminus"},
    **{"lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|"},
    **{"vert": "|", "mid": "|", "langle": "(", "rangle": ")", "colon": ":", "degree": "°"},
    **{"circ": "°", "prime": "'", "choose": "choose", "lor": "or", "vee": "or", "land": ","},
    **{"ldots": "...", "dots": "...", "cdots": "...", "lfloor": "lfloor", "rfloor": "rfloor"},
    **{"lceil": "lceil", "rceil": "rceil", "lVert": "norm", "rVert": "norm", "Vert": "norm"},
    **{"cr": "\\\\"},
    **{"**": "^", "==": "=", "\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00b7": "*"},
    **{"\u00f7": "/", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2248": "~"},
    **{"\u222a": "cup", "\u2229": "cap", "\u2208": "in", "\u00b1": "pm", "\u2213": "mp"},
    **{"\u2192": "to", "->": "to", "\u2019": "'", "\u2032": "'", "\u2026": "...", "\u00ba": "°"},
    **{"\\%": "%", "\\&": "&", "\\|": "norm"},
}
_WORDS: dict[str, Token] = {  # commands, and runs of letters, that are one token
    **{name: ("fn", name) for name in _FUNCTIONS.split()},
    **{f"a{name}": ("fn", f"arc{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"ar{name}": ("fn", f"arc{name}") for name in ("sinh", "cosh", "tanh")},
    **{"tg": ("fn", "tan"), "ctg": ("fn", "cot"), "Re": ("fn", "re"), "Im": ("fn", "im")},
    **dict.fromkeys(("pi", "Pi"), ("const", "pi")),
    **dict.fromkeys(("oo", "inf", "infty", "infinity"), ("const", "inf")),
    **{"and": ("op", ","), "And": ("op", ","), "or": ("op", "or"), "Or": ("op", "or")},
    **dict.fromkeys(("percent", "pct", "percentage"), ("op", "%")),
    **dict.fromkeys(("degree", "degrees", "deg"), ("op", "°")),
    **dict.fromkeys(("cup", "union"), ("op", "cup")),
    **{name: ("cmd", name) for name in ("sqrt", "frac", "binom")},
}
_COMMANDS: dict[str, Token] = {
    **{name: ("name", name) for name in _GREEK.split()},
    **{name: token for name, token in _WORDS.items() if token[0] in ("fn", "const")},
    **{name: ("op", sign) for name, sign in _SIGNS.items() if name.isalpha()},
    **dict.fromkeys(
        ("dfrac", "tfrac", "cfrac", "sfrac", "nicefrac", "flatfrac", "mfrac"), ("cmd", "frac")
    ),
    **dict.fromkeys(("dbinom", "tbinom"), ("cmd", "binom")),
    **dict.fromkeys(("emptyset", "varnothing"), ("cmd", "emptyset")),
    "Pi": ("name", "Pi"),
}
_CHARACTERS: dict[str, Token] = {
    **{"\u03c0": ("const", "pi"), "\u221e": ("const", "inf"), "\u221a": ("cmd", "sqrt")},
    **{"\u20ac": ("text", "euro"), "\u00a3": ("text", "pound"), "\u2205": ("cmd", "emptyset")},
    **{"α": ("name", "alpha"), "β": ("name", "beta"), "γ": ("name", "gamma")},
    **{"θ": ("name", "theta"), "λ": ("name", "lambda"), "φ": ("name", "phi"), "μ": ("name", "mu")},
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SHORT_WORDS = """yes no not none odd even all any red cat dog one two six ten day sun mon tue wed
    thu fri sat set the true false man men boy girl cm mm km kg mi ft hr hrs sec mph lb lbs oz sq
    dne"""
_KNOWN = frozenset(_SHORT_WORDS.split())
_TOKEN = re.compile(
    rf"""
    (?P<skip>\s+|[~$]|\\q?quad|\\[$,;:!>\ ()\[\]]
      |\\(?:left|right)(?![A-Za-z])\s*\.?
      |\\(?:middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|thinspace
        |hspace\{{[^{{}}]*\}}|ldotp|,)(?![A-Za-z]))
    |(?P<repeat>\d*\.\d*\\dot\s*(?:\{{\d\}}|\d)\d*\\dot\s*(?:\{{\d\}}|\d)
      |\d*\.\d*\\(?:overline|bar|dot)\s*(?:\{{\d+\}}|\d)|\d*\.\(\d+\))
    |(?P<sci>(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{{1,4}}(?![\w.]))
    |(?P<num>\d+(?:(?:\{{,\}}|\\[,!]|,\\!\s*)\d{{3}}(?!\d))*(?:\.\d+)?|\.\d+)
    |(?P<matrix>\\(?:begin|end)\s*\{{[A-Za-z]+\*?\}})
    |(?P<text>\\(?:{FONTS})(?![A-Za-z])\s*(?:\{{[^{{}}]*\}}|[A-Za-z]))
    |(?P<raised>\^\s*(?:\{{\s*\\(?:circ|prime)\s*\}}|\\(?:circ|prime)(?![A-Za-z])))
    |(?P<cmd>\\[A-Za-z]+)
    |(?P<run>[A-Za-z]+)
    |(?P<super>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)
    |(?P<op>\*\*|<=|>=|!=|==|->|\.\.\.|\\\\|\\[{{}}%&|]|[-+*/^_=<>()\[\]{{}}|!,;:&%'])
    |(?P<other>.)""",
    re.VERBOSE | re.ASCII,
)
# Tokens that may begin a unit, and tokens that a unit may follow.
_MAY_BE_UNIT = frozenset(" ~\\(\u20ac\u00a3\u00a5\u20b9\u20bd\u00a2\u00b0" + ascii_letters)
_UNIT_COMMANDS = frozenset(" ,;:!>qtmhroO")
"""Characters after a backslash that may begin a space, a font or a unit."""
_VALUES = frozenset({"num", "sci", "repeat", "name", "const"})
_CLOSING = frozenset(")]}|!%'") | {"\\}", "rfloor", "rceil"}
_NUMBER_AHEAD = re.compile(r"\s*\d", re.ASCII)
_COLUMNS = re.compile(r"\s*(?:\[[a-z]\]\s*)?\{[lcr|\s]*\}")
_THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?![\d,]|\.\d*,)", re.ASCII)
_BRACKET = re.compile(r"[(\[)\]]|\\[{}]|\\[lr]brace")
_OPENS = frozenset({"(", "[", "\\{", "\\lbrace"})
_NUMERIC = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)


def tokenize(text: str, *, quantity: bool = False) -> list[Token]:
    r"""Return the tokens of `text`, and at the end ("end", "").

    Args:
        text: LaTeX or plain mathematics.
        quantity: Whether letters after a number are units if possible: 8 m is 8 metres.

    Raises:
        Unreadable: a character has no meaning here, or a limit is exceeded.

    >>> tokenize(r"\frac{1}{2}\le x")[0], tokenize("2 \u2264 x")[1]
    (('cmd', 'frac'), ('op', '<='))
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable("too long")
    if "," in text:
        text = _without_thousands(text)
    units = may_have_unit(text)
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        if (
            units
            and (text[at] in _MAY_BE_UNIT or text[at] > "\u3000")
            and (text[at] != "\\" or text[at + 1 : at + 2] in _UNIT_COMMANDS)
            and tokens
            and (tokens[-1][0] in _VALUES or tokens[-1][1] in _CLOSING)
        ):
            end = _unit(text, at, tokens, quantity)
            if end:
                at = end
                continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable("a line that ends within")
        at = match.end()
        group = match.lastgroup
        if group == "skip" or group is None:
            continue
        tokens += _read(group, match[0])
        if len(tokens) > MOST_TOKENS:
            raise Unreadable("too many tokens")
        if group == "matrix" and "array" in match[0] and tokens[-1][0] == "begin":
            columns = _COLUMNS.match(text, at)
            at = columns.end() if columns else at
    tokens.append(("end", ""))
    return tokens


@lru_cache(maxsize=4096)
def _read(group: str, text: str) -> Sequence[Token]:
    return _READ[group](text)


def _unit(text: str, at: int, tokens: list[Token], bare: bool) -> int:
    """Add the unit at `at`, after a value; return its end, or 0 if there is none."""
    kind, value = tokens[-1]
    found = unit_behind(text, at, bare=bare and kind != "name")
    if found is None:
        return 0
    if found.scale and kind != "num":
        return 0
    if found.scale:
        tokens[-1] = ("num", _times(value, found.scale))
    if found.name:
        tokens.append(("unit", found.name))
        if _NUMBER_AHEAD.match(text, found.end):  # 3 hours 20 minutes
            tokens.append(("op", ","))
    return found.end


def _times(digits: str, factor: int) -> str:
    whole, _, decimals = digits.partition(".")
    places = len(decimals)
    product = str(int(whole + decimals) * factor).zfill(places + 1)
    rest = product[len(product) - places :].rstrip("0")
    whole = product[: len(product) - places]
    return f"{whole}.{rest}" if rest else whole


def _without_thousands(text: str) -> str:
    # Within brackets a comma separates: (1,200) is a pair, 1,200 is a number.
    parts: list[str] = []
    at = depth = 0
    for match in _BRACKET.finditer(text):
        part = text[at : match.start()]
        parts += [part if depth else _THOUSANDS.sub(_joined, part), match[0]]
        at, depth = match.end(), max(0, depth + (1 if match[0] in _OPENS else -1))
    return "".join([*parts, text[at:] if depth else _THOUSANDS.sub(_joined, text[at:])])


def _joined(match: re.Match[str]) -> str:
    return match[0].replace(",", "")


def _number(text: str) -> Sequence[Token]:
    digits = text if text.isdecimal() else re.sub(r"[^0-9.]", "", text)
    if len(digits) > MOST_DIGITS:
        raise Unreadable("too many digits")
    return (("num", digits),)


def _repeat(text: str) -> Sequence[Token]:
    first, period = re.split(r"[\\\\(]", text, maxsplit=1)
    return (("repeat", f"{first}{{{re.sub('[^0-9]', '', period)}"),)


def _text(text: str) -> Sequence[Token]:
    content = text[text.index("{") + 1 : -1] if text.endswith("}") else text[-1]
    return _content(" ".join(content.replace("\\", " ").replace("~", " ").split()))


@lru_cache(maxsize=1024)
def _content(content: str) -> Sequence[Token]:
    stripped = content.strip(" .,;:()")
    if not stripped or stripped.lower() in ("and", "or"):
        sign = "or" if stripped.lower() == "or" else ","
        return (("op", sign),) if stripped or "," in content else ()
    if stripped in _WORDS:
        return (_WORDS[stripped],)
    if _NUMERIC.fullmatch(stripped):
        signed = (("op", stripped[0]),) if stripped[0] in "+-" else ()
        return (*signed, ("num", stripped.lstrip("+-")))
    if len(stripped) == 1 and stripped.isalpha():
        return (("name", stripped),)
    if stripped == "%":
        return (("op", "%"),)
    return (("text", stripped.lower()),)


@lru_cache(maxsize=1024)
def _run(run: str) -> Sequence[Token]:
    if len(run) == 1:
        return (("name", run),)
    if run in _WORDS:
        return (_WORDS[run],)
    if run[:-1] in ("sin", "cos", "tan", "ln", "log"):
        return (_WORDS[run[:-1]], ("name", run[-1]))
    if len(run) == 2 and run.isupper():  # AB is a segment, and so is NO
        return (("name", run),)
    if run.lower() in _KNOWN or (len(run) > 3 and not run.isupper()) or run.istitle():
        return (("text", run.lower()),)
    # AB is a segment, not A times B: it equals only itself.
    return (("name", run),) if run.isupper() else tuple(("name", letter) for letter in run)


def _command(text: str) -> Sequence[Token]:
    return (_COMMANDS.get(text[1:], ("cmd", text[1:])),)


def _matrix(text: str) -> Sequence[Token]:
    name = text[text.index("{") + 1 : -1].rstrip("*")
    return (("begin" if text.startswith("\\begin") else "close", name),)


def _other(text: str) -> Sequence[Token]:
    if text in _SIGNS:
        return (("op", _SIGNS[text]),)
    if text == "°":
        return (("op", "°"),)
    if text in _CHARACTERS:
        return (_CHARACTERS[text],)
    raise Unreadable(f"the character {text!a}")


_READ: dict[str, Callable[[str], Sequence[Token]]] = {
    "repeat": _repeat,
    "sci": lambda text: (("sci", text.lower()),),
    "num": _number,
    "matrix": _matrix,
    "text": _text,
    "raised": lambda text: (("op", "°" if "circ" in text else "'"),),
    "cmd": _command,
    "run": _run,
    "super": lambda text: (("op", "^"), ("num", text.translate(_SUPERSCRIPTS))),
    "op": lambda text: (("op", _SIGNS.get(text, text)),),
    "other": _other,
}
