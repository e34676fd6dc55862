"""A number to guess in a few turns.

Task: "I think of a number from 134 to 140. Guess it in 3 turns."; each guess is answered with
"higher" or "lower".
Answer: a whole number in `<answer>...</answer>`, the only one after any `<think>` block. The reply
to anything else, or to a number out of range, is the range; the turn is lost.
Reward, once at the end: `correct` for the number, `format` for the share of turns with exactly one
answer, at their end, `quick` for the share of turns left. The weight of `quick` is 0 unless
`env.rewards` sets it: with `quick` the maximum needs luck, so accuracy has no meaning.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from grpo_envs.env import SPLITS, TextEnv
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.graders.arithmetic import whole_number
from grpo_envs.graders.text import only_block
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reply, Reward, Turn

HIGHER, LOWER, RIGHT = "higher", "lower", "right"
LEAST = 10
LARGEST = 10**6
_MOST_TRIES = 10_000
_NOTHING = {"correct": 0.0, "format": 0.0, "quick": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessRecipe:
    """The size of the ranges and the number of turns."""

    span: list[int]
    """[least, most] numbers in a range."""
    turns: int
    largest: int
    """The largest number of any range; the smallest is 10."""

    def __post_init__(self) -> None:
        """Refuse values without a game."""
        pair = isinstance(self.span, list | tuple) and [type(v) for v in self.span] == [int] * 2
        in_range = pair and 2 <= self.span[0] <= self.span[1] <= LARGEST
        require(in_range, "env.span", self.span, f"[least, most] within 2 to {LARGEST}")
        whole = type(self.turns) is int and 1 <= self.turns <= 50
        require(whole, "env.turns", self.turns, "1 to 50")
        fits = type(self.largest) is int and LEAST + self.span[1] <= self.largest <= LARGEST
        allowed = f"{LEAST + self.span[1]} (room for env.span) to {LARGEST}"
        require(fits, "env.largest", self.largest, allowed)


# Only halving always finds a number out of 2**turns - 1.
LEVELS = {
    1: GuessRecipe(span=[6, 7], turns=3, largest=299),
    2: GuessRecipe(span=[12, 15], turns=4, largest=499),
    3: GuessRecipe(span=[24, 31], turns=5, largest=999),
    4: GuessRecipe(span=[90, 127], turns=7, largest=9999),
    5: GuessRecipe(span=[800, 1023], turns=10, largest=99999),
}


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`."""

    low: int
    high: int

    def after(self, guess: int | None, reply: str) -> "Range":
        """Return the numbers that are left after a guess and the reply to it."""
        if guess is not None and reply == HIGHER:
            return Range(max(self.low, guess + 1), self.high)
        if guess is not None and reply == LOWER:
            return Range(self.low, min(self.high, guess - 1))
        return self


class GuessEnv(TextEnv):
    """A number in a range that each reply narrows."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1, "quick": 0.0}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."
    hidden = True  # a prompt tells the range, not the number in it

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        span: list[int] | None = None,
        turns: int | None = None,
        largest: int | None = None,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: From 1 (six or seven numbers in 3 turns) to 5 (about a thousand in 10 turns).
            span: [least, most] numbers in a range, instead of the level's.
            turns: Guesses per episode, instead of the level's number.
            largest: The largest number of any range, instead of the level's.
            rewards: Weights of `correct`, `format` and `quick`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or leaves too few ranges.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.level", level, LEVELS)
        base = LEVELS[level]
        self.recipe = GuessRecipe(
            span=base.span if span is None else span,
            turns=base.turns if turns is None else turns,
            largest=base.largest if largest is None else largest,
        )
        self.max_turns = self.recipe.turns
        for each in SPLITS:
            self.problem(0, each)  # raises if there are no ranges

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw ranges until one belongs to `split`; the number in it is random."""
        for _ in range(_MOST_TRIES):
            span = rng.randint(*self.recipe.span)
            low = rng.randint(LEAST, self.recipe.largest - span + 1)
            within = Range(low, low + span - 1)
            prompt = f"I think of a number from {within.low} to {within.high}."
            if split_of(prompt) == split:
                number = rng.randint(within.low, within.high)
                plural = "s" if self.max_turns > 1 else ""
                return Problem(
                    prompt=f"{prompt} Guess it in {self.max_turns} turn{plural}.",
                    gold=number,
                    solution=f"<answer>{number}</answer>",
                    meta={"range": [within.low, within.high]},
                )
        raise ConfigError(f"env.largest={self.recipe.largest}: too few ranges for two splits.")

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade a first guess."""
        return self.respond(problem, [Turn(action=answer)]).reward

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Reply with higher, lower or right; the last reply has the reward."""
        guess = _guessed(turns[-1].action)
        within = Range(*problem.meta["range"])
        if guess is None or not within.low <= guess <= within.high:
            reply = f"Guess a number from {within.low} to {within.high}."
        else:
            reply = RIGHT if guess == problem.gold else LOWER if guess > problem.gold else HIGHER
        if reply != RIGHT and len(turns) < self.max_turns:
            return Reply(reward=Reward(parts=_NOTHING), observation=reply, done=False)
        return Reply(
            reward=Reward(parts=self._earned(turns, found=reply == RIGHT)),
            observation=reply,
            done=reply == RIGHT,
        )

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Guess the middle of the remaining range."""
        left = Range(*problem.meta["range"])
        for turn in turns:
            left = left.after(_guessed(turn.action), turn.observation)
        middle = (left.low + left.high) // 2
        return f"<think>{left.low} to {left.high}</think><answer>{middle}</answer>"

    def _earned(self, turns: Sequence[Turn], *, found: bool) -> dict[str, float]:
        blocks = [only_block(turn.action, "answer") for turn in turns]
        left = 1 - (len(turns) - 1) / max(1, self.max_turns - 1)
        return {
            "correct": float(found),
            "format": sum(block is not None and block.neat for block in blocks) / len(turns),
            "quick": left if found else 0.0,
        }


def _guessed(action: str) -> int | None:
    block = only_block(action, "answer")
    return whole_number(block.text) if block else None
