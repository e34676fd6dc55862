r"""Repeating decimals in other forms than `0.1\overline{6}`: `0.1(6)`, `0.1666...`, `0.\dot{3}`."""

import re

_LONGEST = 120
_AROUND = r"\s*\$?\s*(?P<before>(?:[A-Za-z]\s*=\s*)?[-+]?)\s*"
_BEHIND = r"\s*(?P<behind>(?:\\?%)?)[\s.$]*"
_BRACKETED = re.compile(
    rf"{_AROUND}(?P<first>\d*\.\d*)(?:\\left)?\((?P<period>\d+)(?:\\right)?\){_BEHIND}", re.ASCII
)
_GOING_ON = re.compile(
    rf"{_AROUND}(?P<first>\d*\.)(?P<digits>\d{{3,}})\s*(?:\.\.\.|\\[cl]?dots\s*){_BEHIND}", re.ASCII
)
_PERIOD = re.compile(r"(\d*?)(?:(\d)\2{2,}|(\d{2,}?)\3+)", re.ASCII)


def repeating(text: str) -> str:
    r"""Return a decimal whose period is in brackets, or written out, with a line over the period.

    The digits before `...` must repeat: one of them three times, several of them twice. A decimal
    before a bracket is a factor elsewhere: `0.5(3)` is a repeating decimal only if it is all.

    >>> repeating("0.1(6)"), repeating("x = 0.1666..."), repeating(r"-1.2323\ldots")
    ('0.1\\overline{6}', 'x = 0.1\\overline{6}', '-1.\\overline{23}')
    >>> repeating("3.14159..."), repeating("0.5(3) + 1")
    ('3.14159...', '0.5(3) + 1')
    """
    if "." not in text or len(text) > _LONGEST:
        return text
    if match := _BRACKETED.fullmatch(text):
        first, period = match["first"], match["period"]
    elif (match := _GOING_ON.fullmatch(text)) and (found := _PERIOD.fullmatch(match["digits"])):
        first, period = match["first"] + found[1], found[2] or found[3]
    else:
        return text
    return rf"{match['before']}{first or '0.'}\overline{{{period}}}{match['behind']}"
