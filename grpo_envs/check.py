"""The contract check of an environment: `python -m grpo_envs.check env=math`. It needs no model.

It prints the promises of the contract and whether they hold. The score sheet below them shows the
rewards of several kinds of answers to one problem.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NoReturn

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_envs.config.composition import compose_run
from grpo_envs.env import TextEnv, plugins
from grpo_envs.env.conformance import PromiseCheck, check_promises
from grpo_envs.env.installed import parameters_of
from grpo_envs.env.score_sheet import Row, score_sheet
from grpo_envs.env.time_limit import TooLong, time_limit
from grpo_envs.env.trial import SECONDS
from grpo_envs.errors import ConfigError, require
from grpo_envs.runs.folder import as_typed
from grpo_envs.runtime.terminal import exit_on_error, number, one_line, printable

_CONSTRUCTOR = 10
"""The constructor may take as long as so many calls."""
_LEAST_ROOM = 16
_LINE = 300


@exit_on_error()
def main() -> None:
    """Check the environment that the overrides name; exit 1 on a broken promise, 2 on a mistake."""
    about = (__doc__ or "").replace("\n\n", " ")
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.check", description=about)
    parser.add_argument("overrides", nargs="*", help="as for a run, e.g. env=math env.level=2")
    parser.add_argument(
        "--problems", type=int, default=50, help="problems of each split (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="training problem of the score sheet (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=SECONDS, help="seconds that a call may take (%(default)g)"
    )
    options = parser.parse_intermixed_args()
    require(options.problems > 0, "--problems", options.problems, "1 or more")
    require(options.seed >= 0, "--seed", options.seed, "0 or more")
    require(options.timeout > 0, "--timeout", options.timeout, "above 0")
    cfg = compose_run(options.overrides)
    name = cfg.env["name"]
    with closing(_make(name, cfg.env_keywords, options.timeout)) as env:
        sound = _check(env, cfg.env, options)
    sys.exit(0 if sound else 1)


def _make(name: str, keywords: Mapping[str, Any], seconds: float) -> TextEnv:
    """Make the environment.

    Raises:
        ConfigError: the constructor did not end in time. Its limit is longer than a call's, because
            it may read a dataset.
    """
    try:
        with time_limit(seconds * _CONSTRUCTOR, "the constructor"):
            return plugins.make(name, **keywords)
    except TooLong as error:
        raise ConfigError(f"env={name}: {error} ({_CONSTRUCTOR} times --timeout).") from error


def _check(env: TextEnv, given: Mapping[str, Any], options: argparse.Namespace) -> bool:
    """Print promises and score sheet; return whether all promises held and there is a sheet."""
    console, problems = rich.get_console(), options.problems
    with console.status("") as status:
        checks = check_promises(env, problems, seconds=options.timeout, begins=status.update)
    broken = [check for check in checks if check.evidence]
    console.print(_table(given["name"], checks))
    console.print(f"keys: {_keys(env, given)}", markup=False, highlight=False, soft_wrap=True)
    untried = sum(not check.tried for check in checks)
    held = len(checks) - len(broken) - untried
    rest = f" {untried} could not be tried." if untried else ""
    console.print(f"{held} of {len(checks)} promises held on {problems} problems per split.{rest}")
    if checks[-1].late:
        print("The other promises are not tried: a call that did not end would hold them up, too.")
        _leave()
    return _show_sheet(env, options.seed, console) and not broken


def _keys(env: TextEnv, given: Mapping[str, Any]) -> str:
    """Return the constructor's keywords with the given values, and defaults for the others."""
    values = {p.name: p.default for p in parameters_of(type(env)).values()} | {**given}
    shown = {key: x for key, x in values.items() if key not in ("name", "render_mode")}
    return " ".join(f"env.{key}={as_typed(value)}" for key, value in shown.items())


def _leave() -> NoReturn:
    """End the process at once: a normal exit would wait for threads in which a call still runs."""
    sys.stdout.flush()
    os._exit(1)


def _table(name: str, checks: list[PromiseCheck]) -> Table:
    table = Table("promise", "held", "broken by", title=f"env={name}")
    for check in checks:
        held = "[red]no[/red]" if check.evidence else "[green]yes[/green]"
        mark = held if check.tried else "-"
        table.add_row(check.promise, mark, Text(printable(check.evidence or check.note)))
    return table


def _show_sheet(env: TextEnv, seed: int, console: Console) -> bool:
    """Print the score sheet; return whether there is one."""
    try:
        prompt, rows = env.problem(seed, "train").prompt, score_sheet(env, seed)
    except Exception as error:  # noqa: BLE001  a package's environment may raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"no score sheet of training problem {seed}: {printable(cause)}")
        return False
    console.print(f"\nTraining problem {seed}, and the rewards of answers to it:", highlight=False)
    console.print(Text(printable(prompt)), soft_wrap=True)
    _print_rows(rows, console)
    return True


def _print_rows(rows: list[Row], console: Console) -> None:
    columns = [*rows[0].parts, "total", "valid"]
    others = len("| truncated |  |") + sum(3 + max(map(len, _header(x))) for x in columns)
    room = max(_LEAST_ROOM, console.width - others)
    table = Table("kind", "answer")
    for name in columns:
        table.add_column(Text("\n".join(_header(name))), justify="right")
    for row in rows:
        numbers = [number(value) for value in (*row.parts.values(), row.total)]
        valid = "-" if not row.answers else "yes" if row.valid else "no"
        table.add_row(row.kind, Text(_one_line(row.answers, room)), *numbers, valid)
    # Many parts can be wider than the terminal: long lines are better than cut columns.
    Console(width=others + room).print(table)
    for row in rows:
        if row.note:
            console.print(Text(f"{row.kind}: {one_line(row.note, _LINE)}"), soft_wrap=True)
    hacked = next(row for row in rows if row.kind == "hacked")
    console.print(Text(f"hacked: {_one_line(hacked.answers, _LINE)}"), soft_wrap=True)


def _header(part: str) -> list[str]:
    """Return the lines of a column's header: math/correct takes two."""
    return part.replace("/", "/ ").split(" ")


def _one_line(answers: tuple[str, ...], room: int) -> str:
    """Return the answers of all turns in one line; equal answers once, with their number."""
    if len(answers) > 1 and len(set(answers)) == 1:
        times = f" (x{len(answers)})"
        return one_line(answers[0], room - len(times)) + times
    return one_line(" | ".join(answers), room)


if __name__ == "__main__":
    main()
