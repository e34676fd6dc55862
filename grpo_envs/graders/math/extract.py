r"""Take the final answer out of a completion, in one pass over the text.

Anchors, the last one wins: `\boxed{...}` and `<answer>...</answer>`; where there is neither,
`#### ...` and "final answer is". The lenient mode then takes the last number.
"""

import re

from grpo_envs.graders.math.numbers import parse_number
from grpo_envs.graders.text import after_think

_TAIL = 1 << 15  # characters that are looked at; an answer stands at the end
_LONGEST = 2000
_FINAL = re.compile(r"final answer(?: is)?[ \t]*:?[ \t]*([^\n]{1,200})", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace opens and closes nothing
# From the sign (a hyphen between two words is none) to the last digit: (-4). is -4, **10** is 10.
_CORE = re.compile(r"(?:(?<![\w)+-])[+\-\u2212])?(?:(?<!\.)\.)?[0-9](?:\S*[0-9])?%?")


def extract(completion: str, *, lenient: bool = False) -> str | None:
    r"""Return the text of the final answer, or None where there is none.

    Only what follows the last `</think>` counts; a `<think>` that is never closed has no answer
    after it. A last box or answer tag that is not closed is no answer.

    Args:
        completion: What the model wrote.
        lenient: Whether the last number counts where there is no anchor at all.

    >>> extract(r"<think>\boxed{1}</think> so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract("<think>3+4=7</think><answer>7</answer>")
    '7'
    >>> extract("it could be 7"), extract("it could be 7", lenient=True)
    (None, '7')
    """
    rest = after_think(completion)
    if rest is None:
        return None
    text = rest[-_TAIL:]
    start, answer = max(_boxed(text), _tagged(text), key=lambda found: found[0])
    if start < 0:
        start, answer = max(_hashed(text), _final(text), key=lambda found: found[0])
    if start < 0 and lenient:
        return _last_number(rest)
    if start < 0 or answer is None or len(answer) > _LONGEST:
        return None
    return answer.strip() or None


def balanced(text: str, start: int) -> int:
    """Return the index of the brace that closes the one at `start`, or -1."""
    depth = 0
    for found in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    return -1


def _boxed(text: str) -> tuple[int, str | None]:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return -1, None
    brace = text.index("{", start)
    end = balanced(text, brace)
    return start, text[brace + 1 : end] if end > 0 else None


def _tagged(text: str) -> tuple[int, str | None]:
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    return start, text[start + len("<answer>") : end] if end > start >= 0 else None


def _hashed(text: str) -> tuple[int, str | None]:
    start = text.rfind("####")
    return start, text[start + 4 :].split("\n", 1)[0] if start >= 0 else None


def _final(text: str) -> tuple[int, str | None]:
    start = text.lower().rfind("final answer")
    found = _FINAL.match(text, start) if start >= 0 else None
    return (start, found[1]) if found else (-1, None)


def _last_number(text: str) -> str | None:
    """Return the number that `text` is or that its last word with a digit in it holds.

    Words are never passed over: where the last one holds `2^10`, `7-8` or `1,2,3`, there is none.
    """
    if parse_number(text) is not None:
        return text.strip()
    word = next((word for word in reversed(text.split()) if _DIGIT.search(word)), "")
    found = _CORE.search(word.rpartition("=")[2])
    return found[0] if found and parse_number(found[0]) is not None else None
