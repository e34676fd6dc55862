"""Environments for tests of grading elsewhere: importable where the repository is on the path."""

import os
import random
import time

from grpo_envs.env.text import TextEnv
from grpo_envs.types import Problem, Reward


class Placed(TextEnv):
    """Right is `right`, after the seconds that the answer names; the note is the process."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"{rng.random()}?", gold="right", solution="right")

    def score(self, problem: Problem, answer: str) -> Reward:
        word, _, seconds = answer.partition(" ")
        time.sleep(float(seconds or 0))
        if word == "kill":
            os._exit(1)
        if word == "break":
            return Reward(parts={"undeclared": 1.0})
        return Reward(parts={"correct": float(word == problem.gold)}, note=str(os.getpid()))
