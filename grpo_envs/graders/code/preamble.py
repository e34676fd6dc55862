"""The code before a program: the prompt's imports and helpers, and LeetCode's definitions."""

import ast
import itertools

_TYPES = """\
from typing import *
import bisect, collections, functools, heapq, itertools, math, operator, re, string
from bisect import bisect_left, bisect_right, insort
from collections import *
from functools import cache, cmp_to_key, lru_cache, reduce
from heapq import heapify, heappop, heappush, heappushpop, heapreplace, nlargest, nsmallest
from itertools import accumulate, chain, combinations, count, groupby, permutations, product
from math import ceil, comb, factorial, floor, gcd, inf, isqrt, log2, sqrt
"""
_NODES = """\
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right
"""
LEETCODE = _TYPES + _NODES
"""The definitions that LeetCode puts before a `class Solution`."""


def is_leetcode(entry_point: str) -> bool:
    """Return whether programs are a `class Solution`, as on LeetCode."""
    return entry_point.partition("().")[0] == "Solution"


def program_behind(preamble: str, program: str, entry_point: str) -> str:
    r"""Return the preamble and then the program, with imports from `__future__` before both.

    >>> program_behind("import math", "from __future__ import annotations\nx = 1", "f")
    'from __future__ import annotations\nimport math\npass\nx = 1'
    """
    before = f"{LEETCODE}{preamble}" if is_leetcode(entry_point) else preamble
    if not before.strip():
        return program
    if "__future__" not in before + program:
        return f"{before}\n{program}"
    futures: list[str] = []
    parts = [_without_futures(text, futures) for text in (before, program)]
    features = ", ".join(dict.fromkeys(futures))
    return f"from __future__ import {features}\n" * bool(futures) + "\n".join(parts)


def _without_futures(text: str, features: list[str]) -> str:
    """Return `text` without its imports from `__future__`, whose names go to `features`."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    at = itertools.takewhile(lambda node: _is_text(node) or _is_future(node), body)
    lines = text.encode().split(b"\n")  # columns count bytes
    for node in reversed([node for node in at if isinstance(node, ast.ImportFrom)]):
        features[:0] = [alias.name for alias in node.names if alias.asname is None]
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        rest = lines[last][node.end_col_offset :]
        lines[first] = lines[first][: node.col_offset] + b"pass" + (rest if first == last else b"")
        for line in range(first + 1, last + 1):
            lines[line] = rest if line == last and rest.strip() else b""
    return b"\n".join(lines).decode()


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
