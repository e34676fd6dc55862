"""Compare a completion's answer with the gold."""

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_envs.graders.math.extract import extract
from grpo_envs.graders.math.numbers import clean, parse_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the grader decided, and how."""

    correct: bool
    extracted: str | None
    """The answer as it stands in the completion; None when there is none."""
    stage: str
    """`extract`, `number` or `text`: where the decision fell."""
    reason: str


def grade(gold: str, completion: str) -> Verdict:
    r"""Decide whether `completion` answers with `gold`, exactly; never raises.

    >>> grade("1/2", r"so \boxed{50\%}").correct
    True
    >>> grade("80", "<answer>81</answer>").reason
    '81 is not 80'
    """
    answer = extract(completion)
    if answer is None:
        return Verdict(correct=False, extracted=None, stage="extract", reason="no answer found")
    wanted, given = parse_number(gold), parse_number(answer)
    if wanted is not None:
        correct, stage = given == wanted, "number"
    else:
        correct, stage = clean(answer) == clean(gold), "text"
    reason = f"{answer[:80]} is {'' if correct else 'not '}{gold[:80]}"
    return Verdict(correct=correct, extracted=answer, stage=stage, reason=reason)


def grade_many(golds: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
    """Grade each completion against the gold at the same place."""
    return [grade(gold, text) for gold, text in zip(golds, completions, strict=True)]
