"""Plots of curves: a picture by matplotlib, or a part of a page by plotly.

A line is one run, or the mean of several runs with a band. Both libraries draw the same points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_envs.errors import ConfigError, install, require_one_of
from grpo_envs.runs.curves import Curve
from grpo_envs.runs.record import Record

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = (
    *("#1F77B4", "#FF7F0E", "#2CA02C", "#D62728", "#9467BD"),
    *("#8C564B", "#E377C2", "#7F7F7F", "#BCBD22", "#17BECF"),
)
"""Ten colours that are distinct on white and on black (Tableau 10)."""
_FEW = 4
"""Up to this number of lines, values of single steps and error bars are shown."""
_COLUMNS = 4
_TIMES = {"time/sample": "sample", "time/score": "score", "time/update": "update"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a chart."""

    label: str
    runs: Sequence[Record]
    """One run, or several, whose mean is drawn."""


def colour(number: int) -> str:
    """Return the colour of a line by its number."""
    return COLOURS[number % len(COLOURS)]


def draw(lines: Sequence[Line], curves: Sequence[Curve], out: Path) -> None:
    """Draw a panel for each curve, with all lines in it, as a PNG.

    Raises:
        ConfigError: matplotlib is not installed, or the name of `out` ends in no format of its.
    """
    plt = _pyplot()
    form = out.suffix.lstrip(".").lower()
    require_one_of("the format of --out", form, plt.Figure().canvas.get_supported_filetypes())
    columns = min(len(curves), _COLUMNS)
    rows = -(-len(curves) // columns)
    legend = 0.25 * -(-len(lines) // _COLUMNS) if len(lines) > 1 else 0.0
    size = (3.75 * columns, 3.4 * rows + legend)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = [axis for row in axes for axis in row]
    for axis, curve in zip(panels, curves, strict=False):
        for number, line in enumerate(lines):
            _draw_line(axis, line, curve, (colour(number), len(lines) <= _FEW))
        axis.set(title=curve.title, xlabel="step")
        axis.grid(alpha=0.3)
        if curve.share:
            axis.set_ylim(-0.03, 1.03)
    for axis in panels[len(curves) :]:
        axis.set_visible(False)
    if len(lines) > 1:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=_COLUMNS)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _draw_line(axis: Any, line: Line, curve: Curve, look: tuple[str, bool]) -> None:
    tint, few = look
    points = curve.points(line.runs)
    marker = "o" if curve.evaluated else None
    axis.plot(points.steps, points.values, color=tint, label=line.label, marker=marker)
    if len(line.runs) > 1:
        axis.fill_between(points.steps, points.low, points.high, color=tint, alpha=0.2, linewidth=0)
    elif few and points.raw:
        axis.plot(points.steps, points.raw, color=tint, alpha=0.25)
    elif few and points.high:
        axis.vlines(points.steps, points.low, points.high, color=tint)


def _pyplot() -> Any:
    """Import matplotlib, which only pictures need.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # the extra `plot`
    except ModuleNotFoundError as error:
        text = f"pictures need matplotlib: {install('plot')}"
        raise ConfigError(text) from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def chart(lines: Sequence[Line], curve: Curve) -> Figure:
    """Return a curve of all lines as a plotly figure, small enough for a phone."""
    figure = _figure()
    for number, line in enumerate(lines):
        points = curve.points(line.runs)
        tint = colour(number)
        many = len(line.runs) > 1
        faint = {"mode": "lines", "line": {"color": tint, "width": 1}, "opacity": 0.5}
        for run in line.runs if many else ():
            alone = curve.points([run])
            name = _label(run.path.name)
            figure.add_scatter(x=alone.steps, y=alone.values, **faint, **name)
        if many and points.steps:
            _add_band(figure, points.steps, (points.low, points.high), tint)
        elif points.raw:
            figure.add_scatter(x=points.steps, y=points.raw, hoverinfo="skip", **faint)
        bars: dict[str, Any] = {}
        if curve.evaluated and not many:
            halves = [high - value for high, value in zip(points.high, points.values, strict=True)]
            bars = {"error_y": {"array": halves, "thickness": 1}}
        mode = "lines+markers" if curve.evaluated else "lines"
        line_of = {"line_color": tint, "mode": mode, **bars, **_label(line.label)}
        figure.add_scatter(x=points.steps, y=points.values, **line_of)
    if curve.share:
        figure.update_yaxes(range=[-0.02, 1.02])
    return figure


def _add_band(
    figure: Figure, steps: Sequence[int], ends: tuple[Sequence[float], Sequence[float]], tint: str
) -> None:
    low, high = ends
    figure.add_scatter(
        x=[*steps, *reversed(steps)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=tint,
        opacity=0.2,
        mode="none",
        hoverinfo="skip",
    )


def time_chart(lines: Sequence[Line]) -> Figure:
    """Return a chart of the seconds of a step; for a single run, of its parts."""
    if len(lines) > 1 or len(lines[0].runs) > 1:
        return chart(lines, Curve(metric="time/step", title=""))
    figure = _figure()
    for number, (metric, name) in enumerate(_TIMES.items()):
        rows = Curve(metric=metric, title="").rows(lines[0].runs[0])
        figure.add_scatter(
            x=[row["step"] for row in rows],
            y=[row[metric] for row in rows],
            stackgroup="seconds",
            line={"color": colour(number), "width": 0},
            **_label(name),
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.15})
    figure.update_xaxes(title=None)  # the legend is there
    return figure


def _figure() -> Figure:
    """Return an empty figure with colours that are readable on white and on black."""
    from plotly.graph_objects import Figure  # slow to import

    figure = Figure()
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
    """Return the name of a line, and its text under the pointer."""
    text = f"{escape(name)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
    return {"name": escape(name), "hovertemplate": text}
