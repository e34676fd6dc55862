"""The charts of a page, as plotly's JavaScript takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grpo_envs.report.figures import figures
from grpo_envs.runs.record import Record

Chart = dict[str, Any]
"""`data`, a list of lines, and `layout`."""


def charts(runs: Sequence[Record], names: Sequence[str]) -> list[tuple[str, Chart]]:
    """Return the title of each chart and the chart, as JSON values.

    The template that plotly puts into each figure is left out: they set what they use of it.
    """
    found = []
    for title, figure in figures(runs, names):
        chart = json.loads(figure.to_json())
        chart["layout"].pop("template", None)
        found.append((title, {"data": chart["data"], "layout": chart["layout"]}))
    return found
