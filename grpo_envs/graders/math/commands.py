r"""The meaning of LaTeX commands: fractions, roots, accents, sums, integrals, limits, matrices."""

from collections.abc import Mapping

from grpo_envs.graders.math.grammar import SUM, Parser, Start
from grpo_envs.graders.math.leaves import subscript
from grpo_envs.graders.math.nodes import TWO, Node, substitute
from grpo_envs.graders.math.tokens import Token

_NUMBER_SETS = frozenset("RQZNC")
_MATRICES = frozenset(
    {"matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array"}
)
_BOUND: tuple[Node, ...] = (("const", "i"), ("const", "e"))
_D: Token = ("name", "d")


def _fraction(parser: Parser, _: str) -> Node:
    start = parser.at
    above, below = parser.argument(), parser.argument()
    return _derivative(parser, start) if _is_d(above) else ("div", above, below)


def _is_d(node: Node) -> bool:
    """Return whether `node` is d, d^2, dy or d^2 y: the numerator of a derivative."""
    first = node[1] if node[0] in ("mul", "pow") else node
    return first == ("var", "d") or (node[0] == "mul" and _is_d(first))


def _derivative(parser: Parser, start: int) -> Node:
    r"""Read `\frac{d}{dx} f` or `\frac{d^2 y}{dx^2}`, whose fraction was just read from `start`."""
    end, parser.at = parser.at, start
    above, below = parser.argument(), parser.argument()
    order, body = 1, None
    match above:
        case ("var", "d"):
            pass
        case ("pow", ("var", "d"), ("num", number)):
            order = int(number)
        case ("mul", ("var", "d"), body):
            pass
        case ("mul", ("pow", ("var", "d"), ("num", number)), body):
            order = int(number)
        case _:
            return ("div", above, below)
    match below:
        case ("mul", ("var", "d"), ("var", _) as variable) if order == 1:
            pass
        case ("mul", ("var", "d"), ("pow", ("var", _) as variable, ("num", number))) if (
            int(number) == order
        ):
            pass
        case _:
            return ("div", above, below)
    parser.at = end
    return ("derivative", body or parser.expression(SUM), variable, order)


def _root(parser: Parser, _: str) -> Node:
    index: Node = TWO
    if parser.ahead("["):
        parser.at += 1
        index = parser.enclosed()
        parser.expect("]")
    if parser.tokens[parser.at][0] == "num":  # \sqrt12 is meant as the root of 12
        return ("root", ("num", parser.take()[1]), index)
    return ("root", parser.argument(), index)


def _binomial(parser: Parser, _: str) -> Node:
    return ("binom", parser.argument(), parser.argument())


def _accented(parser: Parser, accent: str) -> Node:
    return ("var", f"{accent} {subscript(parser)}")


def _number_set(parser: Parser, _: str) -> Node:
    name = subscript(parser)
    return ("const", name) if name in _NUMBER_SETS else ("var", f"mathbb {name}")


def _transparent(parser: Parser, _: str) -> Node:
    return parser.argument()


def _bounds(parser: Parser) -> tuple[Node | None, Node | None]:
    low = high = None
    for _ in range(2):
        if parser.skip("_"):
            low = parser.argument()
        if parser.skip("^"):
            high = parser.argument()
    return low, high


def _bind(body: Node, variable: Node) -> tuple[Node, Node]:
    """Return body and variable; the variable may have been read as a constant before."""
    if variable in _BOUND:
        named: Node = ("var", variable[1])
        return substitute(body, variable, named), named
    return body, variable


def _big(kind: str) -> Start:
    def read(parser: Parser, name: str) -> Node:
        low, high = _bounds(parser)
        if low is None or high is None or low[0] != "rel" or low[2:3] != ("=",) or len(low) != 4:
            parser.fail(name)
        body, variable = _bind(parser.expression(SUM), low[1])
        if variable[0] != "var":
            parser.fail(name)
        return (kind, body, variable, low[3], high)

    return read


def _limit(parser: Parser, name: str) -> Node:
    low, _ = _bounds(parser)
    if low is None or low[0] != "rel" or low[2:3] != ("to",) or len(low) != 4:
        parser.fail(name)
    to, side = low[3], "+-"
    if to[0] == "pow" and to[2] in (("word", "+"), ("word", "-")):
        to, side = to[1], to[2][1]
    body, variable = _bind(parser.expression(SUM), low[1])
    return ("limit", body, variable, to, side) if variable[0] == "var" else parser.fail(name)


def _integral(parser: Parser, name: str) -> Node:
    low, high = _bounds(parser)
    if (low is None) != (high is None):
        parser.fail(name)
    end = _differential(parser)
    inner = Parser([*parser.tokens[parser.at : end], ("end", "")], parser.starts, parser.infixes)
    inner.depth = parser.depth + 1
    body = inner.answer()
    body, variable = _bind(body, _differential_of(parser, end))
    parser.at = end + 2
    bounds = () if low is None or high is None else (low, high)
    return ("integral", body, variable, *bounds)


def _differential(parser: Parser) -> int:
    """Return the position of the integral's `dx`, outside of inner brackets."""
    depth = 0
    for at in range(parser.at, len(parser.tokens) - 1):
        kind, value = parser.tokens[at]
        if kind == "op":
            depth += (value in "([{\\{") - (value in ")]}\\}")
        if depth == 0 and (kind, value) == _D and parser.tokens[at + 1][0] == "name":
            return at
    return parser.fail("int")


def _differential_of(parser: Parser, end: int) -> Node:
    name = parser.tokens[end + 1][1]
    return ("const", name) if name in "ei" else ("var", name)


def _matrix(parser: Parser, name: str) -> Node:
    if name not in _MATRICES:
        parser.fail(name)
    rows: list[Node] = []
    while parser.tokens[parser.at][0] != "close":
        row = [parser.enclosed()]
        while parser.skip("&"):
            row.append(parser.enclosed())
        rows.append(("row", *row))
        if not parser.skip("\\\\") and parser.tokens[parser.at][0] != "close":
            parser.fail(parser.tokens[parser.at][1])
    if parser.take()[1] != name or len({len(row) for row in rows}) != 1:
        parser.fail(name)
    matrix: Node = ("matrix", *rows)
    return ("fn", "det", matrix) if name == "vmatrix" else matrix


COMMANDS: Mapping[Token, Start] = {
    ("begin", ""): _matrix,
    ("cmd", "frac"): _fraction,
    ("cmd", "sqrt"): _root,
    ("cmd", "binom"): _binomial,
    ("cmd", "mathbb"): _number_set,
    ("cmd", "sum"): _big("sum"),
    ("cmd", "prod"): _big("product"),
    ("cmd", "lim"): _limit,
    ("cmd", "int"): _integral,
    ("cmd", "emptyset"): lambda _parser, _: ("set",),
    **{("cmd", name): _transparent for name in ("boxed", "fbox", "displaystyle", "mathit")},
    **{
        ("cmd", name): _accented
        for name in (
            *("vec", "hat", "bar", "overline", "overrightarrow", "widehat", "tilde", "mathbf"),
            *("boldsymbol", "bm", "mathcal", "angle", "triangle"),
        )
    },
}
