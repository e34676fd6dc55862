"""Sets and outcomes in words: no solution, all real numbers."""

import re
from functools import lru_cache

from grpo_envs.graders.math.nodes import INFINITY, ZERO, Node

_SUBJECT = (
    r"(?:(?:the |this )?(?:equation|system|inequality|problem|x|it) (?:has|have) "
    r"|there (?:is|are|exists?) )?"
)
_SETS: tuple[tuple[re.Pattern[str], Node], ...] = (
    (
        re.compile(
            rf"{_SUBJECT}no (?:real )?(?:solutions?|roots?)(?: exists?)?(?: in the reals)?"
            r"|(?:the )?(?:empty|null) set|no such (?:x|number|value)s?(?: exists?)?|none"
        ),
        ("set",),
    ),
    (
        re.compile(
            r"(?:the set of )?(?:all|any|every)(?: of)?(?: the)? reals?(?: numbers?)?(?: x)?"
            r"|(?:the set of )?reals?(?: numbers)"
        ),
        ("const", "R"),
    ),
    (
        re.compile(r"(?:the set of |all |any |every |the set of all )(?:of )?(?:the )?integers?"),
        ("const", "Z"),
    ),
    (
        re.compile(r"(?:the set of )?(?:all )?positive real(?: number)?s?"),
        ("tuple", "(", ")", ZERO, INFINITY),
    ),
    (
        re.compile(
            rf"{_SUBJECT}(?:infinitely many|infinite|an infinite number of|infinite number of)"
            r"(?: solutions?)?"
        ),
        ("word", "infinitely many"),
    ),
    (
        re.compile(
            r"dne|(?:the )?(?:limit )?does not exist|(?:it )?is undefined|(?:not |un)defined"
        ),
        ("word", "does not exist"),
    ),
)
_ARTICLE = re.compile(r"^(?:an?|the) (?=[a-z])")


@lru_cache(maxsize=1024)
def meant(text: str) -> Node:
    """Return the set that words name, or the words themselves without their article.

    >>> meant("no real solutions"), meant("an ellipse")
    (('set',), ('word', 'ellipse'))
    """
    words = " ".join(text.strip(" .").split())
    node = next((node for pattern, node in _SETS if pattern.fullmatch(words)), None)
    return node or ("word", _ARTICLE.sub("", text))


def is_number_set(gold: Node, answer: Node) -> bool:
    """Return whether the gold is a set of numbers and the answer its letter: R for R."""
    if gold[0] != "const" or answer[0] != "var" or gold[1] not in "RQZNC":
        return False
    return bool(answer[1].removeprefix("mathbf ") == gold[1])
