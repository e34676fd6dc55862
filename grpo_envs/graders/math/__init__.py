"""Grading free-form mathematical answers: `grade(gold, completion)` -> `Verdict`.

Take the answer out of the completion (`extract`); compare it exactly where both are plain numbers
(`numbers`); else read both as trees (`parse`) and compare those (`compare`: exact values, random
points, sets, intervals, equations); ask sympy only for the rest, in processes that can be killed
(`workers`), and math-verify where the grading rules ask for it. Whatever remains unknown is wrong.
`MathGrading` holds the grading rules: what counts as the same answer.

Decided once: log without a base is to base 10 and never ln; a constant of integration may have
another name (`parameters`), and be neither left out nor a number.
"""

from grpo_envs.graders.math.extract import extract
from grpo_envs.graders.math.grade import Verdict, grade, grade_many, prepare, readable
from grpo_envs.graders.math.grading import DEFAULT, MathGrading, grading_from
from grpo_envs.graders.math.numbers import parse_number

__all__ = [
    "DEFAULT",
    "MathGrading",
    "Verdict",
    "extract",
    "grade",
    "grade_many",
    "grading_from",
    "parse_number",
    "prepare",
    "readable",
]
