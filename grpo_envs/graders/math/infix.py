"""What can follow an expression: signs, lists, relations, units, or another factor."""

from collections.abc import Mapping
from fractions import Fraction

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
from grpo_envs.graders.math.nodes import INFINITY, ZERO, Node
from grpo_envs.graders.math.numerals import based
from grpo_envs.graders.math.tokens import Token, Unreadable

RELATIONS = ("=", "!=", "<", "<=", ">", ">=", "~", "in", "notin", "subset", "to")
_BOUNDS = frozenset({"<", "<=", ">", ">="})
_NUMBER_SETS = frozenset("RQZNC")
_TRANSPOSED = (("name", "T"), ("cmd", "top"), ("cmd", "intercal"), ("text", "t"))
_NOT_A_FACTOR = frozenset({"list", "rel", "word", "union", "set", "inter", "minus", "congruent"})


def joined(kind: str, left: Node, right: Node) -> Node:
    """Return an n-ary node: `a + b` and `c` make one sum of three."""
    return (*left, right) if left[0] == kind else (kind, left, right)


def words(parser: Parser) -> str:
    """Read the next words as one text."""
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
    right = _operand(parser, SUM)
    if right[0] == "set" and left[0] in ("const", "tuple", "union", "set"):
        return ("minus", left, right)  # R - {0}
    return joined("add", left, ("neg", right))


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
    if left[0] in ("matrix", "tuple") and _transposed(parser):
        return ("transpose", left) if left[0] == "matrix" else _column(left)
    if left[0] == "const" and left[1] in _NUMBER_SETS and (part := _part_of(parser, left)):
        return part
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


def _column(row: Node) -> Node:
    return ("matrix", *(("row", entry) for entry in row[3:]))


def _part_of(parser: Parser, numbers: Node) -> Node | None:
    """Read the sign of a set of numbers: R^+, R^-, R^*; None if there is none.

    The last `*` of a text is cut off before reading: if nothing follows `^`, it was a `*`.
    """
    braced = parser.ahead("{")
    kind, value = parser.tokens[parser.at + braced]
    if kind != "end" and value not in ("+", "-", "*"):
        return None
    parser.at += (kind != "end") + braced
    if braced:
        parser.expect("}")
    if numbers[1] != "R" or value not in ("+", "-"):
        return ("minus", numbers, ("set", ZERO))
    bounds = (ZERO, INFINITY) if value == "+" else (("neg", INFINITY), ZERO)
    return ("tuple", "(", ")", *bounds)


def _transposed(parser: Parser) -> bool:
    r"""Step over the exponent of a matrix if it is T, in any font, or \top."""
    braced = parser.ahead("{")
    tokens = parser.tokens[parser.at + braced : parser.at + braced + 2]
    if tokens[0] not in _TRANSPOSED or (braced and tokens[1] != ("op", "}")):
        return False
    parser.at += 1 + 2 * braced
    return True


def _factorial(parser: Parser, left: Node) -> Node:
    parser.at += 1
    return ("fact2", left) if parser.skip("!") else ("fact", left)


def _percent(parser: Parser, left: Node) -> Node:
    parser.at += 1
    return ("pct", left)


def _degrees(parser: Parser, left: Node) -> Node:
    """Read a degree sign, and the minutes and seconds of arc that may follow: 30° 15' 20''."""
    parser.at += 1
    seconds = 0
    for size, marks in ((60, 1), (1, 2)):
        (kind, digits), *after = parser.tokens[parser.at : parser.at + 2 + marks]
        signs = [value for kind, value in after if kind == "op"]
        more = parser.tokens[parser.at + 1 + marks : parser.at + 2 + marks] == [("op", "'")]
        if kind == "num" and signs[:marks] == ["'"] * marks and not more:
            if not digits.isdecimal() or len(digits) > 2 or int(digits) >= 60:
                parser.fail(digits)
            seconds += int(digits) * size
            parser.at += 1 + marks
    if not seconds:
        return ("deg", left)
    part = Fraction(seconds, 3600)
    if left[0] == "num" and left[1].isdecimal():
        part += int(left[1])
        return ("deg", ("div", ("num", str(part.numerator)), ("num", str(part.denominator))))
    small: Node = ("div", ("num", str(part.numerator)), ("num", str(part.denominator)))
    return ("deg", ("add", left, small))


def _grouped(parser: Parser, left: Node) -> Node:
    """Read groups separated by semicolons; groups with commas are tuples."""
    groups = [left]
    while parser.skip(";"):
        groups.append(parser.expression(GROUPS))
    return ("list", *(_case(group) if group[0] == "list" else group for group in groups))


def _either(parser: Parser, left: Node) -> Node:
    """Read alternatives of `or`: `x = 1, y = 2 or x = 3, y = 4` is two cases of two values each."""
    groups = [left]
    while parser.skip("or"):
        groups.append(parser.expression(GROUPS))
    if all(map(_is_case, groups)):
        return ("list", *map(_case, groups))
    items = [item for group in groups for item in (group[1:] if group[0] == "list" else (group,))]
    signs = {sign for item in items if item[0] == "rel" for sign in item[2::2]}
    if "!=" in signs and signs & _BOUNDS:
        raise Unreadable("an exclusion that may hold or not")
    return ("list", *items)


def _is_case(node: Node) -> bool:
    """Return whether `node` has values of several names: x = 1, y = 2."""
    if node[0] != "list" or any(item[0] != "rel" or item[2] != "=" for item in node[1:]):
        return False
    return len({item[1] for item in node[1:]}) == len(node) - 1


def _case(items: Node) -> Node:
    """Return a list within a list as a tuple, the values of several names in the names' order."""
    ordered = sorted(items[1:], key=lambda item: str(item[1])) if _is_case(items) else items[1:]
    return ("tuple", "(", ")", *ordered)


def _listed(parser: Parser, left: Node) -> Node:
    items = [left]
    while parser.skip(","):
        while parser.skip(","):  # ", and"
            pass
        if parser.tokens[parser.at][0] == "end" or parser.ahead(")", "]", "}", "\\}", ";", "or"):
            break
        items.append(parser.expression(LIST))
    if len(items) > 1 and all(map(_is_case, items)):  # two systems
        items = [*map(_case, items)]
    return ("list", *items) if len(items) > 1 else left


def _number_set(node: Node) -> Node:
    """Return the set of numbers that a letter such as R means where a set is expected."""
    if node[0] != "var":
        return node
    bare = node[1].removeprefix("mathbf ")
    return ("const", bare) if bare in _NUMBER_SETS else node


def _related(parser: Parser, left: Node) -> Node:
    chain: list[Node | str] = [left]
    while parser.ahead(*RELATIONS):
        sign, side = parser.take()[1], parser.expression(RELATION)
        chain += [sign, _number_set(side) if sign in ("in", "notin") else side]
    return ("rel", *chain)


def _congruent(parser: Parser, left: Node) -> Node:
    parser.at += 1
    if left[0] not in ("rel", "list"):
        return ("congruent", ("word", ""), left, parser.argument())  # a residue, 4 (mod 7)
    if left[0] != "rel" or len(left) != 4 or left[2] != "=":
        parser.fail("mod")
    return ("congruent", left[1], left[3], parser.argument())


def _sets(parser: Parser, left: Node) -> Node:
    sign = parser.tokens[parser.at][1]
    left, right = _number_set(left), _number_set(_operand(parser, SETS))
    if sign == "setminus":
        return ("minus", left, right)
    return joined("inter" if sign == "cap" else "union", left, right)


def _ratio(parser: Parser, left: Node) -> Node:
    return joined("ratio", left, _operand(parser, RATIO))


def _choose(parser: Parser, left: Node) -> Node:
    return ("binom", left, _operand(parser, CHOOSE))


def _unit(parser: Parser, left: Node) -> Node:
    """Read a unit, which tokens have in one spelling; other words cannot follow a value."""
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
    ("op", "or"): (GROUPS, _either),
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
    ("op", "_"): (POSTFIX, based),
}
