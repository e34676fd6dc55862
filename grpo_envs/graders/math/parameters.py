r"""Letters that may have another name: parameters (k in Z) and constants of integration.

The convention for `x^3 + C`: a constant of integration may have another name (C, c, K, C_1) if it
is a separate term beside an expression of other letters, or the factor of a power of e
(`Ce^{2x}`). It may not be left out, be a number, or have the name of another quantity (a, b, c).
"""

from itertools import permutations

from grpo_envs.graders.math.comparison import Comparison, different
from grpo_envs.graders.math.identity import approximate, identical
from grpo_envs.graders.math.nodes import ZERO, Node, substitute, variables
from grpo_envs.graders.math.notations import as_meant
from grpo_envs.graders.math.signs import signs_of

_FIRST = frozenset({"", "0", "1"})  # N may begin with 0 or 1
_E: Node = ("const", "e")
_INTEGERS = frozenset("ijklmnpqrst")
_MOST_PARAMETERS = 3
_CONSTANTS = frozenset({"C", "c", "K", "k"} | {f"{c}_{i}" for c in "CcKk" for i in "0123"})
_QUANTITIES = frozenset("abcABCk")
_ABOVE = ("rel", "list", "set", "unit")


def reconciled(gold: Node, answer: Node) -> tuple[Node, Node] | Comparison:
    """Return both without qualifiers, with the gold's names for the answer's arbitrary letters.

    Returns:
        Gold and answer, or a difference if their letters stand for different things.
    """
    gold, answer = as_meant(gold, answer)
    if "where" not in (gold[0], answer[0]):
        return gold, _renamed_constant(gold, answer)[1]
    gold, answer = _family(gold), _family(answer)
    wanted, given = _parameters(gold), _parameters(answer)
    gold, answer = (side[1] if side[0] == "where" else side for side in (gold, answer))
    constant, answer = _renamed_constant(gold, answer)
    given = {constant.get(name, name): domain for name, domain in given.items()}
    renaming = _renaming(gold, answer, wanted, given)
    for old, new in renaming.items():
        answer = substitute(answer, ("var", old), ("var", f" {new}"))
    for new in renaming.values():
        answer = substitute(answer, ("var", f" {new}"), ("var", new))
    given = {renaming.get(name, name): domain for name, domain in given.items()}
    for name, (domain, least) in wanted.items():
        other, also = given.get(name, (domain, least))
        if "" not in (domain, other) and domain != other:
            return different("a letter that stands for something else")
        if least != also and not {least, also} <= _FIRST:
            return different("another first value")
    if not set(given) <= {*wanted, *variables(gold)}:
        return different("a letter that does not stand in the gold")
    if any(name not in wanted and given[name][1] not in _FIRST for name in given):
        return different("a condition that is not the gold's")
    whole = [name for name, (domain, _) in {**given, **wanted}.items() if domain == "Z"]
    if len(whole) == 1:
        return _least(gold, whole[0]), _least(answer, whole[0])
    return gold, answer


def _family(node: Node) -> Node:
    """Return the set of all `2k` with k in Z as `2k, k in Z`; other trees unchanged."""
    match node:
        case ("setbuilder", x, ("rel", y, "=", value), member) if x == y:  # of all x = 2k
            pass
        case ("setbuilder", value, member) if value[0] not in ("var", "rel"):
            pass
        case _:
            return node
    match member:
        case ("rel", ("var", name), "in", ("const", domain)) if domain in "ZNRQC":
            return ("where", value, ("param", name, domain, ""))
    return node


def _parameters(node: Node) -> dict[str, tuple[str, str]]:
    said = node[2:] if node[0] == "where" else ()
    return {name: (domain, least) for _, name, domain, least in said}


def _renaming(
    gold: Node, answer: Node, wanted: dict[str, tuple[str, str]], given: dict[str, tuple[str, str]]
) -> dict[str, str]:
    """Return the gold's names for parameters of the answer that the gold does not have."""
    mine, theirs = variables(gold), variables(answer)
    new = [name for name in mine if name not in theirs and _arbitrary(name, wanted, given)]
    old = [name for name in theirs if name not in mine and _arbitrary(name, given, wanted)]
    if len(new) != len(old) or len(new) > _MOST_PARAMETERS:
        return {}
    orders = [dict(zip(old, order, strict=True)) for order in permutations(new)]
    alike = [order for order in orders if all(_alike(order, wanted, given))]
    return (alike or orders)[0]


def _alike(
    order: dict[str, str], wanted: dict[str, tuple[str, str]], given: dict[str, tuple[str, str]]
) -> list[bool]:
    return [given.get(old, ("", "")) == wanted.get(new, ("", "")) for old, new in order.items()]


def _arbitrary(
    name: str, said: dict[str, tuple[str, str]], other: dict[str, tuple[str, str]]
) -> bool:
    """Return whether a letter is a parameter: one side declares it, or the other its own letter."""
    return name in said or (bool(other) and not said and name in _INTEGERS)


def _least(node: Node, name: str) -> Node:
    """Return a + b k for all whole k, with b > 0 and the least a >= 0: k pi for k pi - 5 pi.

    Nodes that are not linear in the letter are unchanged. In a list, each item is treated alone.
    """
    if len(both := signs_of(node)) > 1:
        node = ("list", *both)
    if node[0] in _ABOVE:
        parts = node[1:-1] if node[0] == "rel" else ()
        inner = node[-1:] if node[0] == "rel" else node[1:]
        rest = (_least(part, name) if isinstance(part, tuple) else part for part in inner)
        return (node[0], *parts, *rest)
    if name not in variables(node) or len(variables(node)) > 1:
        return node
    letter: Node = ("var", name)
    start = substitute(node, letter, ZERO)
    step: Node = ("add", substitute(node, letter, ("num", "1")), ("neg", start))
    if not identical(node, ("add", start, ("mul", letter, step))).equal:
        return node
    at, size = approximate(start), approximate(step)
    if at is None or size is None or not 0 < abs(size) < float("inf"):
        return node
    if size < 0:
        step, size = ("neg", step), -size
    steps = int((at / size + 1e-9) // 1)
    if abs(steps) > 10**6:
        return node
    count: Node = ("num", str(abs(steps)))
    shift: Node = ("mul", count if steps < 0 else ("neg", count), step)
    return ("add", start, shift, ("mul", letter, step))


def _renamed_constant(gold: Node, answer: Node) -> tuple[dict[str, str], Node]:
    """Return the renaming of the constant of integration to the gold's, and the renamed answer."""
    wanted = _constant(gold)
    given = _constant(answer) if wanted else None
    if wanted is None or given is None or wanted == given or wanted in variables(answer):
        return {}, answer
    return {given: wanted}, substitute(answer, ("var", given), ("var", wanted))


def _constant(node: Node) -> str | None:
    """Return the constant of integration: a separate term, or a factor of a power of e.

    None if several letters qualify.
    """
    value = node[-1] if node[0] == "rel" and len(node) == 4 else node
    if value[0] not in ("add", "mul"):
        return None
    found = [part[1] for part in value[1:] if part[0] == "var" and part[1] in _CONSTANTS]
    rest = [part for part in value[1:] if part != ("var", found[0])] if found else []
    others = set(variables(*rest)) if rest else set()
    if len(found) != 1 or not others or others & (_QUANTITIES | _CONSTANTS):
        return None
    solution = value[0] == "mul" and any(part[:2] == ("pow", _E) for part in rest)
    return str(found[0]) if value[0] == "add" or solution else None
