"""The shape of an answer: constraints that a program can verify, in the manner of IFEval.

Task: a text that satisfies one constraint or several (see `generate.py` for the levels).
Answer: what stands in the one `<answer>...</answer>`, after at most one `<think>` block.
Reward: `satisfied` for the constraints, `format` for an answer in its tags and nothing beside it.
A blank answer, or one that repeats the prompt, satisfies nothing.
"""

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from grpo_env_format.generate import LEVELS
from grpo_envs.env import TextEnv
from grpo_envs.errors import require_one_of
from grpo_envs.graders.format import Constraint, tagged_answer, well_formed
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reward


class FormatEnv(TextEnv):
    """Texts with a shape."""

    parts: ClassVar[Mapping[str, float]] = {"satisfied": 1.0, "format": 0.1}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 one constraint in simple words.
            rewards: Weights of `satisfied` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.level", level, LEVELS)
        self.level = level

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Generate exercises until one belongs to `split`."""
        while True:
            exercise = LEVELS[self.level](rng)
            if split_of(exercise.text) == split:
                break
        think = f"<think>{exercise.work}</think>" if exercise.work else ""
        solution = f"{think}<answer>{exercise.answer}</answer>"
        return Problem(prompt=exercise.text, gold=exercise.constraints, solution=solution)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Check the constraints on the answer, and the tags around it."""
        text = tagged_answer(answer)
        repeats = text is not None and _plain(problem.prompt) in _plain(text)
        constraints: tuple[Constraint, ...] = problem.gold
        values = [
            constraint.check("" if text is None or repeats else text) for constraint in constraints
        ]
        parts = {"satisfied": sum(values) / len(values), "format": float(well_formed(answer))}
        return Reward(parts=parts)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
