"""Which isolation can this machine give to programs? `python -m grpo_envs.sandbox`."""

import argparse
import sys

import rich
from rich.table import Table

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runtime.terminal import exit_on_error
from grpo_envs.sandbox import levels
from grpo_envs.sandbox.acts import trial
from grpo_envs.sandbox.pool import LocalPool
from grpo_envs.sandbox.probes import probe_all


@exit_on_error()
def main() -> None:
    """Print the probes, the level and its self-test; exit 1 if no safe level works."""
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.sandbox", description=__doc__)
    parser.add_argument("--level", default="auto", help=f"{', '.join(levels.LEVELS)} (%(default)s)")
    options = parser.parse_args()
    console = rich.get_console()
    console.print(_machine())
    try:
        setting = LocalPool(level=options.level).setting
    except GrpoEnvsError as error:
        sys.exit(f"grpo_envs: {error}")
    console.print(f"level={options.level} is {setting.level}: {_ISOLATION[setting.level]}.")
    results = trial(setting)
    table = Table("act", "expected", "held", title=f"self-test of {setting.level}")
    for result in results:
        table.add_row(result.act, result.expected, _mark(not result.problem, result.problem))
    console.print(table)
    sys.exit(0 if setting.level in levels.SAFE and not any(f.problem for f in results) else 1)


_ISOLATION = {
    "bubblewrap": "own namespaces (files, processes, network, users), and all of `confined`",
    "confined": "no files but Python's, no sockets, processes, signals or privileges; limits on "
    "time, memory, output, threads and descriptors. A program can still tell by `stat` which other "
    "files there are, with their sizes, owners and dates: Landlock does not restrict that",
    "degraded": "limits on time, memory and output only",
    "unsafe": "limits on time, memory and output only",
}


def _machine() -> Table:
    table = Table("probe", "found", "good", "needed by", "remedy", title="this machine")
    for probe in probe_all():
        remedy = "" if probe.good else probe.remedy
        table.add_row(probe.name, probe.found, _mark(probe.good), probe.needed, remedy)
    return table


def _mark(good: bool, why: str = "") -> str:
    return "[green]yes[/green]" if good else f"[red]no[/red] {why}".replace("\\n", " ")


if __name__ == "__main__":
    main()
