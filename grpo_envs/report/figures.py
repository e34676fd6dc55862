"""The curves of a report, drawn by plotly: small ones, which a phone shows below each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plotly import graph_objects as go
from plotly.colors import qualitative

from grpo_envs.runs.curves import ACCURACY, MORE, REWARD, Curve, smooth
from grpo_envs.runs.record import Record

_SHARE = [-0.02, 1.02]
_TIMES = {"time/sample": "sample", "time/score": "score", "time/update": "update"}


def figures(runs: Sequence[Record], names: Sequence[str]) -> Iterator[tuple[str, go.Figure]]:
    """Yield the title and the figure of each panel that the runs have something for.

    Args:
        runs: What is drawn, a colour each.
        names: What the runs are called.
    """
    for curve in (ACCURACY, *_passes(runs)):
        if any(curve.metric in row for run in runs for row in run.evals):
            yield curve.title, _evals(runs, names, curve)
    yield REWARD.title, _curves(runs, names, REWARD)
    for part in sorted({part for run in runs for part in run.parts}):
        curve = Curve(metric=f"reward/{part}", title=f"reward part: {part}")
        yield curve.title, _curves(runs, names, curve)
    logged = {name for run in runs for row in run.steps for name in row}
    for metric in sorted(name for name in logged if name.startswith("env/")):
        if metric.endswith(("/reward", "/level")):
            title = metric.removeprefix("env/").replace("/", ": ")
            yield title, _curves(runs, names, Curve(metric=metric, title=title))
    for curve in MORE:
        if curve.metric in logged and any(_seen(runs, curve.metric)):
            yield curve.title, _curves(runs, names, curve)
    seconds = Curve(metric="time/step", title="seconds per step")
    yield seconds.title, _times(runs[0]) if len(runs) == 1 else _curves(runs, names, seconds)


def _seen(runs: Sequence[Record], metric: str) -> Iterator[bool]:
    """Yield whether a run has more of a metric than zeros."""
    yield from (any(run.column(metric)) for run in runs)


def _passes(runs: Sequence[Record]) -> list[Curve]:
    """Return pass@k for the largest k that was evaluated."""
    found = {name for run in runs for row in run.evals for name in row if _is_pass(name)}
    most = max(found, key=lambda name: int(name.partition("@")[2]), default=None)
    if most is None:
        return []
    return [Curve(metric=most, title=f"held-out {most.removeprefix('eval/')}", share=True)]


def _is_pass(name: str) -> bool:
    return name.startswith("eval/pass@") and name.partition("@")[2].isdecimal()


def _evals(runs: Sequence[Record], names: Sequence[str], curve: Curve) -> go.Figure:
    """Draw an evaluation's metric with its 95 % intervals."""
    figure = _figure()
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        steps, values = curve.points(run.steps, run.evals)
        figure.add_scatter(
            x=steps,
            y=values,
            error_y={"array": curve.half_widths(run.evals), "thickness": 1},
            mode="lines+markers",
            line_color=_colour(i),
            **_label(name),
        )
    figure.update_yaxes(range=_SHARE)
    return figure


def _curves(runs: Sequence[Record], names: Sequence[str], curve: Curve) -> go.Figure:
    """Draw a metric of each step, and its running mean."""
    figure = _figure()
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        steps, values = curve.points(run.steps, run.evals)
        faint = {"line": {"color": _colour(i), "width": 1}, "opacity": 0.35, "hoverinfo": "skip"}
        figure.add_scatter(x=steps, y=values, **faint)
        figure.add_scatter(x=steps, y=smooth(values), line_color=_colour(i), **_label(name))
    if curve.share:
        figure.update_yaxes(range=_SHARE)
    return figure


def _times(run: Record) -> go.Figure:
    """Draw what a step's seconds are made of."""
    figure = _figure()
    for i, (metric, name) in enumerate(_TIMES.items()):
        rows = [row for row in run.steps if metric in row]
        figure.add_scatter(
            x=[row["step"] for row in rows],
            y=[row[metric] for row in rows],
            stackgroup="seconds",
            line={"color": _colour(i), "width": 0},
            **_label(name),
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.15})
    figure.update_xaxes(title=None)  # its place is the legend's
    return figure


def _figure() -> go.Figure:
    """Return an empty figure whose colours can be read on white and on black."""
    figure = go.Figure()
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.4)"}
    figure.update_xaxes(title="step", **grid)
    figure.update_yaxes(rangemode="tozero", exponentformat="e", **grid)
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font_color="#888",
        showlegend=False,
        height=230,
        margin={"l": 45, "r": 10, "t": 10, "b": 35},
    )
    return figure


def _label(name: str) -> Mapping[str, Any]:
    """Return the name of a line and the text that shows where the pointer is on it."""
    return {"name": name, "hovertemplate": "%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>"}


def colours(count: int) -> list[str]:
    """Return the colours of so many runs, in order."""
    return [_colour(i) for i in range(count)]


def _colour(i: int) -> str:
    return str(qualitative.D3[i % len(qualitative.D3)])
