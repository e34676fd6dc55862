r"""Read a gold: like an answer, or as a number with any words after it.

In an answer, the words after a number may be anything (`8 wrong`), so only names of units and
things are read. A gold is known to be right: `5\text{ km east}` is 5, unless its words change the
value.
"""

import re
from functools import lru_cache

from grpo_envs.graders.math.nodes import Node, kinds, variables
from grpo_envs.graders.math.nouns import changes_value
from grpo_envs.graders.math.parse import Unreadable, parse
from grpo_envs.graders.math.units import FONTS

_MEASURED = re.compile(
    rf"(.*(?:[\d}}°%]|\\circ))(?:[\s~]|\\[,;:! ])*"
    rf"(?:\\(?:{FONTS})\s*\{{([A-Za-z ./'-]+)\}}|(?<![\\A-Za-z])([A-Za-z][A-Za-z ./'-]+))"
)
_LONGEST = 200


@lru_cache(maxsize=1024)
def gold_tree(gold: str) -> Node:
    r"""Return the tree of a gold.

    Raises:
        Unreadable: the gold is not mathematics that we can read.

    >>> gold_tree(r"5\text{ km east}")
    ('unit', ('num', '5'), 'km east')
    """
    try:
        return parse(gold)
    except Unreadable:
        measured = _measured(gold) if len(gold) <= _LONGEST else None
        if measured is None:
            raise
        return measured


def _measured(gold: str) -> Node | None:
    match = _MEASURED.fullmatch(gold)
    words = " ".join((match[2] or match[3]).lower().split()) if match else ""
    if match is None or not words or changes_value(words):
        return None
    try:
        value = parse(match[1])
    except Unreadable:
        return None
    plain = not variables(value) and not kinds(value) & {"rel", "list", "word", "unit"}
    return ("unit", value, words) if plain else None
