"""Durations of several units: `2 h 30 min` is 2.5 hours or 150 minutes, but not a bare number."""

import re
from fractions import Fraction
from functools import lru_cache

from grpo_envs.graders.math.units import FONTS

_LONGEST = 80
_FONT = re.compile(rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}")
_SPACE = re.compile(r"[\s~]+|\\[ ,;:!]|\\q?quad(?![A-Za-z])")
_PART = r"(\d+(?:\.\d+)?) ?(days?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\.?"
_PARTS = re.compile(_PART)
_DURATION = re.compile(rf"{_PART}(?:,? ?(?:and )?{_PART})*")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def same_duration(gold: str, answer: str) -> bool | None:
    """Return whether two durations are the same; None if neither has several units.

    >>> same_duration("2.5 hours", "2 h 30 min"), same_duration("150", "2 h 30 min")
    (True, None)
    """
    if max(len(gold), len(answer)) > _LONGEST:
        return None
    wanted, given = _duration(gold), _duration(answer)
    if wanted is None or given is None or not (wanted[1] or given[1]):
        return None
    return wanted[0] == given[0]


def is_duration(gold: str) -> bool:
    """Return whether `gold` is a duration of several units."""
    found = _duration(gold) if len(gold) <= _LONGEST else None
    return found is not None and found[1]


@lru_cache(maxsize=1024)
def _duration(text: str) -> tuple[Fraction, bool] | None:
    """Return the seconds, and whether the duration has several units."""
    if not text[:1].isdigit():
        return None
    plain = " ".join(_SPACE.sub(" ", _FONT.sub(r" \1 ", text)).split()).rstrip(".")
    if not _DURATION.fullmatch(plain):
        return None
    parts = [(Fraction(number), unit[0]) for number, unit in _PARTS.findall(plain)]
    units = [_SECONDS[unit] for _, unit in parts]
    several = len(parts) > 1
    if not several and plain.endswith("m"):  # metres
        return None
    for (number, _), above, size in zip(parts[1:], units, units[1:], strict=False):
        if number * size >= above:  # 2 h 75 min, 30 min 2 h
            return None
    if any(number.denominator != 1 for number, _ in parts[:-1]):
        return None
    return sum((n * size for (n, _), size in zip(parts, units, strict=True)), Fraction(0)), several
