"""A sweep at a glance: `python -m grpo_envs.sweep_report multirun/env_seed`.

Prints a table of its jobs, best first: the overrides in which they differ, the held-out reward and
accuracy at the end (with 95 % intervals) and the time that the steps took. Writes their curves,
laid over each other, to report.png and report.html in the sweep's folder; beside the page is
plotly.min.js, which the pages of the jobs use, too. Neither needs a network.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import rich
from rich.table import Table

from grpo_envs.errors import ConfigError, require_one_of, require_training
from grpo_envs.plot import Line, draw
from grpo_envs.runs.curves import ACCURACY, LENGTH, REWARD, smooth
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.newest import newest_run
from grpo_envs.runs.record import state_of
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime.terminal import exit_on_error

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
.wide > div {{ min-width: 55em }}
td, th {{ padding: .2em .8em .2em 0; text-align: left; white-space: nowrap }}
th {{ border-bottom: 1px solid gray }}
</style>
<h1>{title}</h1>
<div class="wide"><table>
{table}
</table></div>
<div class="wide">{figure}</div>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a sweep."""

    name: str
    overrides: dict[str, str]
    state: str
    """done, failed: why, or cut off."""
    result: dict[str, float]
    """The last metrics of a run that is done; else empty."""
    steps: list[dict[str, Any]]
    """Rows of metrics.jsonl."""
    evals: list[dict[str, Any]]
    """Rows of eval.jsonl."""

    @property
    def seconds(self) -> float:
        """How long its training steps took together."""
        return sum(float(row["time/step"]) for row in self.steps)


def read_jobs(sweep: Path) -> list[Job]:
    """Return the jobs in a sweep's folder, by name.

    Raises:
        ConfigError: there are none.
    """
    marks = [*sweep.glob("*/config.json"), *sweep.glob("*/failed.json")]
    jobs = [_read_job(RunFolder(path)) for path in sorted({mark.parent for mark in marks})]
    if not jobs and (run := newest_run(sweep)):
        raise ConfigError(f"{sweep}: no jobs of a sweep in it. Did you mean {run.parent}?")
    if not jobs:
        raise ConfigError(f"{sweep}: no jobs of a sweep in it. Give the folder below multirun/.")
    return jobs


def _read_job(folder: RunFolder) -> Job:
    rows = [folder.path / f"{name}.jsonl" for name in ("metrics", "eval")]
    steps, evals = (read_jsonl(path) if path.is_file() else [] for path in rows)
    pairs = (override.partition("=") for override in folder.overrides)
    return Job(
        name=folder.path.name,
        overrides={key.lstrip("+"): value for key, _, value in pairs},
        state=state_of(folder, steps),
        result=folder.result or {},
        steps=steps,
        evals=evals,
    )


def ranked(jobs: Sequence[Job], by: str, *, ascending: bool = False) -> list[Job]:
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


def varying(jobs: Sequence[Job]) -> list[str]:
    """Return the overrides in which the jobs differ, in the order of the command."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def table_of(jobs: Sequence[Job], by: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table, as texts."""
    keys = varying(jobs) or ["job"]
    more = [] if by in ("eval/reward", "eval/accuracy") else [by]
    header = [*keys, "held-out reward", "accuracy", *more, "steps", "time", "state"]
    rows = []
    for job in jobs:
        cells = [job.overrides.get(key, job.name if key == "job" else "-") for key in keys]
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


def _lines(jobs: Sequence[Job]) -> list[tuple[str, int, Job]]:
    """Return label, colour number and job: jobs that differ in the seed alone share a colour."""
    keys = [key for key in varying(jobs) if key != "seed"]
    colours: dict[str, int] = {}
    lines = []
    for job in jobs:
        chosen = [f"{key}={job.overrides[key]}" for key in keys if key in job.overrides]
        label = " ".join(chosen) or "all seeds"
        lines.append((label, colours.setdefault(label, len(colours)), job))
    return lines


def write_picture(jobs: Sequence[Job], out: Path) -> None:
    """Draw the curves of all jobs over each other."""
    lines = [
        Line(label=label, colour=colour, steps=job.steps, evals=job.evals)
        for label, colour, job in _lines(jobs)
    ]
    draw(lines, _CURVES, out, many=True)


def write_page(title: str, jobs: Sequence[Job], by: str, out: Path) -> None:
    """Write the table and curves that say their run when pointed at, as one file."""
    require_training("the page of a sweep", ["plotly"])
    from plotly import graph_objects as go  # slow to import, only where it is used
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    from grpo_envs.runs.bundle import NAME, write_bundle

    titles = [curve.title for curve in _CURVES]
    figure = make_subplots(rows=1, cols=len(_CURVES), subplot_titles=titles)
    for column, curve in enumerate(_CURVES, 1):
        named: set[str] = set()
        for label, colour, job in _lines(jobs):
            steps, values = curve.points(job.steps, job.evals)
            line = go.Scatter(
                x=steps,
                y=values if curve.evaluated else smooth(values),
                name=label,
                legendgroup=label,
                showlegend=column == 1 and label not in named,
                line_color=qualitative.D3[colour % 10],
                hovertemplate=f"{escape(job.name)}<br>step %{{x}}: %{{y:.3f}}<extra></extra>",
            )
            named.add(label)
            figure.add_trace(line, row=1, col=column)
    grey = {"gridcolor": "rgba(128,128,128,0.3)", "zerolinecolor": "rgba(128,128,128,0.5)"}
    figure.update_xaxes(title="step", **grey)
    figure.update_yaxes(**grey)
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color="gray"
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.2}, margin={"l": 40, "r": 20})
    header, rows = table_of(jobs, by)
    cells = [_html_row("th", header), *(_html_row("td", row) for row in rows)]
    drawn = figure.to_html(full_html=False, include_plotlyjs=NAME)
    write_bundle(out.parent)
    text = _PAGE.format(title=escape(title), table="\n".join(cells), figure=drawn)
    out.write_text(text, encoding="utf-8")


def _html_row(tag: str, cells: Sequence[str]) -> str:
    inside = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def report(sweep: Path, by: str, *, ascending: bool = False) -> Table:
    """Write report.png and report.html into a sweep's folder; return the table.

    Raises:
        ConfigError: the folder holds no jobs, they have no such metric, or matplotlib is not
            installed.
    """
    jobs = ranked(read_jobs(sweep), by, ascending=ascending)
    header, rows = table_of(jobs, by)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    write_picture(jobs, sweep / "report.png")
    write_page(f"Sweep {sweep.resolve().name}", jobs, by, sweep / "report.html")
    return table


@exit_on_error()
def main() -> None:
    """Read the options; print the table, then where picture and page are."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.sweep_report", description=f"{first} {more}"
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("--by", default="eval/reward", help="metric to sort by (%(default)s)")
    parser.add_argument("--ascending", action="store_true", help="the lowest first")
    options = parser.parse_args()
    table = report(options.sweep, options.by, ascending=options.ascending)
    rich.get_console().print(table)
    for name in ("report.png", "report.html"):
        rich.get_console().print(options.sweep / name, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
