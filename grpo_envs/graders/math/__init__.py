"""Grading free-form mathematical answers: `grade(gold, completion)` -> `Verdict`.

Three stages, each exact: take the answer out of the completion (`extract`), read it as a rational
number (`numbers`), compare with the gold. What is not a number is compared as text.
"""

from grpo_envs.graders.math.extract import extract
from grpo_envs.graders.math.grade import Verdict, grade, grade_many
from grpo_envs.graders.math.numbers import parse_number

__all__ = ["Verdict", "extract", "grade", "grade_many", "parse_number"]
