"""Grading free-form mathematical answers: `grade(gold, completion)` -> `Verdict`.

`extract` takes the answer out of the completion. Plain numbers are compared exactly (`numbers`).
Otherwise both texts are read as trees (`parse`), which `compare` compares: exact values, random
points, sets, intervals, equations. Undecided pairs go to sympy, in processes that can be killed
(`workers`), and to math-verify if the grading rules enable it. An answer that remains undecided is
wrong. `MathGrading` has the rules for equality.

Two conventions: log without a base is to base 10, never ln. A constant of integration may have
another name (`parameters`), but it may not be left out or be a number.
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
