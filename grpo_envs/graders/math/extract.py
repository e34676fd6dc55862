r"""Take the final answer out of a completion, in one pass over the text.

The last `\boxed{...}` or `<answer>...</answer>` is the answer; without these, the last `#### ...`
or "final answer". Without any of them, the lenient mode takes the last number.

Boxes that are separated only by commas, `and` or `or` are one answer: all of them count. An empty
box after words is not an answer, nor is a box that a program in a fence prints.
"""

import re
from collections import deque

from grpo_envs.graders.math.numbers import parse_number
from grpo_envs.graders.text import after_think

_TAIL = 1 << 15  # characters that are searched; the answer is at the end
_LONGEST = 2000
_MOST_BOXES = 50
_LONGEST_JOIN = 40
_MOST_ANCHORS = 5
_LONGEST_SIGN = 20
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*(?:(\{)|(-?[0-9]+(?:\.[0-9]+)?))")
_TAG = re.compile(r"<\s*answer\s*>", re.IGNORECASE)
_END_TAG = re.compile(r"<\s*/\s*answer\s*>", re.IGNORECASE)
# Text between two boxes of one answer, including the name of the second one.
_JOIN = re.compile(
    r"[\s$]*(?:\\[)\]])?[\s$]*(?:[,;、，；]|,?\s*(?:and|or)(?![A-Za-z])|,?\s*\\text\{\s*(?:and|or)\s*\}"
    r"|\\q?quad|\\;|[或和])+[\s$]*(?:\\[(\[])?[\s$]*(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?"
)
# Not the dash of a list or a sentence before a box.
_MINUS = re.compile(r"(?:(?<![-\w])|(?<=[=($\[]))-\Z|(?:[=($\[]|\\approx)\s*-\s*\Z")
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_PRINTED = re.compile(r"[\"'][^\n]*\Z")
_ANCHOR = re.compile(r"final answer|\u6700\u7ec8\u7b54\u6848", re.IGNORECASE)
_FINAL = re.compile(
    r"(?:final answer|\u6700\u7ec8\u7b54\u6848)s?[ \t]*(?:</?\w+>|[}*_])*[ \t]*"
    r"(?:(?:is|are|[=:\u2014\u662f\u4e3a\uff1a]|-(?= ))[ \t]*(?:</?\w+>|[}*_]+(?!\d))*[ \t]*)*"
    r"(?:\n\s*)?([^\n]{1,200})",
    re.IGNORECASE,
)
# Sentences after the answer that do not retract it.
_SENTENCE = re.compile(r"(?<=[.!$*])\s+(?=[A-Z])")
_TAKES_BACK = re.compile(
    r"[0-9]|\b(?:no|not|wait|wrong|but|actually|or|sorry|incorrect|however|instead|mistake)\b|n't",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"[0-9]")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace does not count
_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uff0c\uff1a-\uff65]")
# From the sign (not a hyphen between two words) to the last digit: (-4). is -4, **10** is 10.
_CORE = re.compile(r"(?:(?<![\w)+-])[+\-\u2212])?(?:(?<!\.)\.)?[0-9](?:\S*[0-9])?%?")


def extract(completion: str, *, lenient: bool = False) -> str | None:
    r"""Return the text of the final answer, or None if there is none.

    Only the text after the last `</think>` counts; after a `<think>` that is not closed there is no
    answer. A last box or answer tag that is not closed is not an answer.

    Args:
        completion: What the model wrote.
        lenient: Whether the last number counts if there is no anchor at all.

    >>> extract(r"<think>\boxed{1}</think> so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract("<think>3+4=7</think><answer>7</answer>")
    '7'
    >>> extract(r"\boxed{2} and \boxed{6}")
    '\\boxed{2} and \\boxed{6}'
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
    """Return the position and the content of the last box, with the boxes joined to it."""
    start = text.rfind("\\boxed{")
    if start >= 0 and text.find("box") == start + 1 == text.rfind("box") and "```" not in text:
        end = balanced(text, start + len("\\boxed"))  # the only box
        content = text[start + len("\\boxed{") : end] if end > 0 else None
        return start, _signed(text, start, content)
    if "box" not in text:
        return -1, None
    fences = [found.start() for found in _FENCE.finditer(text)] if "```" in text else []
    first = None
    before = len(text)
    for _ in range(_MOST_BOXES):
        start = max(text.rfind(name, 0, before) for name in ("\\boxed", "\\fbox", "\\framebox"))
        match = _BOX.match(text, start) if start >= 0 else None
        if start < 0:
            break
        before = start
        if match is None or _is_printed(text, start, fences):
            first = first or (start, None)
            continue
        end = balanced(text, match.start(1)) if match[1] else match.end()
        content = match[2] or (text[match.end() : end] if end > 0 else None)
        if content is not None and not content.strip() and not _adjacent(text, start):
            first = first or (start, None)
            continue
        whole = content if content is None else _joined(text, start, end, content)
        return start, whole if whole != content else _signed(text, start, content)
    return first or (-1, None)


def _signed(text: str, start: int, content: str | None) -> str | None:
    r"""Return the content of a box with the minus before it: -\boxed{4} is -4."""
    negative = content and _MINUS.search(text[max(0, start - _LONGEST_SIGN) : start])
    return f"-({content})" if negative else content


def _adjacent(text: str, start: int) -> bool:
    """Return whether another box ends right before this one."""
    return text[:start].rstrip()[-1:] == "}"


def _is_printed(text: str, start: int, fences: list[int]) -> bool:
    """Return whether a box is in a string of a program: within a fence, after a quote."""
    if sum(fence < start for fence in fences) % 2 == 0:
        return False
    line = text.rfind("\n", 0, start) + 1
    return bool(_PRINTED.search(text[max(line, start - 200) : start]))


def _joined(text: str, start: int, end: int, content: str) -> str:
    """Return the content of a box, or all boxes that form one answer with it.

    A box that only repeats the same content is not a second answer.
    """
    first = start
    other = False
    for _ in range(_MOST_BOXES):
        before = text.rfind("\\boxed{", 0, first)
        closing = balanced(text, before + len("\\boxed")) if before >= 0 else -1
        near = 0 < closing < first <= closing + _LONGEST_JOIN
        if not near or not _JOIN.fullmatch(text, closing + 1, first):
            break
        other = other or "=" in text[closing:first]  # x = and y =
        first = before
        other = other or text[before + len("\\boxed{") : closing].strip() != content.strip()
    return text[first : end + 1] if other else content


def _tagged(text: str) -> tuple[int, str | None]:
    if "nswer" not in text and "NSWER" not in text:
        return -1, None
    openings = deque(_TAG.finditer(text), maxlen=1)
    if not openings:
        return -1, None
    opening = openings[0]
    closing = _END_TAG.search(text, opening.end())
    return opening.start(), text[opening.end() : closing.start()] if closing else None


def _hashed(text: str) -> tuple[int, str | None]:
    start = text.rfind("####")
    return start, text[start + 4 :].split("\n", 1)[0] if start >= 0 else None


def _final(text: str) -> tuple[int, str | None]:
    """Return the position of "final answer", and the text after it, on its line or the next."""
    anchors = [found.start() for found in _ANCHOR.finditer(text)]
    for start in anchors[: -_MOST_ANCHORS - 1 : -1]:
        found = _FINAL.match(text, start)
        if found and any(char.isalnum() for char in found[1]):
            return start, _first_sentence(found[1])
    return -1, None


def _first_sentence(text: str) -> str:
    """Return the first sentence of `text`; all of it if a later sentence may retract the answer."""
    parts = _SENTENCE.split(text, maxsplit=1)
    return text if len(parts) == 1 or _TAKES_BACK.search(parts[1]) else parts[0]


def _last_number(text: str) -> str | None:
    """Return the number in `text`, or in its last word with a digit.

    Only that word counts: if it is `2^10`, `7-8` or `1,2,3`, there is no number. Chinese has no
    spaces between words, so its letters and signs separate words here.
    """
    if parse_number(text) is not None:
        return text.strip()
    spaced = text if text.isascii() else _CHINESE.sub(" ", text)
    word = next((word for word in reversed(spaced.split()) if _DIGIT.search(word)), "")
    found = _CORE.search(word.rpartition("=")[2])
    return found[0] if found and parse_number(found[0]) is not None else None
