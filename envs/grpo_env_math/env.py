r"""Mathematics with an exact answer.

Task: a generated problem (see `generate.py` for the levels), or a row of a dataset.
Answer: the last `<answer>...</answer>` or `\boxed{...}`, after any `<think>` block; with
`answer=number`, the last number if there is neither.
Reward: `correct` for the right value (fully evaluated: 3+4 is not accepted for 7), `format` for
exactly one well-formed answer at the end.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_env_math.generate import LEVELS, MathRecipe, generate
from grpo_env_math.golds import golds_of
from grpo_env_math.shape import bare_number, well_formed
from grpo_envs.env import TextEnv
from grpo_envs.env.dataset import Row, Rows, require_dataset
from grpo_envs.errors import ConfigError, DatasetError, require_one_of
from grpo_envs.graders.math import (
    MathGrading,
    extract,
    grade_many,
    grading_from,
    parse_number,
    prepare,
    readable,
)
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reward

log = logging.getLogger(__name__)

ANSWERS = {"tag": "<answer>{}</answer>", "boxed": "\\boxed{{{}}}", "number": "{}"}
_ASK = {
    "tag": "You may think in <think></think>. Answer in <answer></answer>.",
    "boxed": "You may think in <think></think>. Answer in \\boxed{}.",
    "number": "Reply with a single number and nothing else.",
}
_LISTS = {"all": "all of their answers are asked for", "any": "any one of them is right"}


class MathEnv(TextEnv):
    """Questions with an answer that can be checked: a number, an expression, a set, an interval."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}
    renamed: ClassVar[Mapping[str, str]] = {"policy": "grading"}

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
        columns: dict[str, Any] | None = None,
        unreadable: str = "error",
        held_out: float | None = None,
        golds: str = "all",
        grading: dict[str, Any] | None = None,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 sums, 2 differences, 3 products, 4 exact quotients, 5 linear equations.
            terms: [least, most] terms of an expression, instead of the level's.
            digits: The most digits of a number, instead of the level's.
            operators: Some of `+-*/`, or `=` for equations, instead of the level's.
            answer: The form that the prompt asks for: `tag` (`<answer>`), `boxed`, or `number`
                (plain text, for models that write neither). Tags and boxes are always read.
            dataset: A local file or hub id with questions and golds; None generates them.
            columns: Names of the dataset's columns: {"prompt": ..., "gold": ...}.
            unreadable: How rows that cannot be read are treated: `error` or `drop`.
            held_out: Share of the distinct prompts that is kept for evaluation; null: a tenth. A
                dataset with its own eval, test or validation split keeps that split.
            golds: Whether a list of golds requires `all` of them, in any order, or `any` of them.
            grading: Fields of `MathGrading` that define equal answers, instead of
                {"evaluated": True} and the defaults.
            rewards: Weights of `correct` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed.
            DatasetError: the dataset is missing, lacks a column, or a gold cannot be read.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.level", level, LEVELS)
        require_one_of("env.answer", answer, ANSWERS)
        require_one_of("env.golds", golds, ("all", "any"))
        require_dataset(dataset, columns=columns, unreadable=unreadable, held_out=held_out)
        base = LEVELS[level]
        if terms is not None and not set(operators or base.operators) & set("+-"):
            raise ConfigError(f"env.terms={terms}: without + or - a question has one term.")
        self.recipe = MathRecipe(
            terms=base.terms if terms is None else terms,
            digits=base.digits if digits is None else digits,
            operators=base.operators if operators is None else operators,
        )
        self.answer, self.golds = answer, golds
        self.system_prompt = _ASK[answer]
        self.grading = grading_from(
            grading, MathGrading(evaluated=True, lenient=answer == "number")
        )
        if dataset is not None:
            keys: dict[str, Any] = {"unreadable": unreadable, "held_out": held_out}
            self.rows = self._read(dataset, columns=columns, **keys)

    def _read(self, dataset: str, **keys: Any) -> Rows:
        """Read all rows now, so that an unreadable gold is an error before training."""
        settings = {"answer": self.answer, "golds": self.golds}
        needs = ("prompt", "gold")
        rows = Rows(dataset, needs=needs, read=self._kind_of, settings=settings, **keys)
        if "lists" in rows.kinds:
            log.info("%s: some golds are lists: %s (env.golds)", dataset, _LISTS[self.golds])
        if rows.kinds - {"numbers"}:
            prepare(self.grading)
        return rows

    def _kind_of(self, row: Row) -> str:
        """Read the gold of a row; return its kind: lists, numbers or expressions."""
        row.text("prompt")
        listed = golds_of(row)
        golds = self._golds(listed, row)
        if len(listed) > 1:
            return "lists"
        return "numbers" if parse_number(golds[0]) is not None else "expressions"

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Generate questions until one belongs to `split`."""
        while True:
            question = generate(rng, self.recipe)
            if split_of(question.text) == split:
                solution = self._solution(question.work, str(question.gold))
                return Problem(prompt=question.text, gold=str(question.gold), solution=solution)

    def from_row(self, row: Row) -> Problem:
        r"""Read the gold of a row: bare, or as in GSM8K (`... #### 72`) and MATH (`\boxed{72}`).

        A list of golds becomes one text with all of them, or with `golds=any` a tuple.
        """
        golds = self._golds(golds_of(row), row)
        return Problem(
            prompt=row.text("prompt"),
            gold=golds[0] if len(golds) == 1 else golds,
            solution=self._solution("", golds[0]),
        )

    def _golds(self, listed: Sequence[str], row: Row) -> tuple[str, ...]:
        texts = listed if self.golds == "any" else [", ".join(listed)]
        golds = tuple(extract(text) or text for text in texts)
        for gold, text in zip(golds, texts, strict=True):
            if parse_number(gold) is not None:
                continue
            why = readable(gold)
            if not why and self.answer == "number":
                why = "env.answer=number asks for numbers; tag and boxed for anything"
            if why:
                raise DatasetError(f"{row.where}: gold {text[-60:]!r} cannot be graded: {why}.")
        return golds

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade the value and the format."""
        return self.score_batch([problem], [answer])[0]

    def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Grade many answers at once; workers grade those that need sympy in parallel."""
        golds = [p.gold if isinstance(p.gold, tuple) else (p.gold,) for p in problems]
        said = [answer for some, answer in zip(golds, answers, strict=True) for _ in some]
        verdicts = iter(grade_many([gold for some in golds for gold in some], said, self.grading))
        right = [max([next(verdicts).correct for _ in some]) for some in golds]
        form = bare_number if self.answer == "number" else well_formed
        return [
            Reward(parts={"correct": float(correct), "format": float(form(answer))})
            for correct, answer in zip(right, answers, strict=True)
        ]

    def _solution(self, work: str, gold: str) -> str:
        # A bare number gets a think block even if empty: a short number alone is in many questions.
        think = f"<think>{work}</think>" if work or self.answer == "number" else ""
        return think + ANSWERS[self.answer].format(gold)
