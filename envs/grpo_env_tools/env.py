"""Arithmetic with a calculator to ask.

Task: "What is 347*286-199?" (see `questions.py` for the levels).
A turn ends in one of two blocks, after any `<think>` block: `<tool>347*286</tool>` is answered with
the result, or with an error, and the episode goes on; `<answer>99043</answer>` ends it. A turn with
neither, with both or with several is answered with the rule and costs the turn.
Answer: a whole number; the question itself, or anything else to be worked out, is wrong.
Reward, paid once, at the end: `correct` for the number, `format` for the share of the turns that
end in their block; `tool` tells whether a tool gave a result, and weighs nothing.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_env_tools.questions import LEVELS, CalculatorRecipe, generate
from grpo_env_tools.tools import TOOLS
from grpo_envs.env import SPLITS, TextEnv
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.graders.arithmetic import whole_number
from grpo_envs.graders.text import Block, only_block
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reply, Reward, Turn

ANSWER, TOOL = "answer", "tool"
EXPLAIN = "Write one <tool></tool> or one <answer></answer>."
_MOST_TRIES = 10_000
_NOTHING = {"correct": 0.0, "format": 0.0, "tool": 0.0}


class CalculatorEnv(TextEnv):
    """Questions with a whole number as their answer, and a tool that can find it."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1, "tool": 0.0}

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        terms: int | None = None,
        digits: int | None = None,
        operators: str | None = None,
        turns: int = 4,
        tool: str = "calculator",
        sandbox: str = "auto",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 a product and another term, 2 with three digits, 3 three terms with
                parentheses, 4 four with quotients, 5 six with six digits.
            terms: How many terms are added and subtracted, in place of the level's.
            digits: Digits of a number, in place of the level's.
            operators: Some of `+-*/` and `(`, in place of the level's.
            turns: Tool calls and answers per episode.
            tool: What may be called: `calculator`, or `python`, which runs in the sandbox.
            sandbox: Isolation of `python`, see grpo_envs/sandbox: `auto`, or a level by name.
            rewards: Weights of `correct`, `format` and `tool`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or leaves too few questions.
            SandboxUnavailable: `python` is asked for and this machine has no such isolation.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.level", level, LEVELS)
        require_one_of("env.tool", tool, TOOLS)
        require(type(turns) is int and 1 <= turns <= 20, "env.turns", turns, "1 to 20")
        base = LEVELS[level]
        self.recipe = CalculatorRecipe(
            operators=base.operators if operators is None else operators,
            terms=base.terms if terms is None else terms,
            digits=base.digits if digits is None else digits,
        )
        self.max_turns, self.tool = turns, TOOLS[tool](sandbox)
        self.concurrency = "threads" if self.tool.slow else "auto"
        self.system_prompt = (
            f"You may think in <think></think>. {self.tool.about} Answer in <answer></answer>."
        )
        for each in SPLITS:
            self.problem(0, each)  # raises where there are no questions

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Generate questions until one belongs to `split`."""
        for _ in range(_MOST_TRIES):
            question = generate(rng, self.recipe)
            prompt = f"What is {question.text}?"
            if split_of(prompt) == split:
                solution = f"<answer>{question.value}</answer>"
                meta = {"expression": question.text}
                gold = str(question.value)
                return Problem(prompt=prompt, gold=gold, solution=solution, meta=meta)
        raise ConfigError(f"env.digits={self.recipe.digits}: too few questions for two splits.")

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade an answer given at once."""
        return self.respond(problem, [Turn(action=answer)]).reward

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Call the tool, or grade the answer; pay at the end."""
        block = _block(turns[-1])
        if block and block.tag == ANSWER:
            right = whole_number(block.text) == int(problem.gold)
            blocks = [_block(turn) for turn in turns]
            parts = {
                "correct": float(right),
                "format": sum(each is not None and each.neat for each in blocks) / len(turns),
                "tool": float(any(_gave_a_result(turn) for turn in turns)),
            }
            return Reply(reward=Reward(parts=parts))
        observation = self.tool.call(block.text) if block else EXPLAIN
        return Reply(reward=Reward(parts=_NOTHING), observation=observation, done=False)

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Ask the tool for all of it, then say what it said."""
        results = [turn.observation for turn in turns if _gave_a_result(turn)]
        if results and whole_number(results[-1]) is not None:
            return f"<answer>{results[-1].strip()}</answer>"
        return f"<tool>{self.tool.ask(problem.meta['expression'])}</tool>"


def _block(turn: Turn) -> Block | None:
    return only_block(turn.action, ANSWER, TOOL)


def _gave_a_result(turn: Turn) -> bool:
    block = _block(turn)
    return bool(block and block.tag == TOOL and not turn.observation.startswith("error"))
