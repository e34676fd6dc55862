r"""Mathematics with an exact answer.

Task: a generated problem (see `generate.py` for the levels), or a row of a dataset.
Answer: the last `<answer>...</answer>` or `\boxed{...}`, after any `<think>` block; where a number
in plain text is asked for, the last number if there is neither.
Reward: `correct` for the right value, `format` for exactly one well-formed answer at the end.
"""

import random
from collections.abc import Mapping
from typing import ClassVar

from grpo_env_math.generate import LEVELS, Recipe, generate
from grpo_envs.data import Row, Rows
from grpo_envs.env import TextEnv
from grpo_envs.errors import ConfigError, DatasetError, require_one_of
from grpo_envs.graders.math import extract, grade, parse_number
from grpo_envs.graders.math.extract import after_think, balanced
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reward

ANSWERS = {"tag": "<answer>{}</answer>", "boxed": "\\boxed{{{}}}", "number": "{}"}
_ASK = {
    "tag": "You may think in <think></think>. Answer in <answer></answer>.",
    "boxed": "You may think in <think></think>. Answer in \\boxed{}.",
    "number": "Reply with a single number and nothing else.",
}


class MathEnv(TextEnv):
    """Questions whose answer is a number."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        terms: list[int] | None = None,
        digits: int | None = None,
        operators: str | None = None,
        answer: str = "tag",
        dataset: str | None = None,
        columns: dict[str, str] | None = None,
        rewards: dict[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 sums, 2 differences, 3 products, 4 exact quotients, 5 linear equations.
            terms: [least, most] terms of an expression, in place of the level's.
            digits: Most digits of a number, in place of the level's.
            operators: Some of `+-*/`, or `=` for equations, in place of the level's.
            answer: What the answer is asked in: `tag` (`<answer>`), `boxed`, or `number` (plain
                text, for models that write neither). Tag and box are always read.
            dataset: A local file or hub id with questions and golds; None generates them.
            columns: Names of the dataset's columns: {"prompt": ..., "gold": ...}.
            rewards: Weights of `correct` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed.
            DatasetError: the dataset is missing, lacks a column, or a gold is not a number.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.level", level, LEVELS)
        require_one_of("env.answer", answer, ANSWERS)
        base = LEVELS[level]
        if terms is not None and not set(operators or base.operators) & set("+-"):
            raise ConfigError(f"env.terms={terms}: without + or - a question has one term.")
        self.recipe = Recipe(
            terms=base.terms if terms is None else terms,
            digits=base.digits if digits is None else digits,
            operators=base.operators if operators is None else operators,
        )
        self.answer = answer
        self.system_prompt = _ASK[answer]
        if dataset is not None:
            self.rows = Rows(dataset, needs=("prompt", "gold"), columns=columns)
            for row in self.rows.all():
                self.from_row(row)  # a gold that is not a number is named now, not at step 300

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Generate questions until one belongs to `split`."""
        while True:
            question = generate(rng, self.recipe)
            if split_of(question.text) == split:
                solution = self._solution(question.work, str(question.gold))
                return Problem(prompt=question.text, gold=str(question.gold), solution=solution)

    def from_row(self, row: Row) -> Problem:
        """Read the gold of a row, bare or as in GSM8K (`... #### 72`)."""
        text = row.text("gold")
        gold = text if parse_number(text) is not None else extract(text)
        if gold is None or parse_number(gold) is None:
            where = f"{row.source}: row {row.number + 1}"
            raise DatasetError(f"{where}: gold {text[-60:]!r} is not a number.")
        solution = self._solution("", gold)
        return Problem(prompt=row.text("prompt"), gold=gold, solution=solution)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade the value and the shape."""
        plain = self.answer == "number"
        correct = grade(problem.gold, answer, lenient=plain).correct
        form = bare_number(answer) if plain else well_formed(answer)
        return Reward(parts={"correct": float(correct), "format": float(form)})

    def _solution(self, work: str, gold: str) -> str:
        # An empty think block only before a bare number: alone, it would stand in many a question.
        think = f"<think>{work}</think>" if work or self.answer == "number" else ""
        return think + ANSWERS[self.answer].format(gold)


def bare_number(text: str) -> bool:
    """Return whether `text` is at most one think block, then a number and nothing else.

    >>> bare_number("7"), bare_number("<think>3+4=7</think>7.")
    (True, True)
    >>> bare_number("It is 7."), bare_number("7 8")
    (False, False)
    """
    around = _around_think(text)
    return around is not None and not around[0].strip() and parse_number(around[1]) is not None


def well_formed(text: str) -> bool:
    r"""Return whether `text` is at most one think block, then exactly one answer, at the end.

    >>> well_formed("<think>3+4=7</think><answer>7</answer>"), well_formed(r"so \boxed{7}.")
    (True, True)
    >>> well_formed("<answer>7</answer> or <answer>8</answer>"), well_formed("<answer>7")
    (False, False)
    """
    around = _around_think(text)
    if around is None:
        return False
    before, rest = around
    if "<answer>" in before or "\\boxed{" in before:
        return False
    rest = rest.rstrip(" \n.$")
    tags, closed, boxes = rest.count("<answer>"), rest.count("</answer>"), rest.count("\\boxed{")
    if (tags, closed) == (1, 1) and boxes <= 1:
        if boxes and rest.index("\\boxed{") < rest.index("<answer>"):
            return False
        return rest.endswith("</answer>") and bool(extract(rest))
    if (tags, closed, boxes) != (0, 0, 1):
        return False
    brace = rest.index("\\boxed{") + len("\\boxed")
    return balanced(rest, brace) == len(rest) - 1 and bool(extract(rest))


def _around_think(text: str) -> tuple[str, str] | None:
    """Return what stands before and after the think block, None unless there is at most one."""
    rest = after_think(text)
    if rest is None or text.count("<think>") > 1 or text.count("</think>") > 1:
        return None
    return text.partition("<think>")[0] if "<think>" in text else "", rest
