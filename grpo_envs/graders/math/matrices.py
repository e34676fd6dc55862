"""Sums and products of matrices, carried out entry by entry; the entries stay expressions."""

from collections.abc import Callable
from functools import reduce

from grpo_envs.graders.math.nodes import Node

_MOST_ENTRIES = 100


def combine_matrices(node: Node) -> Node:
    """Return a sum, product or transpose of matrices as one matrix; other nodes unchanged."""
    if node[0] == "transpose" and (inner := combine_matrices(node[1]))[0] == "matrix":
        return ("matrix", *(("row", *column) for column in _columns(inner)))
    if node[0] == "neg" and (inner := combine_matrices(node[1]))[0] == "matrix":
        return _each(inner, lambda entry: ("neg", entry))
    if node[0] not in ("add", "mul"):
        return node
    parts = [combine_matrices(part) for part in node[1:]]
    large = any(part[0] == "matrix" and _size(part) > _MOST_ENTRIES for part in parts)
    if large or not any(part[0] == "matrix" for part in parts):
        return node
    result = reduce(_sum if node[0] == "add" else _product, parts)
    return result if result[0] == "matrix" else node


def _size(matrix: Node) -> int:
    return (len(matrix) - 1) * (len(matrix[1]) - 1)


def _columns(matrix: Node) -> list[Node]:
    return list(zip(*(row[1:] for row in matrix[1:]), strict=True))


def _each(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return ("matrix", *(("row", *map(change, row[1:])) for row in matrix[1:]))


def _sum(left: Node, right: Node) -> Node:
    if left[0] != right[0] or len(left) != len(right) or len(left[1]) != len(right[1]):
        return ("undefined",)
    rows = zip(left[1:], right[1:], strict=True)
    return (
        "matrix",
        *(("row", *(("add", *pair) for pair in zip(a[1:], b[1:], strict=True))) for a, b in rows),
    )


def _product(left: Node, right: Node) -> Node:
    if "undefined" in (left[0], right[0]):
        return ("undefined",)
    if left[0] != "matrix" or right[0] != "matrix":
        scalar, matrix = (right, left) if left[0] == "matrix" else (left, right)
        if matrix[0] != "matrix":
            return ("mul", left, right)
        return _each(matrix, lambda entry: ("mul", scalar, entry))
    if len(left[1]) != len(right):
        return ("undefined",)
    columns = _columns(right)
    return (
        "matrix",
        *(("row", *(_dot(row[1:], column) for column in columns)) for row in left[1:]),
    )


def _dot(row: Node, column: Node) -> Node:
    return ("add", *(("mul", one, two) for one, two in zip(row, column, strict=True)))
