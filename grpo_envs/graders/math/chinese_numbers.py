"""Numbers in Chinese characters: `in_arabic("十二个") == "12个"`."""

import re

from grpo_envs.graders.math.units import unit_of

_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_SIZES = {"十": 10, "百": 100, "千": 1000}
_LARGE = {"万": 10**4, "亿": 10**8}
_WHOLE = f"[{''.join({*_DIGITS, *_SIZES, *_LARGE})}]+"
_NUMBER = re.compile(
    rf"(?P<sign>负?)(?:(?P<below>{_WHOLE})分之(?P<above>{_WHOLE})"
    rf"|(?P<whole>{_WHOLE})(?:点(?P<decimals>[{''.join(_DIGITS)}]+))?)(?P<counted>.*)"
)
_MOST = 30


def in_arabic(text: str) -> str:
    r"""Return a number in Chinese characters as digits, and any other text unchanged.

    After the number there may only be a unit or a measure word.

    >>> in_arabic("十二个"), in_arabic("负三点五"), in_arabic("三分之二"), in_arabic("百分之五")
    ('12个', '-3.5', '\\frac{2}{3}', '5\\%')
    >>> in_arabic("第三"), in_arabic("一样"), in_arabic("三十二十")
    ('第三', '一样', '三十二十')
    """
    match = None if text.isascii() or len(text) > _MOST else _NUMBER.fullmatch(text)
    if match is None or (match["counted"] and unit_of(match["counted"]) is None):
        return text
    parts = {key: _value(match[key]) for key in ("below", "above", "whole") if match[key]}
    if match["below"] == "百":
        parts["below"] = 100
    if None in parts.values():
        return text
    sign = "-" if match["sign"] else ""
    if match["below"]:
        above, below = parts["above"], parts["below"]
        value = rf"{above}\%" if below == 100 else rf"\frac{{{above}}}{{{below}}}"
    else:
        decimals = "".join(str(_DIGITS[char]) for char in match["decimals"] or "")
        value = f"{parts['whole']}.{decimals}" if decimals else str(parts["whole"])
    return f"{sign}{value}{match['counted']}"


def _value(text: str) -> int | None:
    """Return the value of 三百零五 or, digit by digit, 二〇二四; None if it is not well formed."""
    if len(text) > 1 and all(char in _DIGITS for char in text):
        return int("".join(str(_DIGITS[char]) for char in text)) if "两" not in text else None
    total, rest = 0, text
    for name, size in reversed(_LARGE.items()):
        before, found, after = rest.partition(name)
        if found:
            many = _below_ten_thousand(before)
            if many is None:
                return None
            total, rest = total + many * size, after
    few = _below_ten_thousand(rest) if rest or not total else 0
    return None if few is None else total + few


def _below_ten_thousand(text: str) -> int | None:
    total, last, digit = 0, 10**4, None
    for place, char in enumerate(text):
        if char in _SIZES:
            size = _SIZES[char]
            if size >= last or (digit is None and (size > 10 or place)):
                return None
            total, last, digit = total + size * (1 if digit is None else digit), size, None
        elif char in _DIGITS and digit in (None, 0):
            digit = _DIGITS[char]
        else:
            return None
    if not text:
        return None
    return total + (digit or 0)
