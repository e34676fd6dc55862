"""E-mails in, JSON out.

Task: the column `email`, an order in words.
Answer: a JSON object with the fields item, count, city and day, and nothing else.
Reward: `fields` for the share of fields that are right, `json` for an object with these fields.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from grpo_envs import DatasetEnv, Problem, Reward, Row

__all__ = ["EmailsEnv"]


class EmailsEnv(DatasetEnv):
    """Orders out of a CSV: a tenth of its rows is held out."""

    parts: ClassVar[Mapping[str, float]] = {"fields": 1.0, "json": 0.2}
    system_prompt = "Answer with a JSON object: item, count, city, day."
    default_dataset = Path(__file__).with_name("emails.csv")
    needs = ("email", "order")

    def from_row(self, row: Row) -> Problem:
        """Return the problem of a row: its order is what a good answer says."""
        order = row.text("order")
        return Problem(prompt=row.text("email"), gold=json.loads(order), solution=order)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare field by field."""
        try:
            found: Any = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.keys() != problem.gold.keys():
            return Reward(parts={"fields": 0.0, "json": 0.0})
        right = sum(found[key] == value for key, value in problem.gold.items())
        return Reward(parts={"fields": right / len(problem.gold), "json": 1.0})
