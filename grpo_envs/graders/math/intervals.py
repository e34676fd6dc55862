"""Inequalities, intervals and unions in one form: a sorted list of pieces of the real line."""

import math
from collections.abc import Callable
from typing import NamedTuple

from grpo_envs.graders.math.comparison import EQUAL, Compare, Comparison, all_of, different
from grpo_envs.graders.math.identity import approximate
from grpo_envs.graders.math.nodes import INFINITY, Node

_MINUS_INFINITY: Node = ("neg", INFINITY)
_INFINITE = (INFINITY, _MINUS_INFINITY)
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}
_TOUCH = 1e-12
_MOST_LISTED = 200


class Piece(NamedTuple):
    """An interval; a single point if both ends are equal and closed."""

    low: Node
    low_closed: bool
    high: Node
    high_closed: bool


def pieces(node: Node) -> list[Piece] | None:
    """Return the pieces of the line that `node` describes; None if it describes none."""
    if node == ("const", "R"):
        return [Piece(_MINUS_INFINITY, False, INFINITY, False)]
    read = _PIECES.get(node[0])
    return read(node) if read else None


def _joined_pieces(node: Node) -> list[Piece] | None:
    if node[0] == "list" and (excluded := _excluded(node)):
        return _without(("minus", ("const", "R"), excluded))
    if node[0] == "list" and (restricted := _restricted(node)):
        return _without(restricted)
    parts = [pieces(part) for part in node[1:]]
    if any(part is None for part in parts):
        return None
    found = [piece for part in parts for piece in part or ()]
    # x > 0, x < 5: `and` or `or`? If the pieces do not meet, it must be `or`.
    return found if node[0] == "union" or len(_merged(found)) == len(found) else None


def variable(node: Node) -> Node | None:
    """Return the variable that an inequality or a list of inequalities is solved for."""
    if node[0] == "list":
        names = {variable(part) for part in node[1:]}
        return names.pop() if len(names) == 1 else None
    if node[0] != "rel":
        return None
    sides = node[1::2]
    middle = sides[1] if len(sides) == 3 else next((s for s in sides if _free(s)), None)
    return middle if middle is not None and _free(middle) else None


def _free(node: Node) -> bool:
    return node[0] in ("var", "call")


def same_pieces(left: list[Piece], right: list[Piece], same: Compare) -> Comparison:
    """Return whether two lists of pieces cover the same numbers."""
    left, right = _merged(left), _merged(right)
    if len(left) != len(right):
        return different("another number of intervals")
    pairs = zip(left, right, strict=True)
    return all_of(_same_end(a, b, same) for pair in pairs for a, b in _ends(*pair))


def _ends(one: Piece, two: Piece) -> tuple[tuple[tuple[Node, bool], tuple[Node, bool]], ...]:
    low = ((one.low, one.low_closed), (two.low, two.low_closed))
    high = ((one.high, one.high_closed), (two.high, two.high_closed))
    return low, high


def _same_end(one: tuple[Node, bool], two: tuple[Node, bool], same: Compare) -> Comparison:
    if one[0] in _INFINITE or two[0] in _INFINITE:
        return EQUAL if one[0] == two[0] else different("another end of an interval")
    if one[1] != two[1]:
        return different("one end is open, the other closed")
    return same(one[0], two[0])


def _interval(node: Node) -> Piece:
    _, opening, closing, low, high = node
    return Piece(low, opening == "[", high, closing == "]")


def _solved(node: Node) -> list[Piece] | None:
    if len(node) == 4 and node[2] == "in":
        return pieces(node[3])
    if len(node) == 4 and node[2] == "notin" and _free(node[1]):
        return _without(("minus", ("const", "R"), node[3]))
    name = variable(node)
    if name is None:
        return None
    if len(node) == 6:
        _, low, first, _, second, high = node
        if {first, second} <= {">", ">="}:
            low, first, second, high = high, second, first, low
        elif not {first, second} <= {"<", "<="}:
            return None
        return [Piece(low, "=" in first, high, "=" in second)]
    if len(node) != 4 or node[2] not in _MIRRORED:
        return None
    sign, bound = (node[2], node[3]) if node[1] == name else (_MIRRORED[node[2]], node[1])
    below = Piece(_MINUS_INFINITY, False, bound, sign == "<=")
    above = Piece(bound, sign == ">=", INFINITY, False)
    return {"<": [below], "<=": [below], ">": [above], ">=": [above]}.get(sign, [below, above])


def _described(node: Node) -> list[Piece] | None:
    """Return the pieces of a set whose conditions are solved for its element."""
    element, *conditions = node[1:]
    if element[0] == "rel" and element[2:] == ("in", ("const", "R")):
        element = element[1]
    if element[0] != "var" or any(variable(part) != element for part in conditions):
        return None
    return pieces(conditions[0] if len(conditions) == 1 else ("list", *conditions))


def listed(node: Node) -> Node:
    """Return the elements of `x in Z with 1 <= x < 4`; other nodes, and large sets, unchanged."""
    match node:
        case ("setbuilder", ("rel", element, "in", ("const", "Z" | "N")), condition):
            found = _solved(condition) if variable(condition) == element else None
        case _:
            return node
    ends = [approximate(end) for end in (found[0].low, found[0].high)] if found else []
    if not found or len(found) > 1 or None in ends:
        return node
    low, high = (float(end) for end in ends if end is not None)
    if not 0 <= high - low <= _MOST_LISTED or (node[1][3][1] == "N" and low < 0):
        return node
    first = math.floor(low) + 1 if not found[0].low_closed else math.ceil(low)
    last = math.ceil(high) - 1 if not found[0].high_closed else math.floor(high)
    return ("set", *(_whole(number) for number in range(first, last + 1)))


def _whole(number: int) -> Node:
    return ("num", str(number)) if number >= 0 else ("neg", ("num", str(-number)))


def _excluded(node: Node) -> Node | None:
    """Return the points that a list excludes: `x != 1, x != 2`, or `x != 1, 2`."""
    first = node[1]
    if first[0] != "rel" or len(first) != 4 or first[2] != "!=" or not _free(first[1]):
        return None
    same = [part if part[0] != "rel" else part[3] for part in node[1:]]
    others = (part for part in node[2:] if part[0] == "rel")
    alike = all(part[1:3] == first[1:3] and len(part) == 4 for part in others)
    return ("set", *same) if alike else None


def _is_outside(place: float | None, ends: list[float | None]) -> bool:
    if place is None:
        return False
    low, high = ends
    return (low is not None and place < low) or (high is not None and place > high)


def _restricted(node: Node) -> Node | None:
    """Return what a list restricts and excludes: `x >= 1, x != 2`."""
    if not excludes(node) or variable(node) is None:
        return None
    points = [part[3 if _free(part[1]) else 1] for part in node[1:] if part[2] == "!="]
    rest = [part for part in node[1:] if part[2] != "!="]
    return ("minus", rest[0], ("set", *points)) if len(rest) == 1 else None


def excludes(node: Node) -> bool:
    """Return whether `node` is a list of conditions that excludes a point: `x >= 1, x != 2`."""
    return node[0] == "list" and any(part[0] == "rel" and part[2] == "!=" for part in node[1:])


def _without(node: Node) -> list[Piece] | None:
    """Return an interval without some points, or all numbers without an interval."""
    found, points = pieces(node[1]), node[2]
    if found is None or len(found) != 1:
        return None
    if points[0] == "tuple" and len(points) == 5 and node[1] == ("const", "R"):
        inner = _interval(points)
        below = Piece(_MINUS_INFINITY, False, inner.low, not inner.low_closed)
        above = Piece(inner.high, not inner.high_closed, INFINITY, False)
        return [part for part in (below, above) if part.low != part.high]
    if points[0] != "set":
        return None
    places = [(approximate(point), point) for point in points[1:]]
    if any(place is None for place, _ in places):
        return None
    result, (low, closed, high, high_closed) = [], found[0]
    ends = [approximate(end) for end in (low, high)]
    for place, point in sorted(places, key=lambda pair: pair[0] or 0.0):
        if place in ends:  # which is then open
            closed, high_closed = closed and place != ends[0], high_closed and place != ends[1]
            continue
        if _is_outside(place, ends):
            continue
        result.append(Piece(low, closed, point, False))
        low, closed = point, False
    return [*result, Piece(low, closed, high, high_closed)]


def _merged(found: list[Piece]) -> list[Piece]:
    """Return the pieces in order, merged if they touch; unchanged if ends are unknown."""
    ends: dict[Node, float] = {}
    for piece in found:
        for end in (piece.low, piece.high):
            place = approximate(end)
            if place is None:
                return found
            ends[end] = place
    result: list[Piece] = []
    for piece in sorted(found, key=lambda piece: (ends[piece.low], not piece.low_closed)):
        if result and _joins(result[-1], piece, ends):
            result[-1] = _joined(result[-1], piece, ends)
        else:
            result.append(piece)
    return result


def _joins(before: Piece, piece: Piece, ends: dict[Node, float]) -> bool:
    end, start = ends[before.high], ends[piece.low]
    if end == start or abs(end - start) <= _TOUCH * max(abs(end), abs(start)):
        return before.high_closed or piece.low_closed
    return start < end


def _joined(before: Piece, piece: Piece, ends: dict[Node, float]) -> Piece:
    last = max(before, piece, key=lambda part: (ends[part.high], part.high_closed))
    return Piece(before.low, before.low_closed, last.high, last.high_closed)


_PIECES: dict[str, Callable[[Node], list[Piece] | None]] = {
    "tuple": lambda node: [_interval(node)] if len(node) == 5 else None,
    "set": lambda node: [Piece(item, True, item, True) for item in node[1:]],
    "union": _joined_pieces,
    "list": _joined_pieces,
    "minus": _without,
    "setbuilder": _described,
    "rel": _solved,
}
