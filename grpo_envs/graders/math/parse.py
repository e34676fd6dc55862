r"""Read LaTeX or plain mathematics into an immutable tree, within bounds: `parse(text) -> Node`.

A node is a tuple: its kind, then nodes (always tuples) and leaves (always str or int), so it can be
hashed, and written as JSON (nested lists). Every tuple at position 1 or later is a child.

Numbers and names
    ("num", "12")  ("num", "0.50")      digits as written, ASCII, at most one point, never a sign
    ("repeat", "0.1", "6")              0.1666...: the digits before and within the period
    ("base", "101", base)               the digits as text, the base as a node: 101_2
    ("var", "x")                        x, x_1, x_{n+1}, x', alpha (Greek without backslash);
                                        `\vec{x}` is "vec x"; bold, hat, bar ... alike
    ("const", c)                        c: pi, e, i, inf; the sets R, Q, Z, N, C
    ("word", "blue")                    text, lower case, single spaces
    ("dots",)                           an ellipsis
Operations
    ("add", a, b, ...)  ("mul", a, b, ...)  ("neg", a)  ("div", a, b)  ("pow", a, b)
    ("root", a, n)                      the n-th root; real where a is negative and n is odd
    ("fact", a)  ("fact2", a)           a!, a!!
    ("binom", n, k)
    ("pct", a)  ("deg", a)              a percent, a degrees
    ("unit", a, "cm^2")                 a quantity
    ("fn", name, a, ...)                sin cos tan cot sec csc, arc-, -h and arc-h of them, exp ln
                                        log (1 argument: base 10; 2: the second is the base) lg abs
                                        floor ceil sgn re im arg conj gcd lcm max min mod det norm
    ("call", "f", a, ...)               an unknown function: f(2), f'(x), f^-1(x)
    ("pm", a, b)  ("mp", a, b)          a plus-minus b; a is 0 if there is only a sign
    ("ratio", a, b, ...)                a : b
Collections
    ("list", a, b, ...)                 a, b or c: no brackets
    ("tuple", "(", "]", a, b, ...)      with its brackets, ( or [ and ) or ]: also the intervals
    ("set", a, ...)                     ("set",) is the empty set
    ("union", a, b, ...)  ("inter", a, b, ...)  ("minus", a, b)
    ("matrix", ("row", a, b), ...)      all rows of one length
    ("transpose", a)                    of a matrix
Relations
    ("rel", a, "<", b, "<=", c)         a chain; = != < <= > >= ~ (about) in notin subset
    ("congruent", a, b, m)              a = b (mod m)
    ("where", a, ("param", "k", "Z", ""), ...)  a with its `qualifiers`: at the top only
For sympy only
    ("sum", body, ("var", "k"), low, high)      ("product", body, ("var", "k"), low, high)
    ("integral", body, ("var", "x"))            ("integral", body, ("var", "x"), low, high)
    ("limit", body, ("var", "x"), to, side)     side: "+", "-" or "+-" (both)
    ("derivative", body, ("var", "x"), order)   order: an int
    ("setbuilder", element, condition, ...)     conditions: rel, congruent or word

A bound variable is a `var` in its body, even if it is written i or e.
"""

import re
from itertools import combinations

from grpo_envs.graders.math.accents import ACCENTS
from grpo_envs.graders.math.commands import COMMANDS
from grpo_envs.graders.math.grammar import Parser
from grpo_envs.graders.math.infix import INFIXES
from grpo_envs.graders.math.leaves import LEAVES
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.qualifiers import split
from grpo_envs.graders.math.spellings import respelt
from grpo_envs.graders.math.systems import SYSTEMS, as_system
from grpo_envs.graders.math.tokens import Token, Unreadable, tokenize

__all__ = ["Node", "Unreadable", "parse"]

_read_matrix = COMMANDS["begin", ""]
_STARTS = {
    **LEAVES,
    **COMMANDS,
    **ACCENTS,
    **SYSTEMS,
    ("begin", "array"): lambda parser, name: as_system(_read_matrix(parser, name)),
}
_GOES_ON = re.compile(r"(?<![A-Za-z])(?:and|or)[\s}.$)]*\Z")
_BREAK: Token = ("op", "\\\\")
_COMMA: Token = ("op", ",")
_BAR: Token = ("op", "|")
_BARS = (4, 6, 8)  # numbers of bars with several possible pairings


def parse(text: str, *, quantity: bool = False) -> Node:
    r"""Return the tree of `text`.

    Args:
        text: LaTeX or plain mathematics.
        quantity: Whether letters after a number are units if possible: 8 m is 8 metres.

    Raises:
        Unreadable: `text` is not mathematics that we can read, or is beyond a limit.

    >>> parse(r"\frac{1}{2}x^2")
    ('mul', ('div', ('num', '1'), ('num', '2')), ('pow', ('var', 'x'), ('num', '2')))
    >>> parse("x < 5, 7")
    ('list', ('rel', ('var', 'x'), '<', ('num', '5')), ('num', '7'))
    """
    end = text[-40:]
    if ("and" in end or "or" in end) and _GOES_ON.search(end):
        raise Unreadable("it ends too early")
    tokens = tokenize(respelt(text), quantity=quantity)
    if _BREAK in tokens and all(kind != "begin" for kind, _ in tokens):
        tokens = [_COMMA if token == _BREAK else token for token in tokens]
    body, qualifiers = split(tokens)
    if not qualifiers:
        return _tree(body)
    return ("where", _tree(body), *qualifiers)


def _tree(tokens: list[Token]) -> Node:
    if tokens.count(_BAR) not in _BARS:
        return Parser(tokens, _STARTS, INFIXES).answer()
    try:
        return Parser([*tokens], _STARTS, INFIXES).answer()  # a copy: the parser changes its tokens
    except Unreadable:
        return _with_bars(tokens, [at for at, token in enumerate(tokens) if token == _BAR])


def _with_bars(tokens: list[Token], bars: list[int]) -> Node:
    """Try which bars open and which close: | |x| |y| | has six equal bars."""
    half = len(bars) // 2
    for opening in combinations(range(len(bars)), half):
        if any(place > 2 * number for number, place in enumerate(opening)):
            continue  # a closing bar without an opening one
        marked = [*tokens]
        for place, at in enumerate(bars):
            marked[at] = ("op", "lbar" if place in opening else "rbar")
        try:
            return Parser(marked, _STARTS, INFIXES).answer()
        except Unreadable:
            continue
    raise Unreadable("bars that do not pair off")
