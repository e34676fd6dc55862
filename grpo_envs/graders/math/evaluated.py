"""Whether an answer is carried out, or a computation that is left to the reader."""

from math import gcd

from grpo_envs.graders.math.nodes import Node, children

_LEAVES = frozenset({"num", "repeat", "base", "var", "const", "word", "dots"})
_AROUND = frozenset({"list", "tuple", "set", "matrix", "row", "pct", "deg", "unit", "ratio"})
_LONGEST = 400  # digits


def is_evaluated(node: Node) -> bool:
    """Return whether no operation is left in `node`, which may be a number or a collection.

    A fraction in lowest terms, a mixed number and scientific notation are numbers.

    >>> from grpo_envs.graders.math.parse import parse
    >>> [is_evaluated(parse(text)) for text in ("-7", "1/2", "1 1/2", "2.5e3", "(7, x)", "x = 7")]
    [True, True, True, True, True, True]
    >>> [is_evaluated(parse(text)) for text in ("3+4", "14/2", "2/4", "2^3", "x = 3+4", "(3+4, x)")]
    [False, False, False, False, False, False]
    """
    kind = node[0]
    if kind == "rel":  # of a chain of equations, its last value
        values = [part for part in children(node) if part[0] != "var"]
        return not values or is_evaluated(values[-1])
    if kind in _AROUND:
        return all(map(is_evaluated, children(node)))
    if kind == "neg":
        return node[1][0] != "neg" and is_evaluated(node[1])
    if kind == "add":  # 1 1/2
        return len(node) == 3 and _whole(node[1]) and _fraction(node[2])
    if kind == "mul":  # 1.5e3
        return len(node) == 3 and node[1][0] == "num" and _power_of_ten(node[2])
    return kind in _LEAVES or _fraction(node)


def _fraction(node: Node) -> bool:
    if node[0] != "div":
        return False
    top, bottom = map(_positive, node[1:])
    if not (_whole(top) and _whole(bottom)):
        return False
    return int(bottom[1]) > 1 and gcd(int(top[1]), int(bottom[1])) == 1


def _power_of_ten(node: Node) -> bool:
    return node[:2] == ("pow", ("num", "10")) and _whole(_positive(node[2]))


def _positive(node: Node) -> Node:
    inner: Node = node[1] if node[0] == "neg" else node
    return inner


def _whole(node: Node) -> bool:
    return node[0] == "num" and node[1].isdecimal() and len(node[1]) <= _LONGEST
