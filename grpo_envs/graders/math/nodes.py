"""The nodes of expressions: nested tuples, and functions to walk them. Kinds: see `parse`."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

Node = tuple[Any, ...]

ZERO: Node = ("num", "0")
ONE: Node = ("num", "1")
TWO: Node = ("num", "2")
INFINITY: Node = ("const", "inf")
# Kinds that only the sympy workers decide.
SYMPY_KINDS = frozenset({"sum", "product", "integral", "limit", "derivative", "setbuilder"})


def children(node: Node) -> Iterator[Node]:
    """Yield the nodes directly under `node`."""
    return (part for part in node[1:] if isinstance(part, tuple))


def walk(*nodes: Node) -> list[Node]:
    """Return the nodes and everything under them, without recursion."""
    found = [*nodes]
    for here in found:  # which grows during the loop
        found += [part for part in here if type(part) is tuple]
    return found


@lru_cache(maxsize=4096)
def kinds(*nodes: Node) -> frozenset[str]:
    """Return the kinds that occur in the nodes."""
    return frozenset([part[0] for part in walk(*nodes)])


def variables(*nodes: Node) -> list[str]:
    """Return the names of the variables that occur in the nodes, in order."""
    return sorted({part[1] for part in walk(*nodes) if part[0] == "var"})


def substitute(node: Node, old: Node, new: Node) -> Node:
    """Return `node` with every `old` replaced by `new`."""
    if node == old:
        return new
    return tuple(substitute(p, old, new) if isinstance(p, tuple) else p for p in node)
