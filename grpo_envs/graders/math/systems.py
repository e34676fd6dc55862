r"""Environments with lines: `cases`, `aligned` and similar ones are a list, or one chain."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from grpo_envs.graders.math.grammar import Parser, Start
from grpo_envs.graders.math.infix import RELATIONS
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.tokens import Token

_ALIGNED = frozenset(
    {"aligned", "align", "alignat", "alignedat", "cases", "dcases", "rcases", "gathered", "gather"}
    | {"split", "eqnarray", "equation", "multline"}
)
_BRACED = _ALIGNED | {"array", "matrix"}
_CASES = frozenset({"cases", "dcases", "rcases"})
_IF = frozenset(("text", word) for word in ("if", "for", "when", "where"))
_BREAK: Token = ("op", "\\\\")
_AND: Token = ("op", "&")
_COMMA: Token = ("op", ",")
_END: Token = ("end", "")


def in_order_of_names(equations: Sequence[Node]) -> Sequence[Node]:
    """Return equations in the order of their names (x, y, z; a, b; x_1, x_2), else as given.

    >>> equations = [("rel", ("var", name), "=", ("num", "1")) for name in "yx"]
    >>> [equation[1][1] for equation in in_order_of_names(equations)]
    ['x', 'y']
    """
    named = [(each[1][1], each) for each in equations if each[0] == "rel" and each[1][0] == "var"]
    ordered = sorted(named, key=lambda pair: pair[0])
    letters = [name.partition("_")[0] for name, _ in ordered]
    single = len(named) == len(equations) and all(len(letter) == 1 for letter in letters)
    if single and all(ord(two) - ord(one) <= 1 for one, two in pairwise(letters)):
        return [each for _, each in ordered]
    return equations


def lines(parser: Parser, name: str) -> Node:
    """Read the lines of an environment after its `begin`, as a list or as one chain."""
    if name in _CASES and (branches := _branches(parser, name)):
        return _read(parser, branches)
    found: list[Token] = []
    while parser.tokens[parser.at][0] not in ("close", "end", "begin"):
        token = parser.take()
        following = parser.tokens[parser.at]
        if token == _BREAK:
            _skip_height(parser)
            if not _is_relation(_skip_marks(parser)):  # else the chain continues
                found.append(_COMMA)
        elif token != _AND:
            found.append(token)
        elif found and found[-1] != _COMMA and not _is_relation(found[-1], following):
            parser.fail("&")  # the columns of a table
    if parser.take() != ("close", name):
        parser.fail(name)
    while found and found[-1] == _COMMA:
        found.pop()
    return _read(parser, found)


def _read(parser: Parser, tokens: list[Token]) -> Node:
    inner = Parser([*tokens, _END], parser.starts, parser.infixes)
    inner.depth = parser.depth + 1
    return inner.answer()


def _branches(parser: Parser, name: str) -> list[Token] | None:
    r"""Return the branches of a function, `x & x > 0 \\ -x & x \le 0`, as pairs, in any order.

    Their tokens are taken from the parser. If the lines are not branches, none is taken: None.
    """
    rest = parser.tokens[parser.at :]
    if ("close", name) not in rest:
        return None
    end = rest.index(("close", name))
    rows = [row for row in _split(rest[:end], _BREAK) if row]
    found: list[Token] = []
    for row in rows:
        sides = [_without_ends(side) for side in _split(row, _AND)]
        if len(sides) != 2 or not all(sides) or _is_relation(sides[0][-1], sides[1][0]):
            return None
        found += [_COMMA] if found else []
        found += [("op", "("), *sides[0], _COMMA, *sides[1], ("op", ")")]
    parser.at += end + 1
    return found


def _split(tokens: list[Token], at: Token) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token == at:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _without_ends(tokens: list[Token]) -> list[Token]:
    """Return a side of a branch without outer commas and the `if` before its condition."""
    while tokens and (tokens[0] == _COMMA or tokens[0] in _IF):
        tokens = tokens[1:]
    while tokens and tokens[-1] == _COMMA:
        tokens = tokens[:-1]
    return tokens


def as_system(matrix: Node) -> Node:
    """Return a matrix with one column of equations as a list, any other matrix unchanged."""
    cells = [row[1] for row in matrix[1:] if len(row) == 2 and row[1][0] == "rel"]
    return ("list", *cells) if 1 < len(cells) == len(matrix) - 1 else matrix


def system_ahead(parser: Parser) -> bool:
    r"""Return whether an environment follows that no `\}` ends: a system after one large brace."""
    kind, name = parser.tokens[parser.at]
    if kind != "begin" or name not in _BRACED:
        return False
    close = ("close", name)
    tokens = parser.tokens[parser.at :]
    return close in tokens and tokens[tokens.index(close) + 1] != ("op", "\\}")


def _is_relation(*tokens: Token) -> bool:
    return any(kind == "op" and value in RELATIONS for kind, value in tokens)


def _skip_height(parser: Parser) -> None:
    r"""Step over the `[4pt]` of a line break."""
    if parser.ahead("["):
        after = parser.tokens[parser.at + 1 : parser.at + 5]
        kinds = [kind for kind, _ in after]
        if kinds[:3] == ["num", "name", "name"] and after[3:] == [("op", "]")]:
            parser.at += 5


def _skip_marks(parser: Parser) -> Token:
    while parser.ahead("&"):
        parser.at += 1
    return parser.tokens[parser.at]


SYSTEMS: Mapping[Token, Start] = {("begin", name): lines for name in _ALIGNED}
