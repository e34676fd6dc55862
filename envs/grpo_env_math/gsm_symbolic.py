"""GSM-Symbolic: word problems like GSM8K's, generated offline from its templates.

Task: one of 85 templates with names and numbers drawn anew (reasoning-gym's `gsm_symbolic`, after
Mirzadeh et al. 2024, arXiv:2410.05229).
Answer and reward: as in `env=math`; the gold is a whole number.
"""

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from grpo_env_math.env import MathEnv
from grpo_envs.errors import ConfigError, install
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem

Template = Callable[[random.Random, float], Mapping[str, Any]]

_DIFFICULTY = 1.0  # the templates support no other


class GsmSymbolicEnv(MathEnv):
    """Word problems whose answer is a whole number."""

    def __init__(
        self,
        split: str = "train",
        *,
        answer: str = "tag",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            answer: The form that the prompt asks for: `tag`, `boxed` or `number`.
            rewards: Weights of `correct` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or reasoning-gym is not installed.
        """
        super().__init__(split, answer=answer, rewards=rewards, render_mode=render_mode)
        self.templates = templates()

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Fill in templates until a question belongs to `split` and its answer is a whole number.

        This excludes nonsense of two templates: negative ages (24) and fractions of a coin (27).
        """
        while True:
            number, template = rng.choice(self.templates)
            made = template(rng, _DIFFICULTY)
            question, gold = made["question"], made["answer"]
            if gold.isdecimal() and split_of(question) == split:
                work, _, _ = made["metadata"]["answer_cot"].rpartition("####")
                solution = self._solution(work.strip(), gold)
                meta = {"template": number}
                return Problem(prompt=question, gold=gold, solution=solution, meta=meta)


@cache
def templates() -> tuple[tuple[int, Template], ...]:
    """Return the usable templates with their numbers, in order.

    Raises:
        ConfigError: reasoning-gym is not installed.
    """
    try:  # imported here, because it takes seconds and imports matplotlib
        from reasoning_gym.arithmetic.gsm_symbolic import gsm_symbolic
    except ImportError as error:
        text = f"env=gsm_symbolic needs reasoning-gym: {install('reasoning-gym')}"
        raise ConfigError(text) from error
    config = gsm_symbolic.GSMSymbolicDatasetConfig(seed=0, size=1)
    generators = gsm_symbolic.GSMSymbolicDataset(config).generators
    return tuple((number, generators[number]) for number in gsm_symbolic.tasks_ok)
