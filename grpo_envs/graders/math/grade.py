"""Compare a completion's answer with the gold: exactly, then symbolically, then with sympy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from grpo_envs.graders.math.cache import Cache
from grpo_envs.graders.math.compare import compare
from grpo_envs.graders.math.comparison import Comparison, different, unknown
from grpo_envs.graders.math.conclusions import concluded
from grpo_envs.graders.math.durations import is_duration, same_duration
from grpo_envs.graders.math.evaluated import left_to_do
from grpo_envs.graders.math.extract import extract
from grpo_envs.graders.math.golds import gold_tree
from grpo_envs.graders.math.grading import DEFAULT, MathGrading
from grpo_envs.graders.math.labels import is_label, is_sentinel, same_label
from grpo_envs.graders.math.nodes import Node, kinds, variables, walk
from grpo_envs.graders.math.number_words import is_word
from grpo_envs.graders.math.numbers import clean, parse_number, parse_numbers
from grpo_envs.graders.math.parameters import reconciled
from grpo_envs.graders.math.parse import Unreadable, parse
from grpo_envs.graders.math.spoken import spoken
from grpo_envs.graders.math.surface import surface
from grpo_envs.graders.math.units import may_have_unit

_Pair = tuple[Node, Node] | tuple[str, str]
_SHOWN = 80  # characters of a text in a reason
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)", re.ASCII)
_NO_DOLLAR = re.compile(r"[€£¥₹₽]|\b(?:EUR|GBP|JPY|CNY|RMB|INR|euros?|yen|yuan|rupees?)\b")
_OPERATION = re.compile(r"[/^*\u00d7]|frac|times|cdot")
_BEYOND_SYMPY = frozenset({"dots", "word"})
_STAGES = {"sympy_equal": "sympy", "math_verify_equal": "math-verify"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision of the grader, and how it was made."""

    correct: bool
    extracted: str | None
    """The text of the answer in the completion; None if there is none."""
    stage: str
    """The stage that decided: `extract`, `number`, `text`, `symbolic`, `sympy` or `math-verify`."""
    reason: str


class _Decision(NamedTuple):
    comparison: Comparison
    stage: str
    asks: _Pair | None = None
    """The question for the workers if nothing is known."""


_MOST_WORDS = 4  # of a gold in words: a sentence cannot be compared
_SAME_NUMBER = _Decision(Comparison(equal=True), "number")
_OTHER_NUMBER = _Decision(Comparison(equal=False), "number")
_SAME_TEXT = _Decision(Comparison(equal=True), "text")
_OTHER_TEXT = _Decision(Comparison(equal=False), "text")
_OTHER_MONEY = _Decision(different("another currency"), "text")
_NO_GOLD = _Decision(different("the gold stands for no answer that can be verified"), "text")


def grade(gold: str, completion: str, grading: MathGrading = DEFAULT) -> Verdict:
    r"""Decide whether the answer of `completion` is `gold`, for any two strings.

    An undecided answer counts as not correct, and the reason says so.

    Args:
        gold: The right answer.
        completion: What the model wrote.
        grading: Rules for equality of answers. By default mathematical equality, where 3+4 is 7;
            for rewards see `MathGrading.evaluated`.

    Raises:
        GrpoEnvsError: the processes for sympy cannot start; the answer is not the cause.

    >>> grade("1/2", r"so \boxed{50\%}").correct
    True
    >>> grade("(x+1)^2", r"\boxed{x^2 + 2x + 1}").stage
    'symbolic'
    >>> grade("80", "<answer>81</answer>").reason
    '81 is not 80'
    """
    return grade_many([gold], [completion], grading)[0]


def grade_many(
    golds: Sequence[str], completions: Sequence[str], grading: MathGrading = DEFAULT
) -> list[Verdict]:
    """Grade each completion against the gold at the same position, as `grade` does.

    All questions for sympy are asked together, so that workers decide concurrently.
    """
    answers = [extract(completion, lenient=grading.lenient) for completion in completions]
    decisions = [
        None if answer is None else _decide(gold, answer, grading)
        for gold, answer in zip(golds, answers, strict=True)
    ]
    if any(decision and decision.asks for decision in decisions):
        decisions = _ask("sympy_equal", decisions)
    if grading.math_verify:
        texts = zip(golds, answers, decisions, strict=True)
        decisions = _ask("math_verify_equal", [_in_text(*each) for each in texts])
    return [
        _verdict(gold, answer, decision)
        for gold, answer, decision in zip(golds, answers, decisions, strict=True)
    ]


def readable(gold: str) -> str:
    """Return '' if `gold` can be compared with answers, else the reason in one clause.

    >>> readable("x^2 + 1"), readable("2^{10}"), readable("no solution")
    ('', '', '')
    >>> readable("{x"), readable("see below")
    ('it ends too early', 'it is prose, not mathematics')
    """
    if is_sentinel(gold):
        return "it stands for no answer that can be verified"
    if is_label(gold) or is_duration(surface(gold)):
        return ""
    try:
        tree = gold_tree(_bare(surface(gold)))
    except Unreadable as error:
        return str(error)
    if tree[0] == "word" and len(tree[1].split()) > _MOST_WORDS:
        return "it is prose, not mathematics"
    quantities = [part[1] for part in walk(tree) if part[0] == "unit"]
    prose = any(not any(map(_is_number, walk(quantity))) for quantity in quantities)
    return "it is prose, not mathematics" if prose else ""


def _is_number(node: Node) -> bool:
    return node[0] in ("num", "repeat", "base") or node == ("const", "pi")


def prepare(grading: MathGrading = DEFAULT) -> None:
    """Start the workers that `grading` may need in the background, so that no answer waits.

    Raises:
        GrpoEnvsError: a required package is not installed.
    """
    from grpo_envs.graders.math.workers import prepare as start

    start("sympy_equal")
    if grading.math_verify:
        start("math_verify_equal")


def _verdict(gold: str, answer: str | None, decision: _Decision | None) -> Verdict:
    if answer is None or decision is None:
        return Verdict(correct=False, extracted=None, stage="extract", reason="no answer found")
    comparison, stage, _ = decision
    correct = comparison.equal is True
    reason = f"{answer[:_SHOWN]} is {'' if correct else 'not '}{gold[:_SHOWN]}"
    if comparison.reason:
        reason = f"{reason}: {comparison.reason}"
    return Verdict(correct=correct, extracted=answer, stage=stage, reason=reason)


@lru_cache(maxsize=4096)
def _decide(gold: str, answer: str, grading: MathGrading) -> _Decision:
    """Decide without sympy."""
    if grading.decimal_comma:
        gold, answer = (_DECIMAL_COMMA.sub(".", text) for text in (gold, answer))
    if (decision := _plainly(gold, answer, grading)) is not None:
        return decision
    if is_sentinel(gold):
        return _NO_GOLD
    if _other_money(gold, answer) or _other_money(answer, gold):
        return _OTHER_MONEY
    wanted, given = surface(gold), surface(answer)
    given = given if clean(given) == clean(wanted) else spoken(given)
    changed = wanted != gold or given != answer
    if changed and (decision := _plainly(wanted, given, grading)) is not None:
        return decision
    same = same_label(gold, answer)
    same = same_duration(wanted, given) if same is None else same
    if same is not None:
        return _SAME_TEXT if same else _OTHER_TEXT
    try:
        return _symbolic(*_trees(wanted, concluded(given)), grading)
    except Unreadable as error:
        return _Decision(unknown(f"unreadable: {error}"), "symbolic")
    except RecursionError:  # the caller left little stack
        return _Decision(unknown("too deep"), "symbolic")


def _plainly(gold: str, answer: str, grading: MathGrading) -> _Decision | None:
    """Compare numbers, collections of numbers and equal texts; None for anything else."""
    wanted, given = parse_number(gold), parse_number(answer)
    exact = grading.percent_sign and grading.rounded_digits is None
    literal = not grading.evaluated or not _OPERATION.search(answer)
    if wanted is not None:
        if given == wanted and literal:
            return _SAME_NUMBER
        if given != wanted and (exact if given is not None else is_word(answer)):
            return _OTHER_NUMBER
    if clean(gold) == clean(answer):
        return _NO_GOLD if is_sentinel(gold) else _SAME_TEXT
    if exact and literal and (same := _same_numbers(gold, answer)) is not None:
        return _SAME_NUMBER if same else _OTHER_NUMBER
    return None


def _other_money(one: str, two: str) -> bool:
    return "\\$" in one and "\\$" not in two and _NO_DOLLAR.search(two) is not None


def _same_numbers(gold: str, answer: str) -> bool | None:
    """Compare collections of plain numbers in the same brackets; None for anything else."""
    wanted = parse_numbers(gold)
    given = parse_numbers(answer) if wanted else None
    if wanted is None or given is None or wanted[0] != given[0]:
        return None
    if wanted[0] == "{}":
        return set(wanted[1]) == set(given[1])
    return wanted[1] == given[1]


def _symbolic(gold: Node, answer: Node, grading: MathGrading) -> _Decision:
    pair = reconciled(gold, answer)
    if isinstance(pair, Comparison):
        return _Decision(pair, "symbolic")
    gold, answer = pair
    if grading.evaluated and (reason := left_to_do(gold, answer)):
        return _Decision(different(reason), "symbolic")
    comparison = compare(gold, answer, grading)
    if comparison.equal is None and not kinds(gold, answer) & _BEYOND_SYMPY:
        pair = (_tuple(gold), _tuple(answer)) if grading.ordered else (gold, answer)
        return _Decision(comparison, "sympy", pair)
    return _Decision(comparison, "symbolic")


def _trees(wanted: str, given: str) -> tuple[Node, Node]:
    r"""Read gold and answer; letters after a number are units if no variable is expected.

    In `8 m` they are units if the gold has no variable, and in `8\text{ m}` always.
    """
    gold = gold_tree(_bare(wanted))
    if not may_have_unit(given):
        return gold, parse(_bare(given))
    if not _free(gold):
        return gold, parse(_bare(given), quantity=True)
    answer = parse(_bare(given))
    if "unit" in kinds(answer) and "unit" not in kinds(gold):
        measured = parse(_bare(wanted), quantity=True)
        return (measured if "unit" in kinds(measured) else gold), answer
    return gold, answer


def _free(gold: Node) -> bool:
    """Return whether a value of `gold` has variables in it: x = 7 has none."""
    if gold[0] == "rel" and gold[1][0] == "var":
        return bool(variables(*(part for part in gold[3:] if isinstance(part, tuple))))
    if gold[0] in ("list", "set", "tuple"):
        return any(_free(part) for part in gold[1:] if isinstance(part, tuple))
    return bool(variables(gold))


def _tuple(node: Node) -> Node:
    """Return a list as a tuple, whose order matters."""
    return ("tuple", "(", ")", *node[1:]) if node[0] == "list" else node


def _bare(text: str) -> str:
    """Remove dollars, spaces, a full stop and emphasis around an expression."""
    return text.strip("$* \t\n").rstrip(". $*")


def _in_text(gold: str, answer: str | None, decision: _Decision | None) -> _Decision | None:
    """Ask about the texts themselves if nothing is known yet."""
    if answer is None or decision is None or decision.comparison.equal is not None:
        return decision
    return decision._replace(asks=(gold, answer))


_VERDICTS: Cache[tuple[str, _Pair], Comparison] = Cache(4096)


def _ask(equal: str, decisions: Sequence[_Decision | None]) -> list[_Decision | None]:
    """Return the decisions with the workers' results; no pair is asked twice.

    Timeouts are cached, too.
    """
    from grpo_envs.graders.math.workers import decide  # processes start only if sympy is needed

    pairs = dict.fromkeys(decision.asks for decision in decisions if decision and decision.asks)
    known = {pair: found for pair in pairs if (found := _VERDICTS.get((equal, pair)))}
    new = [pair for pair in pairs if pair not in known]
    for pair, same in zip(new, decide(new, equal) if new else [], strict=True):
        known[pair] = unknown("undecided") if same is None else Comparison(same)
        _VERDICTS.put((equal, pair), known[pair])
    return [
        _Decision(known[decision.asks], _STAGES[equal]) if decision and decision.asks else decision
        for decision in decisions
    ]
