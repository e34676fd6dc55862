"""Verifiable demands on the shape of a text: `constraint.check(text)` -> 0 to 1.

Each constraint is a frozen dataclass whose fields are its options; `CONSTRAINTS` has them by name
and `constraints_from` reads them out of a configuration or a dataset.
"""

from grpo_envs.graders.format.answer import bare_text, tagged_answer, well_formed
from grpo_envs.graders.format.base import Constraint
from grpo_envs.graders.format.registry import CONSTRAINTS, constraint_from, constraints_from

__all__ = [
    "CONSTRAINTS",
    "Constraint",
    "bare_text",
    "constraint_from",
    "constraints_from",
    "tagged_answer",
    "well_formed",
]
