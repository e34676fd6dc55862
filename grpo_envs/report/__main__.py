"""`python -m grpo_envs.report RUN...`: see the package."""

import argparse
import sys
from pathlib import Path

from grpo_envs.errors import ConfigError, require_training
from grpo_envs.report import write_report
from grpo_envs.runs.comparison import over_seeds
from grpo_envs.runs.curves import ACCURACY
from grpo_envs.runs.newest import run_at
from grpo_envs.runs.record import read_record
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.terminal import exit_on_error


@exit_on_error()
def main() -> None:
    """Read the options and write the page, or serve it."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.report",
        description="Write a page about runs: curves, completions and configurations.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="runs, or folders of runs (the newest)")
    where = "the page (report.html in the run's folder; for several runs, in this folder)"
    parser.add_argument("--out", type=Path, help=where)
    watch = "serve the page on 127.0.0.1 and update it during the runs, until Ctrl-C"
    parser.add_argument("--watch", action="store_true", help=watch)
    parser.add_argument("--port", type=int, default=0, help="port of --watch (a free one)")
    options = parser.parse_args()
    runs = [run_at(run) for run in options.runs]
    if options.watch:
        if options.out:
            raise ConfigError("--out with --watch, which writes no file. Allowed: one of them.")
        _watch(runs, options.port)
        return
    alone = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    out = options.out or alone
    records = [read_record(run) for run in runs]
    write_report(records, out)
    if (comparison := over_seeds(records, ACCURACY.metric)) and comparison.about_runs:
        sys.stderr.write(f"{comparison.about_runs}\n")
    print(out)


def _watch(runs: list[Path], port: int) -> None:
    """Serve the page of runs until Ctrl-C."""
    require_training("a report", ["plotly"])
    from grpo_envs.report.live import serve

    with serve(runs, port) as server, exit_on_error("the page is not served any more."):
        followed = ", ".join(map(shown, runs))
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"{address} follows {followed} until Ctrl-C.", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
