r"""Notations that mean something only beside the other side: `C(n, 2)` is a binomial, or a point.

`C(n, k)`, `C_n^k` is the number of choices if the other side has no C and is no point; `A(1, 2)` is
the point (1, 2) if the other side is one, and `[[1, 2], [3, 4]]` a matrix beside a matrix.
"""

from grpo_envs.graders.math.nodes import Node, substitute, variables, walk

_CHOICES = "C"
_PAIR = 5  # ("tuple", "(", ")", a, b)


def as_meant(gold: Node, answer: Node) -> tuple[Node, Node]:
    r"""Return both as they are meant beside each other.

    >>> from grpo_envs.graders.math.parse import parse
    >>> as_meant(parse(r"\binom{n}{2}"), parse("C(n, 2)"))[1]
    ('binom', ('var', 'n'), ('num', '2'))
    >>> as_meant(parse("(1, 2)"), parse("A(1, 2)"))[1]
    ('tuple', '(', ')', ('num', '1'), ('num', '2'))
    """
    return _beside(gold, answer), _beside(answer, gold)


def _beside(node: Node, other: Node) -> Node:
    if other[0] == "matrix":
        return _matrix(node)
    if other[0] == "tuple" or (other[0] == "rel" and other[-1][0] == "tuple"):
        return _point(node)
    if other[0] == "list" and node[0] == "list" and all(part[0] == "tuple" for part in other[1:]):
        return ("list", *map(_point, node[1:]))
    if any(name.partition("_")[0] == _CHOICES for name in variables(other)):
        return node
    for part in walk(node):
        if (meant := _choices(part)) is not None:
            node = substitute(node, part, meant)
    return node


def _point(node: Node) -> Node:
    """Return the coordinates of a point with its name, A(1, 2)."""
    if node[0] != "mul" or len(node) != 3 or node[2][0] != "tuple" or node[2][1:3] != ("(", ")"):
        return node
    name, point = node[1:]
    return point if name[0] == "var" and len(name[1]) == 1 and name[1].isupper() else node


def _matrix(node: Node) -> Node:
    """Return a list of rows in brackets, [[1, 2], [3, 4]], as a matrix."""
    rows = node[3:] if node[:3] == ("tuple", "[", "]") else ()
    lists = all(row[:3] == ("tuple", "[", "]") for row in rows)
    if not rows or not lists or len({len(row) for row in rows}) > 1:
        return node
    return ("matrix", *(("row", *row[3:]) for row in rows))


def _choices(node: Node) -> Node | None:
    if node[0] == "call" and node[1] == _CHOICES and len(node) == 4:
        return ("binom", *node[2:])
    if node[0] == "pow" and node[1][0] == "var" and node[1][1].startswith(f"{_CHOICES}_"):
        below = node[1][1].partition("_")[2]
        if below.isdecimal():
            return ("binom", ("num", below), node[2])
        return ("binom", ("var", below), node[2]) if len(below) == 1 else None
    return _factors(node) if node[0] == "mul" else None


def _factors(product: Node) -> Node | None:
    """Return a product with C(n, k) as one factor for each C before a pair; None if there is none.

    >>> from grpo_envs.graders.math.parse import parse
    >>> _factors(parse("2C(n, 2)"))
    ('mul', ('num', '2'), ('binom', ('var', 'n'), ('num', '2')))
    """
    factors: list[Node] = []
    for part in product[1:]:
        pair = part[:3] == ("tuple", "(", ")") and len(part) == _PAIR
        if pair and factors[-1:] == [("var", _CHOICES)]:
            factors[-1] = ("binom", *part[3:])
        else:
            factors.append(part)
    if len(factors) == len(product) - 1:
        return None
    return factors[0] if len(factors) == 1 else ("mul", *factors)
