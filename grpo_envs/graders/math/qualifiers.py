r"""Words and conditions after an answer that declare its letters.

`3^{n-1} \text{ where } n \ge 1`, `k\pi, k \in \mathbb{Z}`, `3x + c \text{ for any } c`.
A condition on the answer itself, `5 \text{ if } x > 0`, is not a qualifier.
"""

import re
from collections.abc import Sequence

from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.tokens import Token

_END: Token = ("end", "")
_COMMA: Token = ("op", ",")
_OPENING = re.compile(r"(?:where|for|with|any|all|every|each|some|here|[a-z] (?:is|are|be)\b)")
_VOCABULARY = re.compile(
    r"(?:where|for|with|here|is|are|be|being|an?|any|all|every|each|some|in|the|set|of|integers?"
    r"|positive|natural|whole|real|numbers?|arbitrary|constants?|non-?negative|parameter|values?)"
)
_DOMAINS = (
    (re.compile(r"(positive|natural|whole|non-?negative)"), "N"),
    (re.compile(r"integer"), "Z"),
    (re.compile(r"real"), "R"),
    (re.compile(r"constant|any|all|every|each|some|arbitrary|parameter"), ""),
)
_SET = re.compile(r"(?:mathb[bf])?\{?([ZNRQC])\}?(?:\^?\{?([+*]|ast)\}?|(\^))?")
_NAMES = r"([A-Za-z]\w*(?:,[A-Za-z]\w*)*)"
_MEMBER = re.compile(rf"{_NAMES}in(.+)")
_LEAST = re.compile(rf"{_NAMES}(>=?)(\d)")
_COUNTED = re.compile(r"([A-Za-z])=([-+\dpm,]+)(?:,?\.\.\.,?)")
_BRACKETS = {"(": 1, "[": 1, "{": 1, "\\{": 1, ")": -1, "]": -1, "}": -1, "\\}": -1}
_MARKS = frozenset({("op", "in"), ("op", ">="), ("op", ">"), ("op", "...")})
_ALL = (("text", "all"), ("text", "any"), ("text", "every"), ("text", "for all"))
_RAISED = ("_", "^")
_SIGNS = frozenset({"=", "<", ">", "<=", ">=", "!="})
_COUNTERS = frozenset("ijklmn")


def split(tokens: list[Token]) -> tuple[list[Token], tuple[Node, ...]]:
    r"""Return the tokens of the answer itself, and the declarations of its letters.

    Returns:
        The tokens of the answer, with their end, and a node ("param", name, domain, least) for
        each letter; the domain is Z, N, R, Q, C, or '' if there is none.
    """
    found: list[Node] = []
    prefixed = len(tokens) > 3 and tokens[0] in _ALL and tokens[2] == ("op", "in")
    body = tokens[1:] if prefixed else tokens  # all x in R
    while (cut := _tail(body)) is not None:
        start, params = cut
        head = body[:start]
        while head and head[-1] in (_COMMA, ("op", ";")):
            head.pop()
        names = {value for kind, value in head if kind == "name"}
        names |= {name.swapcase() for name in names - {param[1] for param in params}}
        if not head or not all(param[1].partition("_")[0] in names for param in params):
            break
        here = {value for kind, value in head if kind == "name"}
        found += [
            (kind, name if name.partition("_")[0] in here else name.swapcase(), *rest)
            for kind, name, *rest in params
        ]
        body = [*head, _END]
    return body, tuple(found)


def _tail(tokens: list[Token]) -> tuple[int, list[Node]] | None:
    """Return the start of the last qualifier and its declarations; None if there is none."""
    if _MARKS.isdisjoint(tokens) and "text" not in dict(tokens):  # of the kinds, no values matter
        return None
    depth, begins = 0, 0
    commas: list[int] = []
    for at, (kind, value) in enumerate(tokens[:-1]):
        opens = kind == "text" and _OPENING.match(value)
        if at and depth == 0 and (opens or (kind, value) == ("cmd", "forall")):
            return _said(tokens, at, at + (kind == "cmd"))
        depth += _BRACKETS.get(value, 0) if kind == "op" else 0
        if depth == 1 and value == "(":
            begins = at
        if depth == 0 and (kind, value) == _COMMA:
            commas.append(at)
    if begins and tokens[-2] == ("op", ")") and (said := _said(tokens, begins, begins + 1)):
        return said
    if tokens[-2] == ("op", "..."):
        commas = [at for at in commas if tokens[at + 2] == ("op", "=")]
    for comma in reversed(commas[-3:]):
        if said := _said(tokens, comma, comma + 1):
            return said
    return _without_comma(tokens)


def _without_comma(tokens: list[Token]) -> tuple[int, list[Node]] | None:
    r"""Find `k\pi \quad k \in \mathbb{Z}`."""
    if ("op", "in") not in tokens[2:]:
        return None
    at = tokens.index(("op", "in"), 2) - 1
    before, name = tokens[at - 1], tokens[at]
    joined = before[0] == "op" and before[1] not in (")", "]", "}", "\\}")
    return None if joined or name[0] != "name" else _said(tokens, at, at)


def _said(tokens: list[Token], start: int, first: int) -> tuple[int, list[Node]] | None:
    """Return the declarations in the tokens from `first` on, if they are nothing else."""
    part = tokens[first : -2 if first > start and tokens[start][1] == "(" else -1]
    words = " ".join(value for kind, value in part if kind == "text").split()
    letters = [word for word in words if len(word) == 1 and word != "a"]
    if not all(len(word) == 1 or _VOCABULARY.fullmatch(word) for word in words):
        return None
    text = "".join(value for kind, value in part if kind != "text").strip(",")
    qualifier = " ".join(words)
    if match := _MEMBER.fullmatch(text):
        return _member(start, match[1], match[2])
    if tokens[start][0] == "op" and words and not (text and _domain(qualifier)):
        return None  # a comma, then words
    if match := _LEAST.fullmatch(text):
        names = match[1].split(",")
        plain = tokens[start] == _COMMA and _stands_alone(tokens[:start], names)
        if not _COUNTERS.issuperset(name[0] for name in names) or plain:
            return None
        least = str(int(match[3]) + (match[2] == ">"))
        return start, [("param", name, "N", least) for name in names]
    if match := _COUNTED.fullmatch(text):
        both = "-" in match[2] or "pm" in match[2]
        return start, [("param", match[1], "Z" if both else "N", "")]
    names = [*letters, *(text.split(",") if text else ())]
    domain = _domain(qualifier)
    if not names or domain is None or not all(re.fullmatch(_NAMES, name) for name in names):
        return None
    return start, [("param", name, domain, "") for name in names]


def _stands_alone(head: Sequence[Token], names: Sequence[str]) -> bool:
    """Return whether an item of a list is about one of the names: `n > 3, n > 1`."""
    return any(
        token[0] == "name" and token[1] in names and sign[1] in _SIGNS and before[1] not in _RAISED
        for before, token, sign in zip([("", ""), *head], head, head[1:], strict=False)
    )


def _member(start: int, names: str, domain: str) -> tuple[int, list[Node]] | None:
    match = _SET.fullmatch(domain)
    if match is None:
        return None
    positive = match[1] in "ZN" and (match[2] or match[3])  # the last * of a text is cut off
    return start, [("param", name, "N" if positive else match[1], "") for name in names.split(",")]


def _domain(words: str) -> str | None:
    return next((domain for pattern, domain in _DOMAINS if pattern.search(words)), None)
