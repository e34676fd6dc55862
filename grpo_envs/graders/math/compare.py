"""Compare two trees: equal, different or unknown. The gold decides which rule applies.

The rules are tried in the order of a table; each sees only pairs that no earlier rule decided.
"""

from collections.abc import Callable
from dataclasses import dataclass

from grpo_envs.graders.math.comparison import EQUAL, Comparison, all_of, different, paired, unknown
from grpo_envs.graders.math.grading import MathGrading
from grpo_envs.graders.math.identity import approximate, identical, value_of
from grpo_envs.graders.math.intervals import excludes, listed, variable
from grpo_envs.graders.math.judge import Judge
from grpo_envs.graders.math.matrices import combine_matrices
from grpo_envs.graders.math.named_sets import is_number_set, meant
from grpo_envs.graders.math.nodes import INFINITY, Node, kinds, substitute, walk
from grpo_envs.graders.math.relations import congruences, on_the_line, relations
from grpo_envs.graders.math.rounding import rounds_to
from grpo_envs.graders.math.signs import signs_of
from grpo_envs.graders.math.systems import in_order_of_names

Rule = Callable[[Node, Node, Judge], Comparison | None]

_MOST_ITEMS = 250
_PAIR = len(("list", "first", "second"))
_PLAIN = frozenset(
    ("num", "repeat", "base", "var", "add", "mul", "neg", "div", "pow", "root", "fact", "binom")
)
_LINES = frozenset({"union", "minus", "inter", "setbuilder"})


def compare(gold: Node, answer: Node, grading: MathGrading) -> Comparison:
    """Return whether `answer` is `gold`.

    >>> from grpo_envs.graders.math.parse import parse
    >>> from grpo_envs.graders.math.grading import DEFAULT
    >>> compare(parse("(x+1)^2"), parse("x^2 + 2x + 1"), DEFAULT).equal
    True
    """
    return _Rules(grading).compare(gold, answer)


@dataclass(frozen=True, slots=True)
class _Rules:
    grading: MathGrading

    def compare(self, gold: Node, answer: Node) -> Comparison:
        if gold == answer:
            return EQUAL
        if self.grading.rounded_digits is None and kinds(gold, answer) <= _PLAIN:
            return identical(gold, answer)  # no rule applies
        for rule in _RULES:
            comparison = rule(gold, answer, self)
            if comparison is not None:
                return comparison
        return identical(gold, answer)


def _units(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if "unit" not in (gold[0], answer[0]):
        return None
    if gold[0] != answer[0]:
        quantity, plain = (gold, answer) if gold[0] == "unit" else (answer, gold)
        if plain[0] == "rel":
            return None  # x = 8 cm and 8 m: the unit is compared with that of the value
        letter = ("var", quantity[2])
        if letter in walk(plain):  # 5 m, where m was read as a name
            return judge.compare(("mul", quantity[1], letter), plain)
        if quantity[2] == "rad" and "deg" in kinds(plain):
            return identical(plain, quantity[1])
        angles = ["deg" in kinds(side) for side in (plain, quantity)]
        temperature = quantity is gold and quantity[2].startswith("\u00b0")  # 90 of 90 °C
        if angles == [True, False] and not temperature:
            return different("another unit")
        if judge.grading.units and gold[0] == "unit":
            return different("the unit is missing")
        gold, answer = (gold[1], answer) if quantity is gold else (gold, answer[1])
        return judge.compare(gold, answer)
    if gold[2] != answer[2]:
        return different("another unit")
    return judge.compare(gold[1], answer[1])


def _words(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if is_number_set(gold, answer):
        return EQUAL
    if "word" not in (gold[0], answer[0]):
        return None
    sides = [meant(side[1]) if side[0] == "word" else side for side in (gold, answer)]
    if sides != [gold, answer]:
        return judge.compare(*sides)
    return different("another word")  # equal words are handled before the rules


def _lines(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if excludes(gold) or excludes(answer):
        names = {variable(side) for side in (gold, answer)} - {None}
        return different("another name") if len(names) > 1 else on_the_line(gold, answer, judge)
    if "setbuilder" in (gold[0], answer[0]) and (listed(gold), listed(answer)) != (gold, answer):
        return judge.compare(listed(gold), listed(answer))
    both = {gold[0], answer[0]}
    if both & _LINES or (("const", "R") in (gold, answer) and both != {"const"}):
        if gold[0] == answer[0] == "list":
            return None
        return on_the_line(gold, answer, judge) or unknown("sets that are not intervals")
    return None


def _tuples(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if "tuple" not in (gold[0], answer[0]) or len(signs_of(gold) + signs_of(answer)) > 2:
        return None
    if gold[0] != answer[0]:
        gold, answer = _as_tuple(gold), _as_tuple(answer)
    rows = _entries(gold), _entries(answer)
    if gold[0] == answer[0] and gold[1:3] != answer[1:3] and len(gold) == 5:
        return different("other brackets")
    if rows[0] is None or rows[1] is None:
        return different("a tuple is another kind of answer")
    return _in_order(rows[0], rows[1], judge)


def _as_tuple(node: Node) -> Node:
    """Return the values of several names as a tuple, and a computation with matrices as a matrix.

    Consecutive names are put in alphabetical order: y = 8, x = 3 is (3, 8).
    """
    if node[0] == "list" and _labelled([*node[1:]]):
        return ("tuple", "(", ")", *in_order_of_names(node[1:]))
    return combine_matrices(node)


def _entries(node: Node) -> tuple[Node, ...] | None:
    """Return the entries of a possible vector: a tuple, column, row, or list of three or more.

    A bare list of two is neither a pair nor an interval.
    """
    if node[0] == "tuple":
        return node[3:]
    if node[0] == "list" and len(node) > _PAIR:
        return node[1:]
    if node[0] == "matrix" and len(node[1]) == 2:
        return tuple(row[1] for row in node[1:])
    if node[0] == "matrix" and len(node) == 2:
        return tuple(node[1][1:])
    return None


def _in_order(gold: tuple[Node, ...], answer: tuple[Node, ...], judge: Judge) -> Comparison:
    if len(gold) != len(answer):
        return different(f"{len(answer)} entries for {len(gold)}")
    return all_of(judge.compare(one, two) for one, two in zip(gold, answer, strict=True))


def _matrices(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if "matrix" not in (gold[0], answer[0]):
        return None
    gold, answer = combine_matrices(gold), combine_matrices(answer)
    if gold[0] != answer[0]:
        return unknown("a matrix and something else")
    if len(gold) != len(answer) or len(gold[1]) != len(answer[1]):
        return different("another shape")
    cells = [tuple(cell for row in side[1:] for cell in row[1:]) for side in (gold, answer)]
    return _in_order(cells[0], cells[1], judge)


def _items(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    found = [_alternatives(side) for side in (gold, answer)]
    if not ({"list", "set"} & {gold[0], answer[0]}) and len(found[0]) == len(found[1]) == 1:
        return None
    if max(map(len, found)) > _MOST_ITEMS:
        return unknown("too many answers")
    if gold[0] == answer[0] == "set" or _all_tuples(found[0] + found[1]):
        found = [list(dict.fromkeys(side)) for side in found]
    if gold[0] == "set" and _labelled(found[1]) and not _labelled(found[0]):
        if not _indexed(found[1]):
            return different("values of several names are no set")
    elif _labelled(found[0]) != _labelled(found[1]):  # x = 1, y = 2 and only 1, 2
        return _in_order(tuple(found[0]), tuple(found[1]), judge)
    if gold[0] == answer[0] == "set":
        return paired(found[0], found[1], _elements(judge))
    if judge.grading.ordered and gold[0] == answer[0] == "list":
        return _in_order(tuple(found[0]), tuple(found[1]), judge)
    return paired(found[0], found[1], judge.compare)


def _elements(judge: Judge) -> Callable[[Node, Node], Comparison]:
    """Return how elements of two sets are compared: {2} is an element other than 2."""

    def same(one: Node, other: Node) -> Comparison:
        if (one[0] == "set") != (other[0] == "set"):
            return different("a set is another element")
        return judge.compare(one, other)

    return same


def _labelled(items: list[Node]) -> bool:
    """Return whether the items are values of several names."""
    return len({item[1] for item in items if item[0] == "rel"}) > 1


def _indexed(items: list[Node]) -> bool:
    """Return whether the items are x_1, x_2, ...: the values of one name."""
    names = [str(item[1][1]) for item in items if item[0] == "rel" and item[1][0] == "var"]
    letters = {name.partition("_")[0] for name in names}
    return len(letters) == 1 and len(names) == len(items) and all("_" in name for name in names)


def _all_tuples(items: list[Node]) -> bool:
    """Return whether all are tuples: a repeated point is one point, not a double root."""
    return all(item[0] == "tuple" for item in items)


def _alternatives(node: Node) -> list[Node]:
    """Return the answers that `node` lists; 1 plus-minus 2 is two answers."""
    if node[0] == "set":  # a set within a set is one element
        parts = ([part] if part[0] == "set" else _alternatives(part) for part in node[1:])
        return [item for part in parts for item in part]
    if node[0] == "list":
        return [item for part in node[1:] for item in _alternatives(part)]
    return signs_of(node) if node[0] not in ("matrix", "rel", "setbuilder") else [node]


def _infinite(gold: Node, answer: Node, _: Judge) -> Comparison | None:
    sides = [INFINITY in (side, side[1] if side[0] == "neg" else side) for side in (gold, answer)]
    if not any(sides):
        return None
    if all(sides):
        return different("another sign of infinity")
    if approximate(answer if sides[0] else gold) is not None:
        return different("infinity is no number")
    return unknown("infinity and an expression")


def _signs(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    sides = kinds(gold), kinds(answer)
    for kind, required in (("deg", judge.grading.degree_sign), ("pct", judge.grading.percent_sign)):
        has = [kind in side for side in sides]
        if required or has[0] == has[1]:
            continue
        comparison = identical(gold, answer)
        if comparison.equal:
            return comparison
        return judge.compare(_bare(gold, kind), _bare(answer, kind))
    return None


def _bare(node: Node, kind: str) -> Node:
    for part in walk(node):
        if part[0] == kind:
            return substitute(node, part, part[1])
    return node


def _rounded(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if judge.grading.rounded_digits is None:
        return None
    return EQUAL if rounds_to(gold, answer, judge.grading.rounded_digits) else None


def _ratios(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    if "ratio" not in (gold[0], answer[0]):
        return None
    if gold[0] == answer[0]:
        if len(gold) != len(answer):
            return different("another number of terms")
        if any(value_of(part) == 0 for part in (*gold[1:], *answer[1:])):
            return _in_order(gold[1:], answer[1:], judge)  # 12:00 is a time
        return all_of(
            identical(("mul", gold[1], answer[k]), ("mul", answer[1], gold[k]))
            for k in range(2, len(gold))
        )
    ratio, other = (gold, answer) if gold[0] == "ratio" else (answer, gold)
    if len(ratio) > 3:
        return different("a ratio of three is no number")
    return identical(("div", *ratio[1:]), other)


_RULES: tuple[Rule, ...] = (
    *(_units, _words, congruences, relations, _lines, _tuples, _items, _matrices, _infinite),
    *(_ratios, _signs, _rounded),
)
