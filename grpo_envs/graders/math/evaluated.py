"""Whether an answer is evaluated, or is a computation that is not carried out."""

from collections.abc import Callable
from math import gcd

from grpo_envs.graders.math.nodes import ONE, SYMPY_KINDS, ZERO, Node, children, variables, walk

_LEAVES = frozenset({"num", "repeat", "base", "var", "const", "word", "dots"})
_AROUND = frozenset({"list", "tuple", "set", "matrix", "row", "pct", "deg", "unit", "union"})
_PI: Node = ("const", "pi")
_I: Node = ("const", "i")
_TEN: Node = ("num", "10")
_LIMITS = SYMPY_KINDS - {"setbuilder"}
_EQUALITIES = frozenset({"=", "~", "in"})
_LONGEST = 400  # digits


def left_to_do(gold: Node, answer: Node) -> str:
    """Return what `answer` leaves to do until it is a value like `gold`; '' if nothing.

    >>> from grpo_envs.graders.math.parse import parse
    >>> left_to_do(parse("7"), parse("3+4")), left_to_do(parse("101_2"), parse("5"))
    ('not carried out', 'another base')
    """
    if asks_for_value(gold) and not is_evaluated(answer):
        return "not carried out"
    allowed = _operations(gold) | _rewritten(gold)
    if all(_operations(side) - allowed for side in _values(answer)):
        return "not carried out"
    return "" if _in_bases_of(gold, answer) else "another base"


def _values(answer: Node) -> list[Node]:
    """Return the sides of a relation that are no names, or the answer itself."""
    if answer[0] != "rel":
        return [answer]
    return [side for side in children(answer) if not names_value(side)] or [answer]


def _operations(node: Node) -> set[str]:
    """Return the operations that a simplified value has no need of: sums, functions of numbers."""
    parts = walk(node)
    found = {part[0] for part in parts} & _LIMITS
    closed = [part for part in parts if part[0] in ("fn", "add") and not variables(part)]
    return found | {part[0] for part in closed if not is_evaluated(part)}


def _rewritten(gold: Node) -> set[str]:
    """Return operations of other simplified forms of a gold.

    `1 +- 2` and `ln 6` may be sums, and so may a power or root with i, which is `cos t + i sin t`.
    """
    found = any(
        part[0] in ("pm", "mp", "fn") or (part[0] in ("pow", "root") and _I in walk(part))
        for part in walk(gold)
    )
    return {"fn", "add"} if found else set()


def is_evaluated(node: Node) -> bool:
    """Return whether no operation is left in `node`, which may be a number or a collection.

    A fraction in lowest terms, a mixed number, a power of ten, scientific notation and a multiple
    of pi count as numbers; a ratio must be in lowest terms, or have a term 1. A set whose condition
    is solved for its element counts as evaluated, and so does a matrix with a factor before it.

    >>> from grpo_envs.graders.math.parse import parse
    >>> [is_evaluated(parse(text)) for text in ("-7", "1/2", "1 1/2", "2.5e3", "(7, x)", "x = 7")]
    [True, True, True, True, True, True]
    >>> [is_evaluated(parse(text)) for text in ("3+4", "14/2", "2/4", "2^3", "x = 3+4", "(3+4, x)")]
    [False, False, False, False, False, False]
    """
    kind = node[0]
    if kind in _LEAVES:
        return True
    if kind in _AROUND:
        return all(map(is_evaluated, children(node)))
    read = _EVALUATED.get(kind)
    return read(node) if read else False


def _relation(node: Node) -> bool:
    """Return whether a relation is evaluated: in a chain, its last or first value (15 = 5 * 3)."""
    values = [part for part in children(node) if part[0] != "var"]
    closed = _EQUALITIES.issuperset(node[2::2]) and not variables(*values)
    return not values or is_evaluated(values[-1]) or (closed and is_evaluated(values[0]))


def _described(node: Node) -> bool:
    named = node[1][0] == "var" or is_solved(node[1])  # x, or x in R
    return named and all(is_solved(part) and is_evaluated(part) for part in node[2:])


def asks_for_value(gold: Node) -> bool:
    """Return whether an answer to `gold` has to be evaluated, because the gold itself is.

    An equation of several names, or not solved for its name, is a curve, for which any equation is
    right. For a power of ten, pi/4 or a matrix with a factor, any form of the value is right.
    """
    kind = gold[0]
    if kind == "rel":
        values = [part for part in children(gold) if part[0] != "var"]
        return is_solved(gold) and (not values or asks_for_value(values[-1]))
    if kind == "ratio":
        return all(map(asks_for_value, gold[1:]))
    if kind in _AROUND or kind in ("neg", "pm"):
        return is_evaluated(gold) and all(map(asks_for_value, children(gold)))
    if kind in ("pow", "transpose") or (kind == "mul" and not _power_of_ten(gold[2])):
        return False
    return is_evaluated(gold) and not (kind == "div" and _fraction_of_pi(gold))


def _in_bases_of(gold: Node, answer: Node) -> bool:
    """Return whether the value of `answer`, a side of it, is written in the bases of `gold`.

    To change the base is what such a problem asks for: neither 5 for 101_2, nor 101_2 for 5.
    """
    wanted = _bases(gold)
    return any(_bases(side) == wanted for side in _values(answer))


def _bases(node: Node) -> set[Node]:
    return {part[2] for part in walk(node) if part[0] == "base"} - {_TEN}


def is_solved(node: Node) -> bool:
    """Return whether a relation is solved for its names: `x = 4`, `5 > x`, `2 < x <= 9`.

    >>> from grpo_envs.graders.math.parse import parse
    >>> [is_solved(parse(text)) for text in ("x = 4", "4 = x", "2x = 8", "x^2 = 16", "x = y")]
    [True, True, False, False, False]
    """
    if node[0] != "rel":
        return False
    sides = node[1::2]
    if _EQUALITIES.isdisjoint(node[2::2]) and len(sides) == 3:
        return names_value(sides[1]) and not variables(sides[0], sides[2])
    if names_value(sides[0]):
        return not variables(*sides[1:])
    return len(sides) == 2 and names_value(sides[1]) and not variables(sides[0])


def names_value(node: Node) -> bool:
    """Return whether `node` can have a value: x, f(x), a word, (x, y), |AB|, AB : CD, dy/dx."""
    if node[0] in ("tuple", "ratio", "div") or node[:2] == ("fn", "abs"):
        return all(part[0] == "var" for part in children(node))
    if node[0] == "derivative":
        return bool(node[1][0] in ("var", "call"))
    return node[0] in ("var", "call", "word")


def _product(node: Node) -> bool:
    """Return whether `node` is 1.5e3, a matrix with a factor, or a multiple of pi."""
    _, left, right, *more = node
    if more:
        return False
    if right[0] in ("matrix", "transpose"):
        return is_evaluated(left) and is_evaluated(right)
    if right == _PI:
        return _fraction(left) or left[0] == "num"
    return left[0] == "num" and _power_of_ten(right)


def _without(node: Node) -> bool:
    """Return whether `node` is a set without some points, or R without an interval."""
    apart = node[2][0] == "set" or (node[1], node[2][0]) == (("const", "R"), "tuple")
    return apart and all(map(is_evaluated, children(node)))


def _reduced(ratio: Node) -> bool:
    if not all(map(_whole, ratio[1:])):
        return ONE in ratio[1:] and all(map(is_evaluated, ratio[1:]))
    return gcd(*(int(part[1]) for part in ratio[1:])) == 1


def _fraction(node: Node) -> bool:
    if node[0] != "div":
        return False
    top, bottom = map(_positive, node[1:])
    if not (_whole(top) and _whole(bottom)):
        return False
    return int(bottom[1]) > 1 and gcd(int(top[1]), int(bottom[1])) == 1


def _fraction_of_pi(node: Node) -> bool:
    """Return whether `node` is pi/4 or 3 pi/4, in lowest terms."""
    top = _positive(node[1])
    if top == _PI:
        return _fraction(("div", ONE, node[2]))
    return len(top) == 3 and top[::2] == ("mul", _PI) and _fraction(("div", top[1], node[2]))


def _power_of_ten(node: Node) -> bool:
    return node[:2] == ("pow", ("num", "10")) and _whole(_positive(node[2]))


def _positive(node: Node) -> Node:
    inner: Node = node[1] if node[0] == "neg" else node
    return inner


def _whole(node: Node) -> bool:
    return node[0] == "num" and node[1].isdecimal() and len(node[1]) <= _LONGEST


_EVALUATED: dict[str, Callable[[Node], bool]] = {
    "rel": _relation,
    "neg": lambda node: node[1][0] != "neg" and is_evaluated(node[1]),
    "mul": _product,
    "div": lambda node: _fraction(node) or _fraction_of_pi(node),
    "pow": _power_of_ten,
    "pm": lambda node: node[1] == ZERO and is_evaluated(node[2]),
    "mp": lambda node: node[1] == ZERO and is_evaluated(node[2]),
    "minus": _without,
    "setbuilder": _described,
    "transpose": lambda node: is_evaluated(node[1]),
    "ratio": _reduced,
    "congruent": lambda node: is_evaluated(node[2]),
}
