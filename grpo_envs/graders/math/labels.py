r"""Answers that are read as text: choices, times of day, and golds that are not answers.

A choice is a capital letter, alone or before its text: `(D) 24`, `D: the second one`. Several
choices are compared in order: `ACD`, `A, C, D`.

A time has hours and minutes, `4:45 PM` or `16:45:00`.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from grpo_envs.graders.math.units import FONTS

_SENTINELS_TEXT = """proof; notfound; not found; not_found; not-found; n/a; #n/a; null; tbd; todo
    no answer; no answer found; answer not found; no final answer; no ground truth; not available
    not provided; not applicable; unverifiable; omitted; proof omitted; proof problem; see proof
    proof required; [not found]; <notfound>; 略; 证明略; proved; proven; qed; see solution
    see above; see explanation; not given; not specified; mcq; answers vary
    answers may vary; answers will vary; [no answer]; no answer given; 见解析; 无答案; 证明见解析"""
_SENTINELS = frozenset(re.split(r"[;\n]\s*", _SENTINELS_TEXT))
_MATHEMATICAL = re.compile(r"[0-9=+^*]")
_MAY_BE_LABEL = re.compile(r"[A-Z:]|[ap]\.?m|noon|midnight")
_FONT = re.compile(rf"\\(?:{FONTS}|mathbf|boldsymbol|bm)(?![A-Za-z])")
_AROUND = re.compile(r"[{}$*`\s~]+|\\[,;:! ]|\\q?quad(?![A-Za-z])")
_WORD = (
    r"(?i:(?:the )?(?:correct |right |final )?(?:answer|option|choice)s?(?: is| are)?[: ]*"
    r"|选项?|故选|答案[是为]?[：:]?)*"
)
_ALONE = re.compile(rf"{_WORD}[(\[]?([A-Z])[)\]]?[.,;:。]*", re.IGNORECASE)
_WITH_TEXT = re.compile(rf"{_WORD}(?:[(\[]([A-Z])[)\]]|([A-Z])(?:[):.\]、]| ?[–—] ?))[.: ]*(\S.*)")
_OTHER_LABEL = re.compile(
    r"^(?:or|and)\b|[(\[][A-Z][)\]]|\b[B-HJ-Z]\b|\bA\b(?! [a-z])|[A-Z][):](?!\w)"
)
_PHRASE = re.compile(r"[A-Za-z]{3,} [A-Za-z0-9 ,.-]+")
_LETTER = re.compile(r"[(\[]?([A-Z])[)\]]?\.?")
_BETWEEN = re.compile(r" ?(?:[,;&、]|\band\b) ?|(?<=\)) ?(?=\()")
_LEADING = re.compile(_WORD, re.IGNORECASE)
_RUN = re.compile(rf"{_WORD}([A-Z]{{2,8}})\.?")
_TIME = re.compile(
    r"(\d{1,2})(?::(\d\d)(?::(\d\d))?)?(?:(am|pm)|(?:h|hrs|hours|o'?clock)?)(?:inthe(morning|afternoon|evening))?"
)
_MIDDAY = re.compile(r"(?:12(?::00)?)?(noon|midnight)")
_LONGEST = 200
_MOST_LETTERS = 60
_HALF_DAY = 12 * 3600


def is_sentinel(gold: str) -> bool:
    """Return whether `gold` means that a row has no verifiable answer.

    >>> is_sentinel("Proof."), is_sentinel("notfound"), is_sentinel("no solution")
    (True, True, False)
    """
    if len(gold) > 60 or _MATHEMATICAL.search(gold):
        return False
    return _plain(gold).strip(" .()\"'").lower() in _SENTINELS


def same_label(gold: str, answer: str) -> bool | None:
    """Return whether two choices or two times are the same; None if the gold is neither.

    >>> same_label("D", "(D) 24"), same_label("D", "D or C"), same_label("16:45", "4:45 PM")
    (True, None, True)
    """
    if max(len(gold), len(answer)) > _LONGEST or not _MAY_BE_LABEL.search(gold):
        return None
    one, two = _plain(gold), _plain(answer)
    if one.lower() == two.lower() and _PHRASE.fullmatch(one):  # June 20, in any font
        return True
    wanted, given = _choice(one), _choice(two)
    if wanted and given and (wanted[1] or given[1]):
        texts = {wanted[1], given[1]} - {""}
        return True if wanted[0] == given[0] and len(texts) == 1 else None
    if wanted and given and wanted[0] == given[0]:
        return True
    letters = _letters(one), _letters(two)
    if len(letters[0]) > 1 and letters[0] == letters[1]:
        return True
    return _same_time(one, two)


def is_label(gold: str) -> bool:
    """Return whether `gold` is a choice with its text, or a time of day."""
    if len(gold) > _LONGEST:
        return False
    plain = _plain(gold)
    time = _time(plain)
    return bool((_choice(plain) or ("", ""))[1]) or (time is not None and time.certain)


def _plain(text: str) -> str:
    return _AROUND.sub(" ", _FONT.sub("", text)).strip()


@lru_cache(maxsize=1024)
def _choice(text: str) -> tuple[str, str] | None:
    """Return the letter and the text of a choice."""
    if match := _ALONE.fullmatch(text):
        return (match[1], "") if match[1].isupper() else None
    match = _WITH_TEXT.fullmatch(text)
    if match is None or _OTHER_LABEL.search(match[3]):
        return None
    return match[1] or match[2], " ".join(match[3].lower().split()).rstrip(".")


def _letters(text: str) -> str:
    """Return the letters of several choices in their order."""
    if match := _RUN.fullmatch(text):
        return match[1]
    if len(text) > _MOST_LETTERS:
        return ""
    rest = text[len((_LEADING.match(text) or [""])[0]) :]
    parts = [part for part in _BETWEEN.split(rest) if part]
    if len(parts) == 1 and rest.count(" ") > 1:
        parts = rest.split()
    found = [_LETTER.fullmatch(part) for part in parts]
    return "".join(match[1] if match else " " for match in found) if all(found) else ""


class _Time(NamedTuple):
    seconds: int
    certain: bool
    """Whether the text can only be a time: 4:45 may be a ratio."""
    meridiem: bool
    """Whether the text has AM or PM."""
    fixed: bool
    """Whether the half of the day is known."""


def _same_time(gold: str, answer: str) -> bool | None:
    """Compare times of day; 4:45 without AM or PM may be in either half of the day."""
    wanted, given = _time(gold), _time(answer)
    if wanted is None or given is None or not (wanted.certain or given.certain):
        return None
    if (wanted.meridiem or given.meridiem) and not (wanted.fixed and given.fixed):
        return wanted.seconds % _HALF_DAY == given.seconds % _HALF_DAY
    return wanted.seconds == given.seconds


@lru_cache(maxsize=1024)
def _time(text: str) -> _Time | None:
    compact = re.sub(r"[\s.]", "", text.lower())
    if match := _MIDDAY.fullmatch(compact):
        return _Time(_HALF_DAY if match[1] == "noon" else 0, True, True, True)
    match = _TIME.fullmatch(compact)
    if match is None or not (match[2] or match[4]):
        return None
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    half = match[4] or {"morning": "am", "afternoon": "pm", "evening": "pm"}.get(match[5] or "")
    if match[4] and match[5] and (match[4] == "am") != (match[5] == "morning"):
        return None
    meridiem = half is not None and 1 <= hours <= 12
    if match[4] and not meridiem:
        return None
    if minutes > 59 or seconds > 59 or hours > 24:
        return None
    fixed = meridiem or hours > 12 or hours == 0
    if meridiem:
        hours = hours % 12 + 12 * (half == "pm")
    total = hours * 3600 + minutes * 60 + seconds
    return _Time(total, bool(match[3]) or meridiem, meridiem, fixed)
