"""The curves of a report, drawn by plotly: small ones, which a phone shows below each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plotly import graph_objects as go
from plotly.colors import qualitative

from grpo_envs.plot import smooth
from grpo_envs.runs.record import Record

_TITLES = {
    "reward/mean": "reward of sampled answers",
    "loss/kl": "KL to the reference [nats/token]",
    "policy/entropy": "entropy [nats/token]",
    "completion/length": "length of answers [tokens]",
    "completion/truncated": "share of truncated answers",
    "group/zero_std": "share of flat groups (they teach nothing)",
    "reward/invalid": "share of invalid rewards",
    "optim/grad_norm": "norm of the gradient",
    "policy/sample_gap": "gap between sampling and training [nats/token]",
    "tokens/per_second": "tokens per second",
}
_SHARE = [-0.02, 1.02]
_TIMES = {"time/sample": "sample", "time/score": "score", "time/update": "update"}


def figures(runs: Sequence[Record], names: Sequence[str]) -> Iterator[tuple[str, go.Figure]]:
    """Yield the title and the figure of each panel that the runs have something for.

    Args:
        runs: What is drawn, a colour each.
        names: What the runs are called.
    """
    for metric, title in (("eval/accuracy", "held-out accuracy, greedy"), *_passes(runs)):
        if any(metric in row for run in runs for row in run.evals):
            yield title, _evals(runs, names, metric)
    yield _TITLES["reward/mean"], _curves(runs, names, "reward/mean")
    for part in sorted({part for run in runs for part in run.parts}):
        yield f"reward part: {part}", _curves(runs, names, f"reward/{part}")
    logged = {name for run in runs for row in run.steps for name in row}
    for metric in sorted(name for name in logged if name.startswith("env/")):
        if metric.endswith(("/reward", "/level")):
            yield metric.removeprefix("env/").replace("/", ": "), _curves(runs, names, metric)
    for metric, title in _TITLES.items():
        if metric in logged and metric != "reward/mean" and any(_seen(runs, metric)):
            yield title, _curves(runs, names, metric)
    if len(runs) == 1:
        yield "seconds per step", _times(runs[0])
    else:
        yield "seconds per step", _curves(runs, names, "time/step")


def _seen(runs: Sequence[Record], metric: str) -> Iterator[bool]:
    """Yield whether a run has more of a metric than zeros."""
    yield from (any(run.column(metric)) for run in runs)


def _passes(runs: Sequence[Record]) -> list[tuple[str, str]]:
    """Return pass@k for the largest k that was evaluated."""
    found = {name for run in runs for row in run.evals for name in row if _is_pass(name)}
    most = max(found, key=lambda name: int(name.partition("@")[2]), default=None)
    return [] if most is None else [(most, f"held-out {most.removeprefix('eval/')}")]


def _is_pass(name: str) -> bool:
    return name.startswith("eval/pass@") and name.partition("@")[2].isdecimal()


def half_width_of(metric: str) -> str:
    """Return what half the width of an evaluation's metric is called, see `eval_metrics`."""
    return "eval/ci95" if metric == "eval/accuracy" else f"{metric}_ci95"


def _evals(runs: Sequence[Record], names: Sequence[str], metric: str) -> go.Figure:
    """Draw an evaluation's metric with its 95 % intervals."""
    half = half_width_of(metric)
    figure = _figure()
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        rows = [row for row in run.evals if metric in row]
        figure.add_scatter(
            x=[row["step"] for row in rows],
            y=[row[metric] for row in rows],
            error_y={"array": [row.get(half, 0.0) for row in rows], "thickness": 1},
            mode="lines+markers",
            line_color=_colour(i),
            **_label(name),
        )
    figure.update_yaxes(range=_SHARE)
    return figure


def _curves(runs: Sequence[Record], names: Sequence[str], metric: str) -> go.Figure:
    """Draw a metric of each step, and its running mean."""
    figure = _figure()
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        rows = [row for row in run.steps if metric in row]
        steps, values = [row["step"] for row in rows], [row[metric] for row in rows]
        faint = {"line": {"color": _colour(i), "width": 1}, "opacity": 0.35, "hoverinfo": "skip"}
        figure.add_scatter(x=steps, y=values, **faint)
        figure.add_scatter(x=steps, y=smooth(values), line_color=_colour(i), **_label(name))
    if _TITLES.get(metric, "").startswith("share"):
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
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.25})
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
