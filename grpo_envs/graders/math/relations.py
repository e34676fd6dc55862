"""Compare equations, inequalities and congruences."""

from grpo_envs.graders.math.chains import (
    EQUALITIES,
    assigned,
    same_function,
    value_of_equation,
    with_factorial,
    without_denominators,
)
from grpo_envs.graders.math.comparison import EQUAL, Comparison, all_of, different, unknown
from grpo_envs.graders.math.evaluated import is_solved, names_value
from grpo_envs.graders.math.identity import approximate, proportional, value_of
from grpo_envs.graders.math.intervals import pieces, same_pieces, variable
from grpo_envs.graders.math.judge import Judge
from grpo_envs.graders.math.nodes import Node, kinds

_NO_SCALAR = frozenset({"tuple", "set", "list", "matrix", "union", "pm", "mp"})
_INEQUALITIES = frozenset({"<", "<=", ">", ">=", "!="})
_NAMELESS: Node = ("word", "")
_ELSEWHERE = frozenset({"to", "subset", "notin"})


def congruences(gold: Node, answer: Node, _: Judge) -> Comparison | None:
    """Compare congruences: 3 (mod 5) is 8 (mod 5), and 3 (mod 5) or x = 3 (mod 5) right for 3."""
    if "congruent" not in (gold[0], answer[0]):
        return None
    if gold[0] != answer[0]:
        return _residue(gold, answer) or different("another congruence")
    if gold[1] != answer[1] and _NAMELESS not in (gold[1], answer[1]):
        return different("another congruence")
    values = [value_of(part) for part in (*gold[2:], *answer[2:])]
    first, modulus, second, other = values
    if first is None or second is None or not modulus or other is None:
        return unknown("a congruence that is not numeric")
    same = modulus == other and (first - second) % modulus == 0
    return EQUAL if same else different("another residue")


def _residue(gold: Node, answer: Node) -> Comparison | None:
    """Return that the least residue is the gold; None if the answer is no such congruence."""
    if answer[0] != "congruent":
        return None
    wanted, found, modulus = (value_of(part) for part in (gold, *answer[2:]))
    if wanted is None or found is None or modulus is None:
        return None
    return EQUAL if found == wanted and 0 <= found < modulus else None


def relations(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    """Compare if at least one side is an equation, an inequality or a chain of these."""
    if "rel" not in (gold[0], answer[0]):
        return None
    if gold[0] == answer[0]:
        return _two_relations(gold, answer, judge)
    relation, other = (gold, answer) if gold[0] == "rel" else (answer, gold)
    gold_is_relation = gold[0] == "rel"
    relation = with_factorial(relation)
    if not _INEQUALITIES.isdisjoint(relation[2::2]):
        return on_the_line(gold, answer, judge) or different("an inequality is no value")
    if "notin" in relation[2::2]:
        return on_the_line(gold, answer, judge) or different("what is outside of it is not it")
    if not judge.grading.unwrap:
        return different("an equation is no value")
    if "in" in relation[2::2] and approximate(relation[-1]) is not None:
        return different("a number has no elements")
    value, consistent = value_of_equation(relation, judge, answered=not gold_is_relation)
    if consistent.equal is False:
        return consistent
    pair = (value, other) if gold_is_relation else (other, value)
    comparison = judge.compare(*pair)
    if comparison.equal is False and not gold_is_relation and relation[-2] == "~":
        comparison = judge.compare(other, relation[-1])  # rounded like the gold
    return all_of((consistent, comparison))


def _two_relations(gold: Node, answer: Node, judge: Judge) -> Comparison:
    signs = set(gold[2::2]), set(answer[2::2])
    if judge.grading.evaluated and is_solved(gold) and not _is_solved(answer):
        return different("not solved")
    if all(sign <= EQUALITIES for sign in signs):
        return _two_equations(gold, answer, judge)
    if any(sign <= EQUALITIES for sign in signs):
        return different("another relation")
    if not _ELSEWHERE.isdisjoint(signs[0] | signs[1]):
        return _outside(gold, answer, judge)
    if variable(gold) == variable(answer) and (comparison := on_the_line(gold, answer, judge)):
        return comparison
    gold, answer = _ascending(gold), _ascending(answer)
    if gold[2::2] != answer[2::2]:
        return different("another relation")
    pairs = zip(gold[1::2], answer[1::2], strict=True)
    sides = all_of(judge.compare(one, two) for one, two in pairs)
    if sides.equal or len(gold) > 4 or not _scalars(gold, answer):
        return sides if sides.equal else unknown("a chain of inequalities")
    differences = _difference(gold[1], gold[3]), _difference(answer[1], answer[3])
    return proportional(*differences, positive=gold[2] != "!=")


def _is_solved(answer: Node) -> bool:
    """Return whether an answer is solved; the links of a chain x = 3 + 4 = 7 are compared."""
    return is_solved(answer) or (len(answer) > 4 and EQUALITIES.issuperset(answer[2::2]))


def _outside(gold: Node, answer: Node, judge: Judge) -> Comparison:
    if gold[2::2] == answer[2::2]:
        pairs = zip(gold[1::2], answer[1::2], strict=True)
        return all_of(judge.compare(one, two) for one, two in pairs)
    if gold[1] == answer[1] and (comparison := on_the_line(gold, answer, judge)):
        return comparison
    return different("another relation")


def _two_equations(gold: Node, answer: Node, judge: Judge) -> Comparison:
    if len(gold) == len(answer) == 4:
        answer = same_function(gold, answer)
    if gold[1] == answer[1] and names_value(gold[1]):
        (value, consistent), (other, also) = assigned(gold, judge), assigned(answer, judge)
        return all_of((consistent, also, judge.compare(value, other)))
    if len(gold) == len(answer) == 4 and gold[2] == answer[2] == "=":
        if not _scalars(gold, answer):
            return all_of(judge.compare(gold[k], answer[k]) for k in (1, 3))
        sides = _difference(*gold[1::2]), _difference(*answer[1::2])
        found = proportional(*sides, positive=False)
        cleared = tuple(map(without_denominators, sides))
        if found.equal is False and cleared != sides:  # y = 12/x is xy = 12
            return proportional(*cleared, positive=False)
        return found
    return unknown("a chain of equations")


def _scalars(*nodes: Node) -> bool:
    return not kinds(*nodes) & _NO_SCALAR


def _difference(left: Node, right: Node) -> Node:
    return ("add", left, ("neg", right))


def _ascending(relation: Node) -> Node:
    """Return a > b > c as c < b < a."""
    if not {">", ">="}.issuperset(relation[2::2]):
        return relation
    turned = (part.replace(">", "<") if isinstance(part, str) else part for part in relation[:0:-1])
    return ("rel", *turned)


def on_the_line(gold: Node, answer: Node, judge: Judge) -> Comparison | None:
    """Compare two sets of real numbers; return None if they are not sets."""
    found = pieces(gold), pieces(answer)
    if found[0] is None or found[1] is None:
        return None
    return same_pieces(found[0], found[1], judge.compare)
