"""A sweep at a glance: `python -m grpo_envs.sweep_report multirun/env_seed`.

Prints a table of the jobs, best first: the overrides in which they differ, the held-out reward and
accuracy at the end (with 95 % intervals) and the time of the steps. If seeds vary, a second table
compares the variants over them, as `grpo_envs.compare` does. Writes the curves to report.html and,
with the extra `plot`, to report.png in the sweep's folder; a variant's curve is the mean over its
seeds. The page loads plotly.min.js from the same folder, as the pages of the jobs do; nothing needs
a network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path

import rich
from rich.table import Table

from grpo_envs.errors import ConfigError, install, require_one_of, require_training
from grpo_envs.runs.comparison import over_seeds, read
from grpo_envs.runs.curves import ACCURACY, LENGTH, REWARD
from grpo_envs.runs.newest import newest_run
from grpo_envs.runs.paper import rich_table, rows_of
from grpo_envs.runs.plots import Line, chart, draw
from grpo_envs.runs.record import Record
from grpo_envs.runs.variants import variant_name, varying
from grpo_envs.runtime.terminal import exit_on_error

_Table = tuple[list[str], list[list[str]]]
"""Header and rows."""
_CURVES = (ACCURACY, REWARD, LENGTH)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5em auto; max-width: 80em; padding: 0 1em }}
h1 {{ overflow-wrap: anywhere }}
.wide {{ overflow-x: auto }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(22em, 1fr)) }}
td, th {{ padding: .2em .8em .2em 0; text-align: left; white-space: nowrap }}
th {{ border-bottom: 1px solid gray }}
</style>
<h1>{title}</h1>
{tables}
<div class="charts">{figures}</div>
</html>
"""


def read_jobs(sweep: Path) -> list[Record]:
    """Return the jobs in a sweep's folder, by name.

    Raises:
        ConfigError: there are none.
    """
    marks = [*sweep.glob("*/config.json"), *sweep.glob("*/failed.json")]
    jobs = read(sorted({mark.parent for mark in marks}))
    if not jobs and (run := newest_run(sweep)):
        raise ConfigError(f"{sweep}: no jobs of a sweep in it. Did you mean {run.parent}?")
    if not jobs:
        raise ConfigError(f"{sweep}: no jobs of a sweep in it. Give the folder below multirun/.")
    return jobs


def ranked(jobs: Sequence[Record], by: str, *, ascending: bool = False) -> list[Record]:
    """Return the jobs by a metric, the highest first; those without a result come last.

    Raises:
        ConfigError: no job has such a metric; the message names the nearest.
    """
    known = {name for job in jobs for name in job.result}
    if known:
        require_one_of("--by", by, sorted(known))
    sign = 1 if ascending else -1
    done = sorted((j for j in jobs if by in j.result), key=lambda job: sign * job.result[by])
    return [*done, *(job for job in jobs if by not in job.result)]


def table_of(jobs: Sequence[Record], by: str) -> _Table:
    """Return the header and the rows of the table, as texts."""
    keys = varying(jobs) or ["job"]
    more = [] if by in ("eval/reward", "eval/accuracy") else [by]
    header = [*keys, "held-out reward", "accuracy", *more, "steps", "time", "state"]
    rows = []
    for job in jobs:
        cells = [job.overrides.get(key, job.path.name if key == "job" else "-") for key in keys]
        cells.append(_interval(job.result, "eval/reward", "eval/reward_ci95"))
        cells.append(_interval(job.result, "eval/accuracy", "eval/ci95"))
        cells += [f"{job.result[name]:.4g}" if name in job.result else "-" for name in more]
        rows.append([*cells, str(len(job.steps)), _clock(job.seconds), job.state])
    return header, rows


def _interval(result: Mapping[str, float], name: str, half: str) -> str:
    return f"{result[name]:.3f} +- {result[half]:.3f}" if name in result else "-"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _lines(jobs: Sequence[Record]) -> list[Line]:
    """Return a line for each variant; jobs that differ only in the seed are one variant."""
    keys = varying(jobs, ["seed"])
    variants: dict[str, list[Record]] = {}
    for job in jobs:
        variants.setdefault(variant_name(job, keys), []).append(job)
    return [Line(label=name, runs=runs) for name, runs in variants.items()]


def write_page(title: str, jobs: Sequence[Record], by: str, out: Path) -> None:
    """Write one page with the tables and curves; a curve shows its run under the pointer."""
    require_training("the page of a sweep", ["plotly"])
    from grpo_envs.runs.bundle import NAME, write_bundle

    lines = _lines(jobs)
    figures = []
    for number, curve in enumerate(_CURVES):
        figure = chart(lines, curve)
        figure.update_layout(title=curve.title, margin={"t": 40}, height=320)
        if len(lines) > 1:
            figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.3})
        code = False if number else NAME  # load plotly's code once, for all figures
        figures.append(figure.to_html(full_html=False, include_plotlyjs=code))
    write_bundle(out.parent)
    tables, about = _tables(jobs, by)
    above = "".join(map(_html_table, tables)) + (f"<p>{escape(about)}</p>" if about else "")
    text = _PAGE.format(title=escape(title), tables=above, figures="".join(figures))
    out.write_text(text, encoding="utf-8")


def _tables(jobs: Sequence[Record], by: str) -> tuple[list[_Table], str]:
    """Return the tables, and what `Comparison.about_runs` says."""
    comparison = over_seeds(jobs, by)
    if comparison is None:
        return [table_of(jobs, by)], ""
    return [table_of(jobs, by), rows_of(comparison)], comparison.about_runs


def _html_table(table: _Table) -> str:
    header, rows = table
    cells = [_html_row("th", header), *(_html_row("td", row) for row in rows)]
    return f'<div class="wide"><table>\n{"".join(cells)}\n</table></div>'


def _html_row(tag: str, cells: Sequence[str]) -> str:
    inside = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def report(sweep: Path, by: str, *, ascending: bool = False) -> tuple[list[Table], list[Path]]:
    """Write report.png and report.html into a sweep's folder; return the tables and the files.

    Without matplotlib there is no picture, and a line on stderr says so.

    If seeds vary, a second table compares the variants over them; a line on stderr names the jobs
    that it leaves out, and those that a limit ended early.

    Raises:
        ConfigError: the folder holds no jobs, or no job has such a metric.
    """
    jobs = ranked(read_jobs(sweep), by, ascending=ascending)
    tables, about = _tables(jobs, by)
    if about:
        sys.stderr.write(f"{about}\n")
    picture, page = sweep / "report.png", sweep / "report.html"
    write_page(f"Sweep {sweep.resolve().name}", jobs, by, page)
    written = [page]
    if find_spec("matplotlib"):
        draw(_lines(jobs), _CURVES, picture)
        written.insert(0, picture)
    else:
        sys.stderr.write(f"no {picture.name}: pictures need matplotlib: {install('plot')}\n")
    return [rich_table(*table) for table in tables], written


@exit_on_error()
def main() -> None:
    """Read the options; print the tables, then the paths of picture and page."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.sweep_report", description=f"{first} {more}"
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("--by", default="eval/reward", help="metric to sort by (%(default)s)")
    parser.add_argument("--ascending", action="store_true", help="the lowest first")
    options = parser.parse_args()
    tables, written = report(options.sweep, options.by, ascending=options.ascending)
    for table in tables:
        rich.get_console().print(table)
    for path in written:
        rich.get_console().print(path, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
