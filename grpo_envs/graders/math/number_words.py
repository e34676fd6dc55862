"""Numbers in words, from zero to ninety-nine: `seven` is 7, `twenty-one apples` are 21 apples.

Beyond that, `seven hundred` is read, but not `seven hundred and one`, which has many spellings.
After the number there must be a unit or counted things; a text with a word that changes the value
(`seven halves`) is unchanged. For Chinese characters see `chinese_numbers`.
"""

import re

from grpo_envs.graders.math.chinese_numbers import in_arabic
from grpo_envs.graders.math.unit_names import SCALES
from grpo_envs.graders.math.units import FONTS, unit_of

_TEENS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_TEENS.split())}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_DIGITS = "|".join(_TEENS.split()[1:10])
_NUMBER = re.compile(
    rf"(?:(negative|minus)\s+)?(?:({'|'.join(_TENS.split())})(?:[- ]({_DIGITS}))?"
    rf"|({'|'.join(sorted(_TEENS.split(), key=len, reverse=True))}))(?![A-Za-z-])\s*(.*)",
    re.IGNORECASE,
)
_IN_FONT = re.compile(rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}")
_PARTS = frozenset({"half", "halves", "quarter", "quarters", "third", "thirds", "dozen", "dozens"})
_LONGEST = 80


def in_digits(text: str) -> str:
    r"""Return a number in words as digits, and any other text unchanged.

    >>> in_digits("seven"), in_digits("minus forty-two"), in_digits(r"\text{Six apples}")
    ('7', '-42', '6 apples')
    >>> in_digits("seven halves"), in_digits("seven or eight"), in_digits("seventh")
    ('seven halves', 'seven or eight', 'seventh')
    """
    if not text.isascii():
        return in_arabic(text)
    if not (text[:1].isalpha() or text[:1] == "\\") or len(text) > _LONGEST:
        return text
    inside = _IN_FONT.fullmatch(text) if text[:1] == "\\" else None
    match = _NUMBER.fullmatch((inside[1] if inside else text).strip())
    if match is None:
        return text
    sign, tens, digit, teen, counted = match.groups()
    if counted and not _may_follow(counted.lower().split()):
        return text
    value = sum(_VALUES[word.lower()] for word in (tens, digit, teen) if word)
    return f"{'-' * bool(sign)}{value} {counted}".rstrip()


def is_word(text: str) -> bool:
    """Return whether a text is one Latin word that is no number.

    >>> is_word("wrong"), is_word("seven"), is_word("x"), is_word("三十")
    (True, False, False, False)
    """
    latin = text.isascii() and text.isalpha()
    return latin and len(text) > 1 and in_digits(text) == text


def _may_follow(words: list[str]) -> bool:
    """Return whether words are a unit or counted things, or begin with a scale: seven hundred."""
    return words[0] in SCALES or (unit_of(" ".join(words)) is not None and not _PARTS & {*words})
