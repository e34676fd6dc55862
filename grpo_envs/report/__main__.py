"""`python -m grpo_envs.report RUN...`: see the package."""

import argparse
from pathlib import Path

from grpo_envs.report import write_report
from grpo_envs.runs.newest import run_at
from grpo_envs.runs.record import read_record
from grpo_envs.runtime.terminal import exit_on_error


@exit_on_error()
def main() -> None:
    """Read the options and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.report",
        description="Runs as one page: curves over each other, completions, configurations.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="runs, or folders of runs (the newest)")
    where = "the page (report.html: in the run's folder, of several runs here)"
    parser.add_argument("--out", type=Path, help=where)
    options = parser.parse_args()
    runs = [run_at(run) for run in options.runs]
    alone = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    out = options.out or alone
    write_report([read_record(run) for run in runs], out)
    print(out)


if __name__ == "__main__":
    main()
