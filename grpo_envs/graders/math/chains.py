"""The value of an equation `x = 5`, or of a chain of equations whose links must all be true."""

from itertools import pairwise

from grpo_envs.graders.math.comparison import EQUAL, Comparison, all_of, different, unknown
from grpo_envs.graders.math.evaluated import names_value
from grpo_envs.graders.math.identity import approximate
from grpo_envs.graders.math.judge import Judge
from grpo_envs.graders.math.nodes import ONE, Node, kinds, substitute, variables, walk

EQUALITIES = frozenset({"=", "~"})
_UNWRAPPED = EQUALITIES | {"in"}
_ASKED = frozenset(
    (
        *("var", "call", "fn", "add", "neg", "mul", "div", "pow", "root", "const", "row"),
        *("matrix", "binom", "fact", "union", "inter"),
    )
)
_OF_A_FUNCTION = frozenset({"sum", "product", "integral", "limit", "derivative"})
_TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_MOST_TERMS = 8
_ARGUMENTS = frozenset(("var", letter) for letter in "kmnrstuvwxyz")
_CLOSE = 0.01  # relative difference allowed for `about`, unless the value is a decimal


def value_of_equation(relation: Node, judge: Judge, *, answered: bool) -> tuple[Node, Comparison]:
    """Return the value that an equation gives, and whether its links are true.

    `x = 5` gives 5, and so do `5 = x`, `4 + 1 = 5` and, in an answer, `x + y = 5`. An equation that
    has to be solved, such as `2x + z = 5`, gives no value.

    Args:
        relation: The equation, or chain of equations.
        judge: Compares the links.
        answered: Whether the equation is the answer. As a gold, x + y = 5 is a line, without a
            value.
    """
    relation = _named_first(relation)
    signs = set(relation[2::2])
    if names_value(relation[1]) and signs <= _UNWRAPPED:
        return assigned(relation, judge)
    if not signs <= EQUALITIES:
        return relation, different("a relation is no value")
    if answered and _is_asked(relation[1]):
        return assigned(relation, judge)
    values, links = assigned(("rel", ("var", ""), "=", *relation[1:]), judge)
    if any(one == two for one, two in pairwise(relation[1::2])):
        return values, different("the equation says nothing")
    return values, links


def assigned(relation: Node, judge: Judge) -> tuple[Node, Comparison]:
    """Return the value that a chain x = a = b gives, and whether a is b.

    An exact value takes precedence: 1/3 for x = 1/3, about 0.33.
    """
    values, signs = relation[3::2], relation[2::2]
    exact = [value for value, sign in zip(values, signs, strict=True) if sign != "~"] or values[-1:]
    links = all_of(judge.compare(value, exact[-1]) for value in exact[:-1])
    rounded = [value for value, sign in zip(values, signs, strict=True) if sign == "~"]
    if exact[-1] not in rounded:
        links = all_of((links, *(_about(exact[-1], value) for value in rounded)))
    if links.equal is False:
        links = different("the chain of equations contradicts itself")
    return exact[-1], links


def _named_first(relation: Node) -> Node:
    """Return 5 = x as x = 5."""
    turned = len(relation) == 4 and not names_value(relation[1]) and names_value(relation[3])
    return ("rel", *relation[:0:-1]) if turned else relation


def _is_asked(node: Node) -> bool:
    """Return whether a problem can ask for `node`: x + y, sin 2x, but not 2x + z or x^2.

    An expression with numbers, or with only one name, is the side of an equation to solve.
    """
    found = kinds(node)
    if "dots" in found or ("call" in found and found & _OF_A_FUNCTION):  # 1 + ... + 7, lim f(x)
        return True
    plain = all(part[0] in _ASKED for part in walk(_without_exponents(node)))
    inner = node[1] if node[0] == "pow" else node
    named = {part for part in walk(node) if part[0] in ("var", "call")}
    return plain and (len(named) > 1 or inner[0] == "fn")


def _without_exponents(node: Node) -> Node:
    if node[0] in ("pow", "root") and node[2][0] == "num":
        return _without_exponents(node[1])
    if node[0] == "call" or (node[0] == "fn" and node[1] in _TRIGONOMETRIC):
        return ("fn", node[1], ("var", ""))
    if node[:2] == ("div", ONE):  # 1/a + 1/b
        return _without_exponents(node[2])
    return tuple(_without_exponents(p) if isinstance(p, tuple) else p for p in node)


def _about(exact: Node, rounded: Node) -> Comparison:
    """Return whether `rounded` is about `exact`; a decimal must agree in all of its digits."""
    exact, rounded = (side[1] if side[0] == "unit" else side for side in (exact, rounded))
    near, far = approximate(rounded), approximate(exact)
    if near is None or far is None:
        return unknown("about a value that is not known")
    number = rounded[1] if rounded[0] in ("neg", "pct") else rounded
    if number[0] == "num" and "." in number[1]:
        places = len(number[1].partition(".")[2]) + 2 * (rounded[0] == "pct")
        close = abs(near - far) <= 10.0**-places
    else:
        close = abs(near - far) <= max(_CLOSE * abs(far), 0.5 * (abs(far) > 1))
    return EQUAL if close else different("not about the same")


def same_function(gold: Node, answer: Node) -> Node:
    """Return the equation `answer` with the gold's name of the function: f(x) for y, f(x) for f(t).

    The name y stands for a function only if it does not occur elsewhere.
    """
    (name, other), value = (gold[1], answer[1]), answer[3]
    y = ("var", "y")
    free = y not in walk(value) and y not in walk(gold[3])
    if free and ((_of_names(name) and other == y) or (name == y and _of_names(other))):
        return ("rel", name, "=", value)
    if not (_of_names(name) and _of_names(other) and name[1] == other[1]):
        return answer
    bound = name[2] in walk(gold[3]) or {name[2], other[2]} <= _ARGUMENTS  # P(A) is not P(B)
    if len(name) == len(other) == 3 and bound and name[2] not in walk(value):
        return ("rel", name, "=", substitute(value, other[2], name[2]))
    return answer


def _of_names(node: Node) -> bool:
    return node[0] == "call" and kinds(*node[2:]) == {"var"} and "^-1" not in node[1]


def without_denominators(difference: Node) -> Node:
    """Return the difference of an equation's sides, multiplied by the divisors of its letters."""
    below = []
    for term in difference[1:]:
        terms = term[1][1:] if term[0] == "neg" and term[1][0] == "add" else (term,)
        for part in terms[:_MOST_TERMS]:
            inner = part[1] if part[0] == "neg" else part
            if inner[0] == "div" and variables(inner[2]):
                below.append(inner[2])
    return ("mul", *dict.fromkeys(below), difference) if below else difference


def with_factorial(relation: Node) -> Node:
    """Return 5! = 120 for `5!=120`, which is read as an inequality."""
    if relation[2:3] != ("!=",) or relation[1][0] != "num" or len(relation) != 4:
        return relation
    return ("rel", ("fact", relation[1]), "=", relation[3])
