"""The charts of a page, in the form of plotly's JavaScript."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grpo_envs.runs.curves import curves_of
from grpo_envs.runs.plots import Line, chart, time_chart
from grpo_envs.runs.record import Record

Chart = dict[str, Any]
"""`data`, a list of lines, and `layout`."""


def charts(runs: Sequence[Record], names: Sequence[str]) -> list[tuple[str, Chart]]:
    """Return the title of each chart and the chart, as JSON values.

    The template that plotly adds to each figure is removed: the charts set all that they use.
    """
    lines = [Line(label=name, runs=[run]) for run, name in zip(runs, names, strict=True)]
    drawn = [(curve.title, chart(lines, curve)) for curve in curves_of(runs)]
    drawn.append(("seconds per step", time_chart(lines)))
    found = []
    for title, figure in drawn:
        whole = json.loads(figure.to_json())
        whole["layout"].pop("template", None)
        found.append((title, {"data": whole["data"], "layout": whole["layout"]}))
    return found
