r"""Countdown: make a target out of given numbers.

Task: "Make 17 from 3, 5, 4.", with a reachable target (see `puzzles.py` for the levels), or a row
of a dataset.
Answer: an expression in `<answer>...</answer>`, the only one after any `<think>` block; it may end
in "= 17" and be written with brackets or in LaTeX (`$\frac{12}{4} \times 5$`). Each number is used
once; with `use=some`, at most once.
Reward: `correct` for an expression of these numbers whose value is exactly the target, `format` for
exactly one answer, at the end.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from grpo_env_games.notation import plain, undelimited
from grpo_env_games.puzzles import LEVELS, CountdownRecipe, generate
from grpo_envs.env import SPLITS, TextEnv
from grpo_envs.env.dataset import Row, Rows, require_dataset
from grpo_envs.errors import ConfigError, DatasetError, require_one_of
from grpo_envs.graders.arithmetic import Unreadable, work_out
from grpo_envs.graders.text import only_block
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reward

USES = {"all": "Use each number once", "some": "Use each number at most once"}
_MOST_TRIES = 10_000
_WHOLE = re.compile("[0-9]{1,9}")
_LIST = re.compile(r"[\[(]?[0-9]{1,9}(?:[, ]+[0-9]{1,9}){1,19}[\])]?")


@dataclass(frozen=True, slots=True)
class Goal:
    """The given numbers and the target."""

    numbers: tuple[int, ...]
    target: int


class CountdownEnv(TextEnv):
    """Numbers, and a target to make from them."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        numbers: int | None = None,
        values: list[int] | None = None,
        operators: str | None = None,
        use: str = "all",
        dataset: str | None = None,
        columns: dict[str, Any] | None = None,
        unreadable: str = "error",
        held_out: float | None = None,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 three numbers to add and subtract, 2 four numbers, 3 three numbers with
                products, 4 four numbers with products and quotients, 5 six numbers.
            numbers: How many numbers are given, instead of the level's number.
            values: [least, most] of a number, instead of the level's.
            operators: The operators of `+-*/` that an answer may use, instead of the level's; all
                of them with a dataset.
            use: `all` of the numbers, or `some`.
            dataset: A local file or hub id with numbers and targets; None generates them.
            columns: Names of the dataset's columns: {"numbers": ..., "target": ...}.
            unreadable: How rows that cannot be read are treated: `error` or `drop`.
            held_out: Share of the distinct prompts that is kept for evaluation; null: a tenth. A
                dataset with its own eval, test or validation split keeps that split.
            rewards: Weights of `correct` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or leaves no puzzles.
            DatasetError: the dataset is missing, lacks a column, or a row cannot be read.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.level", level, LEVELS)
        require_one_of("env.use", use, USES)
        require_dataset(dataset, columns=columns, unreadable=unreadable, held_out=held_out)
        base = LEVELS[level]
        usual = base.operators if dataset is None else "+-*/"
        self.recipe = CountdownRecipe(
            numbers=base.numbers if numbers is None else numbers,
            values=base.values if values is None else values,
            operators=usual if operators is None else operators,
        )
        self.use = use
        self.system_prompt = (
            f"{USES[use]}, with {' '.join(self.recipe.operators)} and parentheses. "
            "You may think in <think></think>. Answer in <answer></answer>."
        )
        if dataset is not None:
            needs, read = ("numbers", "target"), self.from_row  # unreadable rows fail now
            keys: dict[str, Any] = {"unreadable": unreadable, "held_out": held_out}
            keys |= {"needs": needs, "read": read, "settings": {}}
            self.rows = Rows(dataset, columns=columns, **keys)
        else:
            for each in SPLITS:
                self.problem(0, each)  # raises if there are no puzzles

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Make puzzles until one belongs to `split`."""
        for _ in range(_MOST_TRIES):
            puzzle = generate(rng, self.recipe)
            prompt = _ask(Goal(puzzle.numbers, puzzle.target))
            if split_of(prompt) == split:
                return Problem(
                    prompt=prompt,
                    gold=Goal(puzzle.numbers, puzzle.target),
                    solution=f"<think>{puzzle.work}</think><answer>{puzzle.answer}</answer>",
                )
        raise ConfigError(f"env.values={self.recipe.values}: too few puzzles for two splits.")

    def from_row(self, row: Row) -> Problem:
        """Read the numbers ([3, 5, 4], or as text) and the target of a row; no solution is known.

        Whether the target can be made is not checked.
        """
        numbers, target = row.text("numbers"), row.text("target")
        where = f"{row.source}: row {row.number + 1}"
        if not _LIST.fullmatch(numbers):
            raise DatasetError(f"{where}: numbers {numbers[:60]!r} are not 2 to 20 whole ones.")
        if not _WHOLE.fullmatch(target):
            raise DatasetError(f"{where}: target {target[:60]!r} is no whole number.")
        goal = Goal(tuple(map(int, re.findall("[0-9]+", numbers))), int(target))
        return Problem(prompt=_ask(goal), gold=goal, solution="")

    def score(self, problem: Problem, answer: str) -> Reward:
        """Evaluate the expression and count the numbers in it."""
        block = only_block(answer, "answer")
        if block is None:
            return Reward(parts={"correct": 0.0, "format": 0.0})
        why = self._wrong(problem.gold, block.text)
        return Reward(parts={"correct": float(not why), "format": float(block.neat)}, note=why)

    def _wrong(self, goal: Goal, text: str) -> str:
        """Return why `text` does not make the target; '' if it does."""
        expression, equals, right = undelimited(text).partition("=")
        if equals and undelimited(right) != str(goal.target):
            return "what follows = is not the target"
        try:
            made = work_out(plain(expression), self.recipe.operators)
        except Unreadable as error:
            return str(error)
        given, used = Counter(goal.numbers), Counter(made.numbers)
        if not used <= given or (self.use == "all" and used != given):
            return f"it does not {USES[self.use].lower()}"
        if len(made.numbers) < 2:
            return "it is a number and makes nothing"
        return "" if made.value == goal.target else f"it comes to {made.value}"


def _ask(goal: Goal) -> str:
    return f"Make {goal.target} from {', '.join(map(str, goal.numbers))}."
