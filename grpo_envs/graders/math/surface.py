r"""Normalisation of answers: text that does not change the value is removed or rewritten.

It applies to golds and answers: Unicode, double escapes, delimiters, fonts and colours, quotes,
outer signs, currency before the amount, ordinals, spaces between thousands.

Debatable cases are decided here, and listed in envs/README.md. Spaces and apostrophes join
thousands (`6 000`, `6'000` are 6,000) if the text has no other digits; a list (`1 200, 3`) is
unchanged. A point is always a decimal point. An ordinal is its number. An amount without a
currency equals the same amount in any currency; two currencies differ.
"""

import re
from functools import lru_cache

from grpo_envs.graders.math.characters import ascii_of, unescaped
from grpo_envs.graders.math.number_words import in_digits
from grpo_envs.graders.math.repeating import repeating
from grpo_envs.graders.math.units import FONTS, unit_of

_LONGEST = 4000
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)+(?!\\)(?:([A-Za-z]{2,})|[({\[%$,])")
_RUNS = re.compile(r"\\+")
_TWICE_TEXT = """
    frac dfrac tfrac sqrt pi text textbf mathrm mathbf mathbb left right times cdot boxed begin
    end infty in cup cap pm le leq ge geq ne neq approx alpha beta gamma theta lambda circ sum
    int log ln sin cos tan binom overline vec hat to mid quad qquad
"""
_TWICE = frozenset(_TWICE_TEXT.split())
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]")
_DROPPED = re.compile(
    r"\\[hv]?phantom\s*\{[^{}]*\}|\\(?:tag|label)\*?\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}"
    r"|\\f?color(?:box)?\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}(?:\s*\{[^{}]*\}(?=\s*\{))?"
    r"|\\textcolor\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}|\\bbox\s*(?:\[[^\]]*\])?"
    r"|\\(?:begin|end)\s*\{(?:equation|center|displaymath|math|multline)\*?\}"
    r"|\\(?:under(?:line|brace)|overbrace|emph|ensuremath|boxed|fbox|framebox|mathord|mathop|mathinner|smash|tiny|large"
    r"|scriptsize|footnotesize|small|normalsize|Large|LARGE|huge|Huge|bf|it|em|bfseries|itshape"
    r"|mathstrut|strut|noindent|centering|boldmath|displaystyle|textstyle|scriptstyle|nonumber|notag|tt|sf"
    r"|hfill|enspace|enskip|relax|mathit|mathsf|mathtt|mathnormal|uline|xspace|protect)(?![A-Za-z])"
)
_ALIGNED = re.compile(
    r"\\(?:begin|end)\s*\{(?:aligned|align|gathered|gather|array)\*?\}(?:\{[lcr]\})?"
)
_BOLD = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|pmb)(?![A-Za-z])\s*(?:\{\s*([^{}]*)\}|([A-Za-z0-9]))"
)
_BOLD_COMMAND = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb)(?![A-Za-z])\s*")
_NAMES = re.compile(r"\\[A-Za-z]+|([A-Za-z])")
_TEXT = re.compile(
    rf"(?<![_^])\\(?:{FONTS})(?![A-Za-z])\s*\{{\s*([-+(]?\s*(?:\\?\$|[€£¥₹])?\s*[-+]?\.?\d[^{{}}]*)\}}"
)
_AND = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*\{{([^{{}}]+?)\s+(and|or)\s*\}}")
_THEN = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*\{{\s*(and|or)\s+([^{{}}]+?)\}}")
_ROMAN = re.compile(r"\{\s*\\rm\s+([^{}\\]*)\}")
_ROMAN_VALUE = re.compile(r"\\rm(?=\s*[-+(]?\s*\d)")  # \rm 57
_ROMAN_END = re.compile(r"\\rm\s+([A-Za-z][A-Za-z^/]*\d?)\s*\Z")  # 57 \rm cm
_BOXES = re.compile(r"\}\s*\\(?:q?quad|;)\s*(?=\\boxed)")  # \boxed{2}\quad\boxed{6}
_UNRAISED = re.compile(
    rf"((?:\d|/|\\(?:{FONTS})\s*\{{)[\s~]*(?:\\[ ,])?(?:[kcdm]?m|ft|yd|mi)|/s)([23])(?![\w.^])"
)  # cm2
_BRACED_FONT = re.compile(rf"(?<=[\d\s,;!])\{{\s*(\\(?:{FONTS})\s*\{{[^{{}}]*\}})\s*\}}")
_NESTED = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*(?=\{{[^{{}}]*\{{)")
_SUPERSCRIPT = re.compile(r"\\textsuperscript\s*\{")
_DOLLAR = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*\{{\s*\\?\$\s*\}}")
_INNER_POWER = re.compile(rf"(\\(?:{FONTS})\s*\{{[^{{}}]*)\^\{{\s*(-?\d)\s*\}}(?=[^{{}}]*\}})")
_UNIT = rf"(?:\\(?:{FONTS})\s*\{{[^{{}}]*\}}|[A-Za-z]+)(?:\s*\^\s*\{{?-?\d\}}?)?"
_UNIT_FRACTION = re.compile(  # 8 \frac{km}{h}
    rf"(?<=[\d}}])(?:[\s~]|\\[,;:! ])*\\[dtc]?frac\s*"
    rf"\{{\s*({_UNIT})\s*\}}\s*\{{\s*({_UNIT})\s*\}}(?!\s*[\^_!(])"
)
_MAY_BE_UNIT_FRACTION = re.compile(r"frac\s*\{\s*[A-Za-z\\]")
_FONT = re.compile(rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}")
_OVER = re.compile(r"\{([^{}]*?)\\over(?![A-Za-z])([^{}]*)\}")
_GENFRAC = re.compile(r"\\genfrac\s*(?:\{[^{}]*\}\s*){4}")
_SI = re.compile(r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}\\]*)\}")
_TEMPERATURE = re.compile(
    rf"(?:\^\s*\{{?\s*\\circ\s*\}}?|°|\^\s*°|\\degree)\s*\\?[ ,]?\s*"
    rf"(?:\\(?:{FONTS})\s*\{{\s*([CFK])\s*\}}|\\(?:rm)\s+([CFK])|([CFK])(?![A-Za-z]))"
)
_CURRENCIES = {
    **{"€": "€", "£": "£", "¥": "¥", "₹": "₹", "₽": "₽", "\\pounds": "£", "\\euro": "€"},
    **{"USD": "USD", "US$": "USD", "US\\$": "USD", "EUR": "EUR", "GBP": "GBP", "RMB": "RMB"},
    **{"Rs.": "Rs", "Rs": "Rs", "INR": "INR", "CNY": "CNY", "JPY": "JPY", "\\yen": "¥"},
    **{"CAD": "CAD", "AUD": "AUD", "CHF": "CHF"},
}
_SYMBOLS = "|".join(re.escape(name) for name in sorted(_CURRENCIES, key=len, reverse=True))
_FORMULA = re.compile(r"\A\s*\$([^$]*[\d}])\$(?=\s*[A-Za-z(])")  # $62,500$ dollars
_AMOUNT = re.compile(
    rf"(?<![\w\\])(-?)\s*(?:\\(?:{FONTS})\s*\{{\s*)?({_SYMBOLS})(?![a-z])(?:\s*\}})?"
    r"[\s~]*(?:\\[ ,])?\s*\$?(-?\d[\d,]*(?:\.\d+)?(?: ?(?:hundred|thousand|[mbtr]+illion))?)"
    r"(?:/-)?(?! ?[A-Za-z](?![A-Za-z]))"
)
_ENDINGS = {"1": "st", "2": "nd", "3": "rd"}
_SLASHED = re.compile(r"(?<=\d)/-(?!\d)")
_ORDINAL = re.compile(
    rf"(?<![\d.,/])(\d+)(?:(?:st|nd|rd|th)(?![A-Za-z])|\^?\s*\{{?\s*\\(?:{FONTS})\s*\{{\s*(?:st|nd|rd|th)\s*\}}\s*\}}?"
    r"|\^\s*\{\s*(?:st|nd|rd|th)\s*\})(?:\s+(?:term|day|place|position|row|floor|year|month|grade|week"
    r"|century|person|number|digit|hour|element|student|item|one)(?![A-Za-z]))?",
)
_GROUP = r"(?:[ ~]|\\[ ,;:!]|\{\\,\}|\{ \}|')"
_GROUPS = re.compile(rf"(?<![\d.,/^_\w])([1-9]\d{{0,2}}(?:{_GROUP}\d{{3}})+)(?![\d/,^])", re.ASCII)
_GROUPED = re.compile(_GROUP)
_POINT = re.compile(r"(?<=\d)(?<!\.\d)\.(?=\s*[/*+\-^)=}])")
_MARKUP = re.compile(r"</?(?:b|i|u|p|strong|em|span|code|math|sub|br|div)\s*/?>", re.IGNORECASE)
_BEHIND = re.compile(
    r"(?:[\s.,;:~$*`=]|\\\\|\\(?:[ ,;:!]|q?quad|newline|square|blacksquare|qed|checkmark))$"
)
_BEFORE = re.compile(
    r"(?:[\s~$`:：•#*]|={1,2}(?!=)|≈|→|\\[,;:! ]"
    r"|\\(?:approx|quad|qquad|simeq|sim|therefore|Rightarrow|implies)"
    r"(?![A-Za-z]))+"
)
_NO_SOLUTION = tuple(
    (words, r"\text{no solution}") for words in ("无实数解", "无实数根", "方程无解", "无解")
)


# A quick test for features that only some texts have, before the slow patterns.
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_TOUCHED_TEXT = """
    \\ ( ) [ ] phantom hphantom vphantom tag label hspace vspace color fcolor colorbox fcolorbox
    textcolor bbox begin underline underbrace overbrace emph ensuremath boxed fbox framebox mathord
    mathop mathinner smash tiny large scriptsize footnotesize small normalsize Large LARGE huge Huge
    bf it em
    bfseries itshape mathstrut strut noindent centering boldmath displaystyle textstyle scriptstyle
    nonumber notag hfill enspace enskip relax mathit mathsf mathtt mathnormal uline xspace protect
    tt sf mathbf boldsymbol bm pmb over genfrac SI qty text textbf textit textrm textnormal textsf
    texttt mbox hbox mathrm rm operatorname textsuperscript
"""
_TOUCHED = frozenset(_TOUCHED_TEXT.split())
_MAY_BE_AMOUNT = re.compile(r"[€£¥₹₽]|[A-Z]{2}|Rs|\\(?:pounds|euro|yen)")
_UNRAISED_ENDS = frozenset("23.$ ")
_MAY_BE_ORDINAL = re.compile(r"st|nd|rd|th")
_MAY_BE_GROUPED = re.compile(r"[0-9](?:[ ~\\'{])")
_BEGINNINGS = frozenset(" \t\n\r\f\v~$*`=\\:：•#≈→\"'{")
_TRIMMED_ENDS = frozenset(" \t\n\r\f\v.,;:~$*`=\\!dek")


@lru_cache(maxsize=4096)
def surface(text: str) -> str:
    r"""Return the normalised `text`, with the same value.

    >>> surface(r"\textcolor{blue}{57}"), surface("6 000"), surface("21st")
    ('57', '6000', '21')
    """
    if len(text) > _LONGEST:
        return text
    text = repeating(text)
    if not (text.isascii() and text.isprintable()):
        text = ascii_of(unescaped(text))
        for words, empty in _NO_SOLUTION:
            text = text.replace(words, empty)
    if "\\" in text:
        text = _commands(text)
    if "frac" in text and _MAY_BE_UNIT_FRACTION.search(text):
        text = _UNIT_FRACTION.sub(_unit_fraction, text)
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    if text.lstrip()[:1] == "$":
        text = _FORMULA.sub(r"\1 ", text)
    if text[-1:] in _UNRAISED_ENDS or "}" in text:
        text = _UNRAISED.sub(r"\1^\2", text)
    trimmed = _trimmed(text).replace("per cent", "percent")
    text = _amounts(trimmed)
    if "circ" in text or "°" in text or "degree" in text:
        text = _TEMPERATURE.sub(
            lambda match: rf"\text{{ °{match[1] or match[2] or match[3]}}}", text
        )
    return in_digits(_digits(text if text == trimmed else _trimmed(text)))


def _commands(text: str) -> str:
    """Remove double escapes, delimiters, fonts, colours and other layout."""
    if _TOUCHED.isdisjoint(_COMMAND.findall(text)):
        return text
    if "\\\\" in text:
        text = _once(text)
    if "quad" in text or "\\;" in text:
        text = _BOXES.sub("},", text)
    if "\\rm" in text:
        text = _ROMAN_END.sub(r"\\mathrm{\1}", _ROMAN_VALUE.sub("", text))
    text = _DELIMITERS.sub(" ", text.replace("\\text{,}", "{,}"))
    text = _DROPPED.sub(" ", text)
    if "&" not in text and "\\\\" not in text:
        text = _ALIGNED.sub(" ", text)
    text = _unbold(text)
    text = _AND.sub(r"\\text{\1}\\text{ \2 }", _THEN.sub(r"\\text{ \1 }\\text{\2}", text))
    text = _SUPERSCRIPT.sub("^{", _BRACED_FONT.sub(r"\1", _ROMAN.sub(r"\\mathrm{\1}", text)))
    text = _NESTED.sub("", _INNER_POWER.sub(r"\1^\2", text))
    text = _DOLLAR.sub("", _TEXT.sub(r" \1 ", text))
    if "\\over" in text:
        text = _OVER.sub(r"\\frac{\1}{\2}", text)
        above, over, below = text.partition("\\over ")
        text = rf"\frac{{{above}}}{{{below}}}" if over and "{" not in text else text
    return _SI.sub(r"\1\\text{ \2}", _GENFRAC.sub(r"\\frac", text))


def _once(text: str) -> str:
    r"""Return `text` with `\\frac` as `\frac`, if every backslash is doubled."""
    if any(len(run) % 2 for run in _RUNS.findall(text)):
        return text
    names = [match[1] for match in _ESCAPED.finditer(text)]
    if not any(name is None or name in _TWICE for name in names):
        return text
    return _RUNS.sub(lambda match: match[0][: len(match[0]) // 2], text)


def _unbold(text: str) -> str:
    """Remove bold, except from letters that also occur without it."""
    if not any(name in text for name in ("mathbf", "boldsymbol", "\\bm", "\\pmb")):
        return text
    if not any(_NAMES.findall(text)):
        return _BOLD_COMMAND.sub("", text)
    outside = set(_NAMES.findall(_BOLD.sub(" ", text)))

    def plain(match: re.Match[str]) -> str:
        content = match[1] if match[1] is not None else match[2]
        return match[0] if outside & set(_NAMES.findall(content)) - {""} else f"{{{content}}}"

    return _BOLD.sub(plain, text)


def _unit_fraction(match: re.Match[str]) -> str:
    r"""Return `\frac{km}{h}` as ` km/h`, and a fraction of letters that are not units unchanged."""
    above, below = match.groups()
    flat = "/".join(_FONT.sub(r"\1", part) for part in (above, below))
    known = unit_of(re.sub(r"[{}\s]", "", flat)) is not None
    return f" {above}/{below}" if known or (above[0] == below[0] == "\\") else match[0]


def _amounts(text: str) -> str:
    """Return `text` with currencies after their amounts: €75 becomes 75 €."""
    if _MAY_BE_AMOUNT.search(text):
        text = _AMOUNT.sub(
            lambda match: rf"{match[1]}{match[3]}\text{{ {_CURRENCIES[match[2]]}}}", text
        )
    return _SLASHED.sub("", text) if "/-" in text else text


def _digits(text: str) -> str:
    """Return `text` with ordinals as numbers, and thousands without separators."""
    if "." in text:
        text = _POINT.sub("", text)
    plain = _ORDINAL.sub(_ordinal, text) if _MAY_BE_ORDINAL.search(text) else text
    if plain != text and not re.search(r"[A-Za-z]", re.sub(r"\b(?:and|or|the)\b", "", plain)):
        text = plain
    found = _GROUPS.search(text) if _MAY_BE_GROUPED.search(text) else None
    if found and not any(char.isdigit() for char in text[: found.start()]):
        rest = re.sub(r"^\.\d+|\^\{?\d\}?", "", text[found.end() :])
        if not any(char.isdigit() for char in rest):
            return _GROUPS.sub(lambda match: _GROUPED.sub("", match[0]), text)
    return text


def _ordinal(match: re.Match[str]) -> str:
    """Return the number of 21st; 21nd is not an ordinal, and 2nd may be a product elsewhere."""
    digits = match[1]
    ending = "th" if digits[-2:] in ("11", "12", "13") else _ENDINGS.get(digits[-1], "th")
    return digits if ending in match[0] else match[0]


def _trimmed(text: str) -> str:
    """Remove spaces, dollars, emphasis, quotes, a sign and braces around a value."""
    before = None
    while before != text and (text[:1] in _BEGINNINGS or text[-1:] in _TRIMMED_ENDS):
        before = text
        text = text.strip()
        if text[:1] in _BEGINNINGS and (match := _BEFORE.match(text)):
            text = text[match.end() :]
        behind = len(text)
        while text[behind - 1 : behind] in _TRIMMED_ENDS and (
            found := _BEHIND.search(text, max(0, behind - 12), behind)
        ):
            if text[:behind].endswith(("p.m.", "a.m.")) or (
                text[behind - 2 : behind - 1] == "\\" and text[behind - 1] in "$"
            ):
                break
            behind = found.start()
        text = text[:behind]
        if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 2:
            text = text[1:-1]
        if text[:1] == "{" and text[-1:] == "}" and "{" not in text[1:]:
            text = text[1:-1]
    return text
