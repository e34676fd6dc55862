"""What can stand behind an expression: signs, lists, relations, units, or another factor."""

from collections.abc import Mapping

from grpo_envs.graders.math.grammar import (
    CHOOSE,
    GROUPS,
    LIST,
    MODULO,
    NOTHING,
    POSTFIX,
    POWER,
    PRODUCT,
    RATIO,
    RELATION,
    SETS,
    SIGN,
    SUM,
    UNIT,
    UNIT_NAME,
    Infix,
    Parser,
)
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.tokens import Token, Unreadable

RELATIONS = ("=", "!=", "<", "<=", ">", ">=", "~", "in", "notin", "subset", "to")
_NOT_A_FACTOR = frozenset({"list", "rel", "word", "union", "set", "inter", "minus", "congruent"})


def joined(kind: str, left: Node, right: Node) -> Node:
    """Return an n-ary node: `a + b` and `c` make one sum of three."""
    return (*left, right) if left[0] == kind else (kind, left, right)


def words(parser: Parser) -> str:
    """Read the words that stand here as one text."""
    found = []
    while parser.tokens[parser.at][0] == "text":
        found.append(parser.take()[1])
    return " ".join(found)


def _operand(parser: Parser, power: int) -> Node:
    parser.at += 1
    return parser.expression(power)


def _add(parser: Parser, left: Node) -> Node:
    return joined("add", left, _operand(parser, SUM))


def _subtract(parser: Parser, left: Node) -> Node:
    return joined("add", left, ("neg", _operand(parser, SUM)))


def _plus_minus(parser: Parser, left: Node) -> Node:
    return (parser.tokens[parser.at][1], left, _operand(parser, SUM))


def _multiply(parser: Parser, left: Node) -> Node:
    return joined("mul", left, _operand(parser, PRODUCT))


def _divide(parser: Parser, left: Node) -> Node:
    return ("div", left, _operand(parser, PRODUCT))


def _modulo(parser: Parser, left: Node) -> Node:
    return ("fn", "mod", left, _operand(parser, PRODUCT))


def _juxtaposed(parser: Parser, left: Node) -> Node:
    if left[0] in _NOT_A_FACTOR:
        parser.fail(parser.tokens[parser.at][1])
    return joined("mul", left, parser.expression(PRODUCT))


def power(parser: Parser, left: Node) -> Node:
    """Read `^` and an exponent: a group, or a signed factor; 2^3^2 is 2^(3^2)."""
    parser.at += 1
    kind, value = parser.tokens[parser.at]
    if value in ("+", "-") and parser.tokens[parser.at + 1] == ("op", "}"):
        parser.at += 1
        return ("pow", left, ("word", value))  # the side of a limit
    if kind == "num":
        parser.at += 1
        exponent: Node = ("num", value)
        if parser.ahead("!"):  # 2^3! is 8! or 2^6
            parser.fail("!")
        if parser.ahead("^"):
            parser.deeper()
            exponent = power(parser, exponent)
            parser.depth -= 1
        return ("pow", left, exponent)
    return ("pow", left, parser.argument() if value == "{" else parser.expression(SIGN))


def _factorial(parser: Parser, left: Node) -> Node:
    parser.at += 1
    return ("fact2", left) if parser.skip("!") else ("fact", left)


def _percent(parser: Parser, left: Node) -> Node:
    parser.at += 1
    return ("pct", left)


def _degrees(parser: Parser, left: Node) -> Node:
    parser.at += 1
    return ("deg", left)


def _based(parser: Parser, left: Node) -> Node:
    if left[0] != "num" or "." in left[1]:
        parser.fail("_")
    parser.at += 1
    if parser.tokens[parser.at][0] == "num":
        return ("base", left[1], ("num", parser.take()[1]))
    return ("base", left[1], parser.argument())


def _grouped(parser: Parser, left: Node) -> Node:
    """Read what semicolons separate; where commas stand between them, each group is a tuple."""
    groups = [left]
    while parser.skip(";"):
        groups.append(parser.expression(GROUPS))
    return ("list", *(("tuple", "(", ")", *g[1:]) if g[0] == "list" else g for g in groups))


def _listed(parser: Parser, left: Node) -> Node:
    items = [left]
    while parser.skip(","):
        while parser.skip(","):  # ", and"
            pass
        if parser.tokens[parser.at][0] == "end" or parser.ahead(")", "]", "}", "\\}", ";"):
            break
        items.append(parser.expression(LIST))
    return ("list", *items) if len(items) > 1 else left


def _related(parser: Parser, left: Node) -> Node:
    chain: list[Node | str] = [left]
    while parser.ahead(*RELATIONS):
        chain += [parser.take()[1], parser.expression(RELATION)]
    return ("rel", *chain)


def _congruent(parser: Parser, left: Node) -> Node:
    parser.at += 1
    if left[0] != "rel" or len(left) != 4 or left[2] != "=":
        parser.fail("mod")
    return ("congruent", left[1], left[3], parser.argument())


def _sets(parser: Parser, left: Node) -> Node:
    sign = parser.tokens[parser.at][1]
    right = _operand(parser, SETS)
    if sign == "setminus":
        return ("minus", left, right)
    return joined("inter" if sign == "cap" else "union", left, right)


def _ratio(parser: Parser, left: Node) -> Node:
    return joined("ratio", left, _operand(parser, RATIO))


def _choose(parser: Parser, left: Node) -> Node:
    return ("binom", left, _operand(parser, CHOOSE))


def _unit(parser: Parser, left: Node) -> Node:
    """Read a unit, which the tokens have in one spelling; other words do not follow a value."""
    kind, name = parser.tokens[parser.at]
    if kind == "unit":
        parser.at += 1
        return ("unit", left, name)
    text = words(parser)
    if left[0] != "word":
        raise Unreadable("it is prose, not mathematics")
    return ("word", f"{left[1]} {text}")


INFIXES: Mapping[Token, tuple[int, Infix]] = {
    UNIT_NAME: (UNIT, _unit),
    NOTHING: (PRODUCT, _juxtaposed),
    ("op", "choose"): (CHOOSE, _choose),
    ("op", ";"): (GROUPS, _grouped),
    ("op", ","): (LIST, _listed),
    ("cmd", "pmod"): (MODULO, _congruent),
    **{("op", sign): (RELATION, _related) for sign in RELATIONS},
    **{("op", sign): (SETS, _sets) for sign in ("cup", "cap", "setminus")},
    ("op", ":"): (RATIO, _ratio),
    ("op", "+"): (SUM, _add),
    ("op", "-"): (SUM, _subtract),
    **{("op", sign): (SUM, _plus_minus) for sign in ("pm", "mp")},
    ("op", "*"): (PRODUCT, _multiply),
    ("op", "/"): (PRODUCT, _divide),
    **{("cmd", name): (PRODUCT, _modulo) for name in ("bmod", "mod")},
    ("op", "^"): (POWER, power),
    ("op", "!"): (POSTFIX, _factorial),
    ("op", "%"): (POSTFIX, _percent),
    ("op", "°"): (POSTFIX, _degrees),
    ("op", "_"): (POSTFIX, _based),
}
