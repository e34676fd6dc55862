"""Outcomes of comparisons: equal, different or unknown, and why."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from grpo_envs.graders.math.nodes import Node

_MOST_UNPAIRED = 40


class Comparison(NamedTuple):
    """The outcome of a comparison."""

    equal: bool | None
    """None: not known."""
    reason: str = ""


EQUAL = Comparison(equal=True)
DIFFERENT = Comparison(equal=False)
UNKNOWN = Comparison(equal=None, reason="undecided")


Compare = Callable[[Node, Node], Comparison]


def different(reason: str) -> Comparison:
    """Return a comparison of different things, with the reason."""
    return Comparison(equal=False, reason=reason)


def unknown(reason: str) -> Comparison:
    """Return a comparison without a result, with the reason."""
    return Comparison(equal=None, reason=reason)


def all_of(comparisons: Iterable[Comparison]) -> Comparison:
    """Return whether all are equal: one difference decides, even if others are unknown."""
    result = EQUAL
    for comparison in comparisons:
        if comparison.equal is False:
            return comparison
        if comparison.equal is None:
            result = comparison
    return result


def paired(left: Sequence[Node], right: Sequence[Node], same: Compare) -> Comparison:
    """Return whether the items of both sides can be matched in pairs, in any order.

    Equality is transitive, so the first partner that is equal is as good as any other.

    Args:
        left: Items.
        right: Items; with another number of items the sides differ.
        same: Compares one of the left with one of the right.
    """
    if len(left) != len(right):
        return different(f"{len(right)} answers for {len(left)}")
    free = list(right)
    rest = [item for item in left if not _taken(free, item)]
    if len(rest) > _MOST_UNPAIRED:
        return unknown("too many answers")
    for item in rest:
        partner = None
        doubt: Comparison | None = None
        for place, other in enumerate(free):
            comparison = same(item, other)
            if comparison.equal:
                partner = place
                break
            doubt = comparison if comparison.equal is None else doubt
        if partner is None:
            return doubt or different("an answer without its counterpart")
        free.pop(partner)
    return EQUAL


def _taken(free: list[Node], item: Node) -> bool:
    """Remove `item` from `free` if the identical node is there."""
    if item not in free:
        return False
    free.remove(item)
    return True
