"""Say a word back."""

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from grpo_envs import Problem, Reward, TextEnv
from grpo_envs.seeding import split_of


class WhisperEnv(TextEnv):
    """Words to spell letter by letter."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}

    def __init__(
        self,
        split: str = "train",
        *,
        gap: str = "-",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Take what stands between two letters."""
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        self.gap = gap

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw words until one belongs to the split."""
        while True:
            word = "".join(rng.choices("abcdefghij", k=6))
            if split_of(word) == split:
                said = self.gap.join(word)
                return Problem(prompt=f"Whisper {word}.", gold=said, solution=said)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare all of the answer."""
        return Reward(parts={"correct": float(answer.strip() == problem.gold)})


class MumbleEnv(WhisperEnv):
    """The same, where a keyword has to be given."""

    def __init__(self, split: str = "train", *, mouth: int, render_mode: str | None = None) -> None:
        """Take how far the mouth is open, in millimetres."""
        super().__init__(split, gap="m" * mouth, render_mode=render_mode)
