"""CodeI/O: functions from real programs, offline from the package reasoning-gym.

Task: a description and the form of inputs and outputs; write `main_solution` (3,002 tasks of
reasoning-gym's `codeio`, after Li et al. 2025, arXiv:2502.07316; about 2,160 of them are usable).
Answer and reward: as in `env=code`; the expected value is the return value of the reference
program.

The reference program and its generator of inputs are untrusted, too: they run in the sandbox when a
task is first drawn (about 20 ms, cached). A task is skipped if its values are not repeatable, if it
needs packages other than numpy or more than a second, or if more than half of its cases have the
same value.
"""

import ast
import gzip
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grpo_env_code.env import CodeEnv
from grpo_envs.errors import ConfigError, install
from grpo_envs.graders.code import Case, CodeTests, grade_code, program_of
from grpo_envs.graders.code.compare import same
from grpo_envs.sandbox import Backend, Calls, Limits, Returned
from grpo_envs.seeding import seed_for, split_of
from grpo_envs.types import Problem

_CASES, _VISIBLE, _TOLERANCE = 10, 2, 1e-6
_LIMITS = Limits(cpu_s=1)
_MAKE_CASES = """
def made_cases(seeds, _inputs=generate_inputs, _solve=main_solution):
    import copy, random
    made = []
    for seed in seeds:
        inputs = _inputs(random.Random(seed))
        random.seed(1)
        first = _solve(**copy.deepcopy(inputs))
        random.seed(2)
        made.append([inputs, first, _solve(**copy.deepcopy(inputs))])
    return made
"""

Task = Mapping[str, str]

_MADE: dict[int, Problem | None] = {}


class CodeIOEnv(CodeEnv):
    """Functions that have a reference program."""

    def __init__(
        self,
        split: str = "train",
        *,
        passed: str = "fraction",
        turns: int = 1,
        sandbox: str = "auto",
        workers: int | None = None,
        wall_s: float = 6.0,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; the arguments are those of `env=code`.

        Raises:
            ConfigError: a value is not allowed, or reasoning-gym is not installed.
            SandboxUnavailable: this machine has no isolation of that level.
        """
        super().__init__(
            split,
            passed=passed,
            turns=turns,
            sandbox=sandbox,
            workers=workers,
            wall_s=wall_s,
            rewards=rewards,
            render_mode=render_mode,
        )
        self.numbers = {
            name: [n for n, task in enumerate(tasks()) if split_of(prompt_of(task)) == name]
            for name in ("train", "eval")
        }

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw tasks of `split` until one has repeatable values."""
        while True:
            problem = made(rng.choice(self.numbers[split]), self.backend)
            if problem is not None:
                return problem


@cache
def tasks() -> Sequence[Task]:
    """Return all tasks, in the order of the file.

    Raises:
        ConfigError: reasoning-gym is not installed.
    """
    found = find_spec("reasoning_gym")  # not imported: the import takes seconds
    if found is None or found.origin is None:
        text = f"env=codeio needs reasoning-gym: {install('reasoning-gym')}"
        raise ConfigError(text)
    path = Path(found.origin).parent / "data" / "codeio.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


def prompt_of(task: Task) -> str:
    """Return the prompt of a task."""
    described = f"{task['task_description'].strip()}\n\n{task['input_output_spec'].strip()}"
    return f"{described}\n\nWrite the function `main_solution({', '.join(_parameters(task))})`."


def made(number: int, backend: Backend) -> Problem | None:
    """Return task `number` as a problem; None if its values are not repeatable."""
    if number not in _MADE:
        _MADE[number] = _made(number, backend)
    return _MADE[number]


def _made(number: int, backend: Backend) -> Problem | None:
    task = tasks()[number]
    tests = _tests(task, _run(task, number, backend))
    solution = f"```python\n{task['code_sample'].strip()}\n```"
    if tests is None or program_of(solution) is None:
        return None
    verdict = grade_code(tests, str(program_of(solution)), backend, _LIMITS)
    if verdict.passed < 1 or not verdict.ran:
        return None
    return Problem(prompt=prompt_of(task), gold=tests, solution=solution, meta={"task": number})


def _run(task: Task, number: int, backend: Backend) -> list[Any]:
    """Return inputs and the outputs of two calls, for a few cases; [] if the program fails."""
    source = f"from random import Random\n{task['code_sample']}\n{task['input_generator']}\n"
    seeds = [seed_for("codeio", number, case) for case in range(2 * _CASES)]
    calls = Calls(entry_point="made_cases", args=[(seeds,)])
    result = backend.run(f"{source}{_MAKE_CASES}", calls=calls, limits=_LIMITS)
    value = result.values[0] if result.values else None
    return value.value if isinstance(value, Returned) and isinstance(value.value, list) else []


def _tests(task: Task, cases: Sequence[Any]) -> CodeTests | None:
    names = _parameters(task)
    kept: list[Case] = []
    for case in cases:
        if not (isinstance(case, list) and len(case) == 3 and isinstance(case[0], dict)):
            return None
        inputs, first, again = case
        if set(inputs) != set(names) or not same(first, again):
            return None
        given = tuple(inputs[name] for name in names)
        if given not in [one.given for one in kept]:
            one = Case(given=given, expected=first, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
            kept.append(one)
    kept = kept[:_CASES]
    common = Counter(repr(case.expected) for case in kept).most_common(1)
    if len(kept) < _CASES or common[0][1] > _CASES // 2:
        return None  # too few cases, or a constant would pass many
    return CodeTests(kind="call", entry_point="main_solution", cases=tuple(kept), visible=_VISIBLE)


def _parameters(task: Task) -> list[str]:
    """Return the parameters of `main_solution`; [] if it is not a plain function."""
    try:
        body = ast.parse(task["code_sample"]).body
    except SyntaxError:
        return []
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == "main_solution":
            return [argument.arg for argument in node.args.args]
    return []
