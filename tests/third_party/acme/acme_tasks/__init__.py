"""Say a word in capitals. Reward: `correct` for the word in capitals and nothing else."""

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from grpo_envs import Problem, Reward, TextEnv
from grpo_envs.seeding import split_of


class ShoutEnv(TextEnv):
    """Words to shout."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}

    def __init__(
        self,
        split: str = "train",
        *,
        loud: int = 3,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Take the number of marks that a shout ends with."""
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        self.loud = loud

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw words until one belongs to the split."""
        while True:
            word = "".join(rng.choices("abcdefghij", k=6))
            if split_of(word) == split:
                said = word.upper() + "!" * self.loud
                return Problem(
                    prompt=f"Shout {word}, {self.loud} times !", gold=said, solution=said
                )

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare all of the answer."""
        return Reward(parts={"correct": float(answer.strip() == problem.gold)})
