"""Is an environment sound? `python -m grpo_envs.check env=math`: no model needed."""

import argparse
import inspect
import sys

import rich
from rich.table import Table

from grpo_envs import plugins
from grpo_envs.composition import compose_run
from grpo_envs.conformance import Finding, findings
from grpo_envs.errors import GrpoEnvsError


def main() -> None:
    """Check the environment that the overrides name; exit 1 on a broken promise, 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.check", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for a run, e.g. env=math env.level=2")
    parser.add_argument("--problems", type=int, default=50, help="of each split (%(default)s)")
    options = parser.parse_args()
    try:
        cfg = compose_run(options.overrides)
        env = plugins.make(cfg.env["name"], **cfg.env_keywords)
    except GrpoEnvsError as error:
        print(f"grpo_envs: {error}", file=sys.stderr)
        sys.exit(2)
    found = findings(env, options.problems)
    broken = [finding for finding in found if finding.evidence]
    console = rich.get_console()
    console.print(_table(cfg.env["name"], found))
    keys = inspect.signature(type(env)).parameters.values()
    told = " ".join(f"env.{key.name}={key.default}" for key in keys if key.name != "render_mode")
    console.print(f"keys: {told}", markup=False, highlight=False, soft_wrap=True)
    held = len(found) - len(broken)
    console.print(f"{held} of {len(found)} promises held on {options.problems} problems a split.")
    sys.exit(1 if broken else 0)


def _table(name: str, found: list[Finding]) -> Table:
    table = Table("promise", "held", "broken by", title=f"env={name}")
    for finding in found:
        mark = "[red]no[/red]" if finding.evidence else "[green]yes[/green]"
        told = finding.evidence or finding.note
        table.add_row(finding.promise, mark, told.replace("[", "\\["))
    return table


if __name__ == "__main__":
    main()
