"""What can begin an expression, except LaTeX commands: numbers, names, functions, brackets."""

import re
from collections.abc import Mapping

from grpo_envs.graders.math.grammar import SIGN, SUM, Parser, Start
from grpo_envs.graders.math.infix import joined, power, words
from grpo_envs.graders.math.nodes import ONE, ZERO, Node
from grpo_envs.graders.math.numerals import numeral
from grpo_envs.graders.math.systems import lines, system_ahead
from grpo_envs.graders.math.tokens import Token, Unreadable

_CALLED = frozenset("fg")  # f(2) is a value of f; a(2) is a product
_CONSTANTS = frozenset("ei")
_ARC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"})
_SEVERAL = frozenset({"gcd", "lcm", "max", "min"})
_EXCEPT = re.compile(r"(?:all|any) real(?:s| numbers?) (?:except|other than|but)(?: for)?")
_SEGMENT = re.compile(r"(?:vec )?([A-Z]{2})")
_MINUS_ONE: Node = ("neg", ONE)


def _number(parser: Parser, digits: str) -> Node:
    if parser.tokens[parser.at][0] == "name" and (based := numeral(parser, digits)):
        return based
    number: Node = ("num", digits)
    if "." in digits:
        return number
    if parser.tokens[parser.at] == (
        "cmd",
        "frac",
    ):  # 2\frac12 is two and a half, 2\frac x2 is a product
        fraction = parser.start()
        mixed = fraction[0] == "div" and fraction[1][0] == fraction[2][0] == "num"
        return _mixed(number, fraction) if mixed else joined("mul", number, fraction)
    if parser.tokens[parser.at][0] != "num":
        return number
    following = parser.tokens[parser.at : parser.at + 3]
    if [kind for kind, _ in following] == ["num", "op", "num"] and following[1][1] == "/":
        parser.at += 3
        return _mixed(number, ("div", following[0], following[2]))
    return number


def _mixed(whole: Node, fraction: Node) -> Node:
    """Return a mixed number as one fraction: it is a value, and 3 + 1/4 a sum to carry out."""
    _, (_, above), (_, below) = fraction
    if not (whole[1].isdecimal() and above.isdecimal() and below.isdecimal()):
        return ("add", whole, fraction)
    return ("div", ("num", str(int(whole[1]) * int(below) + int(above))), fraction[2])


def _scientific(_parser: Parser, text: str) -> Node:
    digits, _, exponent = text.partition("e")
    size: Node = ("num", exponent.lstrip("+-"))
    sized = ("neg", size) if exponent.startswith("-") else size
    return ("mul", ("num", digits), ("pow", ("num", "10"), sized))


def _repeating(_parser: Parser, text: str) -> Node:
    before, _, period = text.partition("{")
    return ("repeat", before, period)


def _name(parser: Parser, name: str) -> Node:
    if name.isupper() and (based := numeral(parser, name)):
        return based
    if parser.skip("_"):
        name += "_" + subscript(parser)
    elif name in _CONSTANTS:
        return ("const", name)
    while parser.skip("'"):
        name += "'"
    if name[0] in _CALLED or name.endswith("'"):
        inverse = [("op", "^"), ("op", "{"), ("op", "-"), ("num", "1"), ("op", "}"), ("op", "(")]
        if parser.tokens[parser.at : parser.at + 6] == inverse:
            parser.at += 5
            name += "^-1"
        if parser.ahead("("):
            return _call(parser, name)
    return defined(parser, name) or ("var", name)


def defined(parser: Parser, name: str) -> Node | None:
    r"""Read the left side of a definition, P(x), E(x, 0, z) or P(A \cap B), or return None.

    A small letter before a bracket is a factor, unless the bracket has one or several names.
    """
    if not parser.ahead("("):
        return None
    depth, at, inside = 1, parser.at + 1, parser.tokens[parser.at + 1 :]
    for kind, value in inside:
        depth += ((kind, value) == ("op", "(")) - ((kind, value) == ("op", ")"))
        if depth == 0 or kind == "end":
            break
        at += 1
    if depth or parser.tokens[at + 1] not in (("op", "="), ("op", "~")):
        return None
    content = parser.tokens[parser.at + 1 : at]
    several = ("op", ",") in content or len(content) == 1
    if not several and not name[0].isupper() and len(name.partition("_")[0]) == 1:
        return None
    depth, closing = parser.depth, parser.closing
    try:
        return _call(parser, name)
    except Unreadable:  # P(A|B), P(X > 2), P(red)
        parser.at, parser.depth, parser.closing = at + 1, depth, closing
        return ("call", name, ("word", "".join(value for _, value in content)))


def _call(parser: Parser, name: str) -> Node:
    start = parser.at
    inner = parser.start()
    if parser.tokens[parser.at - 1] != ("op", ")"):
        parser.at = start
        raise Unreadable("no call")
    return ("call", name, *(inner[3:] if inner[0] == "tuple" else (inner,)))


def subscript(parser: Parser) -> str:
    """Read a subscript, or the argument of an accent, as text."""
    kind, value = parser.take()
    if (kind, value) != ("op", "{"):
        return value if kind in ("num", "name", "text", "const") else parser.fail(value)
    parts, depth = [], 1
    while depth:
        kind, value = parser.take()
        if kind == "end":
            parser.fail(value)
        depth += ((kind, value) == ("op", "{")) - ((kind, value) == ("op", "}"))
        parts.append(value)
    return "".join(parts[:-1])


def _function(parser: Parser, name: str) -> Node:
    base: Node | None = None
    exponent: Node | None = None
    for _ in range(2):
        if parser.skip("_"):
            base = parser.argument()
        if parser.ahead("^"):
            exponent = power(parser, ZERO)[2]
    if base is not None and name != "log":
        parser.fail(name)
    if exponent == _MINUS_ONE and name in _ARC:
        name, exponent = f"arc{name}", None
    node: Node = ("fn", name, *_arguments(parser, name), *((base,) if base else ()))
    if name == "exp":
        node = ("pow", ("const", "e"), node[2])
    return node if exponent is None else ("pow", node, exponent)


def _arguments(parser: Parser, name: str) -> tuple[Node, ...]:
    if parser.ahead("(", "[", "{"):
        inner = parser.start()
        if inner[0] in ("tuple", "set"):
            return inner[3:] if name in _SEVERAL and inner[0] == "tuple" else parser.fail(name)
        return (inner,)
    argument = parser.expression(SIGN)
    if name in _SEVERAL and argument[0] == "set":  # the largest of {a, b}
        return argument[1:]
    # sin 2 pi x cos x: up to the next function, bracket or sign
    while parser.factor_ahead() and parser.tokens[parser.at][0] not in ("fn", "op"):
        argument = joined("mul", argument, parser.expression(SIGN))
    return (argument,)


def _word(parser: Parser, text: str) -> Node:
    if parser.ahead("(") and (called := defined(parser, text)):
        return called
    if _EXCEPT.fullmatch(text):  # all real numbers except 2 and 3
        points = parser.expression()
        if points[0] == "rel" and points[2:3] == ("=",):
            points = points[-1]
        items = points[1:] if points[0] in ("list", "set") else (points,)
        return ("minus", ("const", "R"), ("set", *items))
    return ("word", f"{text} {words(parser)}".rstrip())


def _bracketed(parser: Parser, opening: str) -> Node:
    inner = parser.enclosed()
    closing = parser.expect(")", "]")
    if inner[0] == "list":
        return ("tuple", opening, closing, *inner[1:])
    return inner if opening + closing in ("()", "[]") else parser.fail(closing)


def _group(parser: Parser, opening: str) -> Node:
    if parser.skip("}"):
        parser.fail(opening)
    inner = parser.enclosed()
    parser.expect("}")
    return ("set", *inner[1:]) if inner[0] == "list" else inner


def _set(parser: Parser, _: str) -> Node:
    if system_ahead(parser):
        return lines(parser, parser.take()[1])
    if parser.skip("\\}"):
        return ("set",)
    inner = parser.enclosed("|", ":")
    if parser.skip("|", ":"):
        condition = parser.enclosed()
        parser.expect("\\}")
        parts = condition[1:] if condition[0] == "list" else (condition,)
        return ("setbuilder", inner, *parts)
    parser.expect("\\}")
    return ("set", *inner[1:]) if inner[0] == "list" else ("set", inner)


def _between(name: str, closing: str) -> Start:
    def read(parser: Parser, _: str) -> Node:
        inner = parser.enclosed(closing)
        parser.expect(closing)
        if inner[0] == "var" and (segment := _SEGMENT.fullmatch(inner[1])):
            return ("var", segment[1])  # |AB| is the length of AB
        return ("fn", "det" if inner[0] == "matrix" and name == "abs" else name, inner)

    return read


def _negative(parser: Parser, _: str) -> Node:
    return ("neg", parser.expression(SIGN))


def _positive(parser: Parser, _: str) -> Node:
    return parser.expression(SIGN)


def _plus_minus(parser: Parser, sign: str) -> Node:
    return (sign, ZERO, parser.expression(SUM))


def _dots(_parser: Parser, _: str) -> Node:
    return ("dots",)


LEAVES: Mapping[Token, Start] = {
    ("num", ""): _number,
    ("sci", ""): _scientific,
    ("repeat", ""): _repeating,
    ("name", ""): _name,
    ("const", ""): lambda _, name: ("const", name),
    ("fn", ""): _function,
    ("text", ""): _word,
    ("op", "("): _bracketed,
    ("op", "["): _bracketed,
    ("op", "{"): _group,
    ("op", "\\{"): _set,
    ("op", "|"): _between("abs", "|"),
    ("op", "lbar"): _between("abs", "rbar"),
    ("op", "norm"): _between("norm", "norm"),
    ("op", "lfloor"): _between("floor", "rfloor"),
    ("op", "lceil"): _between("ceil", "rceil"),
    ("op", "-"): _negative,
    ("op", "+"): _positive,
    ("op", "pm"): _plus_minus,
    ("op", "mp"): _plus_minus,
    ("op", "..."): _dots,
}
