"""Grading free-form mathematical answers: `grade(gold, completion)` -> `Verdict`.

Take the answer out of the completion (`extract`); compare it exactly where both are plain numbers
(`numbers`); else read both as trees (`parse`) and compare those (`compare`: exact values, random
points, sets, intervals, equations); ask sympy only for the rest, in processes that can be killed
(`workers`), and math-verify where the policy asks for it. Whatever remains unknown is wrong. A
`MathPolicy` says what counts as the same.
"""

from grpo_envs.graders.math.extract import extract
from grpo_envs.graders.math.grade import Verdict, grade, grade_many, prepare, readable
from grpo_envs.graders.math.numbers import parse_number
from grpo_envs.graders.math.policy import DEFAULT, MathPolicy, policy_from

__all__ = [
    "DEFAULT",
    "MathPolicy",
    "Verdict",
    "extract",
    "grade",
    "grade_many",
    "parse_number",
    "policy_from",
    "prepare",
    "readable",
]
