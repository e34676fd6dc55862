"""Compare a completion's answer with the gold: exactly, then symbolically, then with sympy."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from grpo_envs.graders.math.cache import Cache
from grpo_envs.graders.math.compare import compare
from grpo_envs.graders.math.extract import extract
from grpo_envs.graders.math.finding import Finding, different, unknown
from grpo_envs.graders.math.nodes import Node, kinds
from grpo_envs.graders.math.numbers import clean, parse_number, parse_numbers
from grpo_envs.graders.math.parse import Unreadable, parse
from grpo_envs.graders.math.policy import DEFAULT, MathPolicy

_Pair = tuple[Node, Node]
_SHOWN = 80  # characters of a text in a reason
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)", re.ASCII)
_BEYOND_SYMPY = frozenset({"dots", "word"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the grader decided, and how."""

    correct: bool
    extracted: str | None
    """The answer as it stands in the completion; None when there is none."""
    stage: str
    """`extract`, `number`, `text`, `symbolic` or `sympy`: where the decision fell."""
    reason: str


class _Decision(NamedTuple):
    finding: Finding
    stage: str
    pair: _Pair | None = None
    """What sympy is asked where nothing is known."""


_SAME_NUMBER = _Decision(Finding(equal=True), "number")
_OTHER_NUMBER = _Decision(Finding(equal=False), "number")
_SAME_TEXT = _Decision(Finding(equal=True), "text")


def grade(
    gold: str, completion: str, policy: MathPolicy = DEFAULT, *, lenient: bool = False
) -> Verdict:
    r"""Decide whether `completion` answers with `gold`; never raises.

    What cannot be decided is not correct, and the reason says so.

    Args:
        gold: The right answer.
        completion: What the model wrote.
        policy: What counts as the same answer.
        lenient: Whether the last number is the answer where nothing marks one (`extract`).

    >>> grade("1/2", r"so \boxed{50\%}").correct
    True
    >>> grade("(x+1)^2", r"\boxed{x^2 + 2x + 1}").stage
    'symbolic'
    >>> grade("80", "<answer>81</answer>").reason
    '81 is not 80'
    """
    return grade_many([gold], [completion], policy, lenient=lenient)[0]


def grade_many(
    golds: Sequence[str],
    completions: Sequence[str],
    policy: MathPolicy = DEFAULT,
    *,
    lenient: bool = False,
) -> list[Verdict]:
    """Grade each completion against the gold at the same place; sympy is asked once, for all.

    Args:
        golds: The right answers.
        completions: What the model wrote.
        policy: What counts as the same answer.
        lenient: Whether the last number is the answer where nothing marks one (`extract`).
    """
    lenient = lenient or policy.lenient
    answers = [extract(completion, lenient=lenient) for completion in completions]
    decisions = [
        None if answer is None else _decide(gold, answer, policy)
        for gold, answer in zip(golds, answers, strict=True)
    ]
    open_pairs = [decision.pair for decision in decisions if decision and decision.pair]
    asked = _ask_sympy(open_pairs) if open_pairs else {}
    return [
        _verdict(gold, answer, decision, asked)
        for gold, answer, decision in zip(golds, answers, decisions, strict=True)
    ]


def _verdict(
    gold: str, answer: str | None, decision: _Decision | None, asked: dict[_Pair, Finding]
) -> Verdict:
    if answer is None or decision is None:
        return Verdict(correct=False, extracted=None, stage="extract", reason="no answer found")
    finding, stage = decision.finding, decision.stage
    if decision.pair is not None:
        finding, stage = asked[decision.pair], "sympy"
    correct = finding.equal is True
    reason = f"{answer[:_SHOWN]} is {'' if correct else 'not '}{gold[:_SHOWN]}"
    if finding.reason:
        reason = f"{reason}: {finding.reason}"
    return Verdict(correct=correct, extracted=answer, stage=stage, reason=reason)


@lru_cache(maxsize=4096)
def _decide(gold: str, answer: str, policy: MathPolicy) -> _Decision:
    """Decide without sympy."""
    if policy.decimal_comma:
        gold, answer = (_DECIMAL_COMMA.sub(".", text) for text in (gold, answer))
    wanted, given = parse_number(gold), parse_number(answer)
    exact = policy.percent_sign and policy.rounded_digits is None
    if wanted is not None:
        if given == wanted:
            return _SAME_NUMBER
        if exact if given is not None else _never_a_number(answer):
            return _OTHER_NUMBER
    if clean(gold) == clean(answer):
        return _SAME_TEXT
    if exact and (same := _same_numbers(gold, answer)) is not None:
        return _SAME_NUMBER if same else _OTHER_NUMBER
    try:
        return _symbolic(_gold_tree(gold), parse(_bare(answer)), policy)
    except Unreadable as error:
        return _Decision(different(f"unreadable: {error}"), "symbolic")
    except RecursionError:  # little stack was left where we were called
        return _Decision(unknown("too deep"), "symbolic")


def _never_a_number(answer: str) -> bool:
    return answer.isalpha() and len(answer) > 1


def _same_numbers(gold: str, answer: str) -> bool | None:
    """Compare collections of plain numbers in the same brackets; None where it is not so plain."""
    wanted = parse_numbers(gold)
    given = parse_numbers(answer) if wanted else None
    if wanted is None or given is None or wanted[0] != given[0]:
        return None
    if wanted[0] == "{}":
        return set(wanted[1]) == set(given[1])
    return wanted[1] == given[1]


def _symbolic(gold: Node, answer: Node, policy: MathPolicy) -> _Decision:
    finding = compare(gold, answer, policy)
    if finding.equal is None and not (kinds(gold) | kinds(answer)) & _BEYOND_SYMPY:
        return _Decision(finding, "sympy", (gold, answer))
    return _Decision(finding, "symbolic")


@lru_cache(maxsize=1024)
def _gold_tree(gold: str) -> Node:
    return parse(_bare(gold))


def _bare(text: str) -> str:
    """Take away what only surrounds an expression: dollars, spaces, a full stop, emphasis."""
    return text.strip("$* \t\n").rstrip(". $*")


_SYMPY_VERDICTS: Cache[_Pair, Finding] = Cache(4096)


def _ask_sympy(pairs: Iterable[_Pair]) -> dict[_Pair, Finding]:
    """Ask for each pair once; timeouts are remembered, too."""
    from grpo_envs.graders.math.workers import decide  # only what needs sympy starts processes

    known = {pair: _SYMPY_VERDICTS.get(pair) for pair in pairs}
    new = [pair for pair, finding in known.items() if finding is None]
    for pair, equal in zip(new, decide(new) if new else [], strict=True):
        finding = unknown("undecided") if equal is None else Finding(equal)
        known[pair] = finding
        _SYMPY_VERDICTS.put(pair, finding)
    return {pair: finding or unknown("undecided") for pair, finding in known.items()}
