"""Arithmetic with a calculator to call.

Task: "What is 347*286-199?" (see `questions.py` for the levels).
Tool: `calculator(expression)`, or with `tool=python` the sandbox, `python(code)`.
Answer: a whole number in `<answer>...</answer>`, after at most one `<think>` block; an expression,
such as the question itself, is wrong.
Reward, with the answer: `correct` for the number, `format` for the share of turns with one call or
one answer and no other text; `tool`, with weight 0, says whether a call gave a result.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_env_tools.questions import LEVELS, CalculatorRecipe, generate
from grpo_envs import Problem, Reward, ToolEnv, Turn, write_call
from grpo_envs.env import SPLITS
from grpo_envs.env.calls import read_calls
from grpo_envs.env.tool_session import Episode
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.graders.arithmetic import Unreadable, whole_number, work_out
from grpo_envs.graders.text import after_think, only_block
from grpo_envs.sandbox import python_tool
from grpo_envs.sandbox.shared import shared_pool
from grpo_envs.seeding import split_of

LONGEST = 60
"""The most characters of the calculator's results, which go into the policy's context."""
_MOST_TRIES = 10_000


def calculator(expression: str) -> str:
    """Work out arithmetic.

    Args:
        expression: Such as 3*(4+5)/6.
    """
    try:
        result = str(work_out(expression).value)
    except Unreadable as error:
        raise ValueError(str(error)) from error
    if len(result) > LONGEST:
        raise ValueError("the result is too long")
    return result


class CalculatorEnv(ToolEnv):
    """Questions whose answer is a whole number, and a tool that computes it."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1, "tool": 0.0}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."

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
        tool_limits: Mapping[str, Any] | None = None,
        sandbox: str = "auto",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 a product and another term, 2 the same with three digits, 3 three terms with
                parentheses, 4 four terms with quotients, 5 six terms with six digits.
            terms: How many terms are added and subtracted, instead of the level's number.
            digits: Digits of a number, instead of the level's.
            operators: Some of `+-*/` and `(`, instead of the level's.
            turns: Turns of an episode, including the answer.
            tool: The tool: `calculator`, or `python`, which runs in the sandbox.
            tool_limits: {calls: of an episode, calls_per_turn: 4, result_chars: 200, call_s: 10,
                sessions: 128}, see docs/tools.md.
            sandbox: Isolation of `python`, see grpo_envs/sandbox: `auto`, or the name of a level.
            rewards: Weights of `correct`, `format` and `tool`, and of the counts of calls.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or leaves too few questions.
            SandboxUnavailable: the tool is `python`, and this machine has no such isolation.
        """
        require_one_of("env.level", level, LEVELS)
        require_one_of("env.tool", tool, ("calculator", "python"))
        require(type(turns) is int and 1 <= turns <= 20, "env.turns", turns, "1 to 20")
        base = LEVELS[level]
        self.recipe = CalculatorRecipe(
            operators=base.operators if operators is None else operators,
            terms=base.terms if terms is None else terms,
            digits=base.digits if digits is None else digits,
        )
        self.tool = tool
        python = tool == "python"
        self.tools = [python_tool(shared_pool(sandbox, None)) if python else calculator]
        limits = {"result_chars": 200, **(tool_limits or {})}
        super().__init__(
            split, turns=turns, tool_limits=limits, rewards=rewards, render_mode=render_mode
        )
        for each in SPLITS:
            self.problem(0, each)  # raises if there are no questions

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
        """Grade an answer without calls before it."""
        block = only_block(answer, "answer")
        right = block is not None and whole_number(block.text) == int(problem.gold)
        form = block is not None and block.neat
        return Reward(parts={"correct": float(right), "format": float(form), "tool": 0.0})

    def score_episode(self, problem: Problem, answer: str, episode: Episode) -> Reward:
        """Grade the answer, and the form of the turns before it."""
        parts = dict(self.score(problem, answer).parts)
        calls = sum(map(_neat_call, episode.turns[:-1]))
        parts["format"] = (parts["format"] + calls) / len(episode.turns)
        parts["tool"] = float(not all(call.failed for call in episode.calls))
        return Reward(parts=parts)

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Call the tool with the whole expression, then answer with its result."""
        for turn in turns[::-1]:
            if read_calls(turn.action)[1] and whole_number(turn.observation) is not None:
                return f"<answer>{turn.observation.strip()}</answer>"
        expression = problem.meta["expression"]
        if self.tool == "python":  # quotients are exact
            return write_call("python", {"code": f"print({expression.replace('/', '//')})"})
        return write_call("calculator", {"expression": expression})


def _neat_call(turn: Turn) -> bool:
    """Return whether a turn is one readable call, after at most one `<think>` block."""
    text, calls = read_calls(turn.action)
    return len(calls) == 1 and not calls[0].error and not (after_think(text) or "").strip()
