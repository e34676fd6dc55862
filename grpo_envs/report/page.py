"""The page of a report. A model's texts are escaped or set as text, never used as HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from grpo_envs.doctor import diagnose
from grpo_envs.report.answers import held_out
from grpo_envs.report.charts import charts
from grpo_envs.report.completions import about_runs, browsable, contexts
from grpo_envs.report.configs import configurations
from grpo_envs.report.explained import explained
from grpo_envs.report.html import table
from grpo_envs.runs.bundle import packed, packed_bundle
from grpo_envs.runs.comparison import over_seeds
from grpo_envs.runs.curves import ACCURACY, half_width_of
from grpo_envs.runs.paper import rows_of
from grpo_envs.runs.plots import colour
from grpo_envs.runs.record import Record

_HERE = Path(__file__).parent
_FIGURE = '<figure><figcaption>{}</figcaption><div class="chart"></div></figure>'
_SCRIPTS = ("unpack", "browser", "keys", "charts", "start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The data of a served page that follows its runs."""

    version: str
    """The version of the shown data."""
    state: str
    """The progress of the runs, in words."""


def page(runs: Sequence[Record], *, bundle: str = "", live: Live | None = None) -> str:
    """Return the page as HTML.

    Args:
        runs: The runs.
        bundle: Path of plotly's code, relative to the page; '' if the page contains the code.
        live: Set for a page that follows its runs.
    """
    names = names_of(runs)
    rows, extent = browsable(runs, names)
    drawn = charts(runs, names)
    data = {
        "rows": rows,
        "runs": about_runs(runs, names),
        "contexts": contexts(runs, names, rows),
        "charts": [chart for _, chart in drawn],
    }
    scripts = [*_SCRIPTS, "live"] if live else _SCRIPTS
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(", ".join(names) if len(runs) > 1 else _title(runs[0])),
        sources="'self' file:" if bundle else "",
        connect="; connect-src 'self'" if live else "",
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        summary="".join(summary(runs, names)),
        figures="".join(_FIGURE.format(escape(title)) for title, _ in drawn),
        held_out="".join(detailed(runs, live=live is not None)),
        extent=escape(extent),
        config="".join(configurations(runs, names)),
        version=live.version if live else "",
        state=escape(live.state) if live else "",
        data=packed(json.dumps(data, separators=(",", ":"), ensure_ascii=False)),
        bundle=escape(bundle),
        plotly="" if bundle else packed_bundle(),
        scripts="".join(
            f"<script>{(_HERE / f'{name}.js').read_text(encoding='utf-8')}</script>"
            for name in scripts
        ),
    )


def names_of(runs: Sequence[Record]) -> list[str]:
    """Return short unique names of the runs: as many last folders of their paths as needed."""
    paths = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def _title(run: Record) -> str:
    own = str(run.about.get("name") or run.path.resolve().name)
    return f"{run.config.get('env.name', 'run')}: {own}"


def summary(runs: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    """Yield for each run its progress, the evaluations before and after, and the findings."""
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        state = f"; {run.state}" if run.state.startswith("failed") else ""
        mark = f'<i style="background:{colour(number)}"></i>'
        yield f'<section class="run"><h2>{mark}{escape(name)}</h2>'
        yield f"<p>{reached(run)} in {run.seconds / 60:.1f} minutes{escape(state)}</p>"
        if run.evals:
            yield _evaluations(run)
        findings = diagnose(run)
        yield "<h3>What the doctor sees</h3>"
        for finding in findings:
            yield (
                f"<p><b>{escape(finding.says)}</b><br>seen: {escape(finding.evidence)}<br>"
                f"turn: {escape(finding.turn)}</p>"
            )
        yield "" if findings else "<p>The rules find nothing wrong.</p>"
        yield "</section>"


def reached(run: Record) -> str:
    """Return how many steps a run has completed, in words."""
    last = run.steps[-1]["step"] if run.steps else 0
    return f"{last} of {run.config.get('trainer.steps', '?')} steps"


def _evaluations(run: Record) -> str:
    """Return the table of the first and the last evaluation; of one alone where there is one."""
    shown = [run.evals[0], run.evals[-1]][: len(run.evals)]
    rows = [
        [escape(name.removeprefix("eval/")), *(_cell(row, name) for row in shown)]
        for name in dict.fromkeys(name for row in shown for name in row)
        if name.startswith("eval/") and not name.endswith("ci95")
    ]
    head = ["held-out", *(f"step {row['step']}" for row in shown)]
    return table([head, *rows])


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return "-"
    half = half_width_of(name)
    return f"{row[name]:.3f}" + (f" &plusmn; {row[half]:.3f}" if half in row else "")


def detailed(runs: Sequence[Record], *, live: bool = False) -> Iterator[str]:
    """Yield the held-out answers of a run, and the terms of a group's loss; compare several."""
    if len(runs) > 1:
        yield from _compared(runs)
        return
    yield from held_out(runs[0])
    yield from explained(runs[0], live=live)


def _compared(runs: Sequence[Record]) -> Iterator[str]:
    """Yield the variants compared over seeds, if seeds differ: see `grpo_envs.compare`."""
    if comparison := over_seeds(runs, ACCURACY.metric):
        header, rows = rows_of(comparison)
        yield f"<h2>Over seeds: {ACCURACY.title}</h2>"
        yield table([[escape(cell) for cell in line] for line in (header, *rows)])
        yield f"<p>{escape(comparison.about_runs)}</p>" if comparison.about_runs else ""
