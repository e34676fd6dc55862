"""The questions of reasoning-gym, which has a generator and a grader for each of 105 tasks.

Task: one item of `env.task`, drawn from a hashed seed, never from its data set's `seed + i`.
Answer: the text in the last `<answer>...</answer>`, after any `<think>` block.
Reward: `correct` is the value of the task's grader: with `env.credit=all` 1 for its maximum, else
0; with `partial` the part of its value above that of a junk answer. `format` for exactly one answer
at the end.

An empty answer earns 0, even if the grader gives more. An answer for which the grader raises or
takes too long is wrong; if the grader raises for its own answer, too, the reward is invalid.
"""

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from grpo_env_reasoning_gym.library import Item, Library, shared
from grpo_env_reasoning_gym.shape import answer_of, well_formed
from grpo_envs.env import TextEnv
from grpo_envs.errors import SandboxError, require, require_one_of
from grpo_envs.runtime.daemons import side_by_side
from grpo_envs.runtime.launch import cores
from grpo_envs.sandbox import Limits
from grpo_envs.types import Problem, Reward

_JUNK = "?"
"""A worthless answer: the value of its grade is what a grader gives for any answer."""
_KEPT = 4096


class ReasoningGymEnv(TextEnv):
    """Questions that a program generates and a program grades."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."

    def __init__(
        self,
        split: str = "train",
        *,
        task: str = "chain_sum",
        options: dict[str, Any] | None = None,
        credit: str = "all",
        sandbox: str = "auto",
        workers: int | None = None,
        wall_s: float = 6.0,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`; a quarter of the questions, by hash, belongs to `eval`.
            task: One of reasoning-gym's generators.
            options: Options of its configuration, except seed and size.
            credit: `all` or nothing, or `partial` as the task's grader gives it.
            sandbox: Isolation of generators and graders, see grpo_envs/sandbox: `auto`, or a level.
            workers: Answers that are graded in parallel; None: one per processor core.
            wall_s: Seconds that grading an answer may take.
            rewards: Weights of `correct` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or the task is refused; the message says why.
            SandboxUnavailable: this machine has no isolation of that level.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.credit", credit, ("all", "partial"))
        positive = isinstance(wall_s, int | float) and 0 < wall_s <= 600
        require(positive, "env.wall_s", wall_s, "seconds, at most 600")
        named = options is None or isinstance(options, Mapping)
        require(named, "env.options", repr(options)[:80], "{name: value, ...} of the task")
        self.credit = credit
        self.library = Library(task, options or {}, shared(sandbox, workers))
        self.limits = Limits(wall_s=float(wall_s), cpu_s=max(1, round(wall_s) // 2))
        self.workers = workers or cores()
        self._item = lru_cache(_KEPT)(self.library.draw)
        for name in ("train", "eval"):  # raises now if a split has no questions
            self.problem(0, name)

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Return a question drawn in the sandbox with a key from `rng`."""
        item = self._item(split, rng.getrandbits(62))
        best = item.best is not None and item.best >= 1
        solution = f"<answer>{item.answer}</answer>" if best else ""
        meta = {"task": self.library.task}
        return Problem(prompt=item.question, gold=item, solution=solution, meta=meta)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade the text in the tags with the task's grader."""
        found = answer_of(answer)
        form = float(well_formed(answer))
        if not found:
            return Reward(parts={"correct": 0.0, "format": form})
        item: Item = problem.gold
        grade = self.library.grade(item, found, self.limits)
        correct = float(grade.value >= 1)
        if self.credit == "partial" and 0 < grade.value < 1:
            base = self.library.grade(item, _JUNK, self.limits).value
            correct = max(0.0, grade.value - base) / (1 - base) if base < 1 else 0.0
        return Reward(parts={"correct": correct, "format": form}, note=grade.note)

    def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Grade in parallel, each answer in a separate process."""
        return side_by_side(self._score_or_invalid, problems, answers, most=self.workers or cores())

    def _score_or_invalid(self, problem: Problem, answer: str) -> Reward:
        """Return the score; an error of the sandbox or grader makes only this reward invalid."""
        try:
            return self.score(problem, answer)
        except SandboxError as error:
            return Reward(valid=False, error=f"{type(error).__name__}: {error}")
