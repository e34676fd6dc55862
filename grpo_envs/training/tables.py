"""An evaluation as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.table import Table

from grpo_envs.runs.statistics import Estimate
from grpo_envs.training.evaluation import Row, by_problem


def tables(
    title: str,
    rows: Sequence[Row],
    weights: Mapping[str, float],
    figures: Mapping[str, Estimate],
) -> Iterator[Table]:
    """Yield the table of the main figures, of reward components, and of strata if there are any.

    Args:
        title: Name of the model.
        rows: The answers.
        weights: The weight of each reward component.
        figures: Metrics of the answers, see `grpo_envs.training.evaluation.estimates`.
    """
    problems, prompts = len(by_problem(rows)), len({row["prompt"] for row in rows})
    of = f"{problems} problems" + (f" ({prompts} different)" if prompts < problems else "")
    samples = sum(row["decoding"] == "sampled" for row in rows) // problems
    sampled = f" and {samples} sample{'s' * (samples > 1)}" if samples else ""
    main = _table("", "greedy", "95 % interval", "sampled", "95 % interval", title=title)
    main.caption = f"{of}, the greedy answer{sampled} to each"
    main.add_row("accuracy, pass@1", *_cells(figures, "accuracy"), *_cells(figures, "pass@1"))
    for name in [name for name in figures if _is_pass_at_more(name)]:
        main.add_row(name, "", "", *_cells(figures, name))
    for name, label in (("reward", "reward"), ("length", "tokens"), ("truncated", "truncated")):
        main.add_row(label, *_cells(figures, name), *_cells(figures, f"sampled_{name}"))
    yield main
    parts = _table(
        "reward component", "weight", "greedy", "95 % interval", "sampled", "95 % interval"
    )
    for part, weight in weights.items():
        names = (f"reward/{part}", f"sampled_reward/{part}")
        cells = [cell for name in names for cell in _cells(figures, name)]
        parts.add_row(part, f"{weight:g}", *cells)
    yield parts
    told_apart = [name.partition("/")[2] for name in figures if name.startswith("accuracy/")]
    if told_apart:
        levels = _table("problems", "accuracy", "95 % interval", "pass@1", "95 % interval")
        for name in told_apart:
            cells = [*_cells(figures, f"accuracy/{name}"), *_cells(figures, f"pass@1/{name}")]
            levels.add_row(name.replace("_", " "), *cells)
        yield levels


def difference_table(
    names: tuple[str, str],
    a: Mapping[str, Estimate],
    b: Mapping[str, Estimate],
    gains: Mapping[str, Estimate],
) -> Table:
    """Return a table of the metrics of two models, and of their differences.

    Args:
        names: Names of the models `a` and `b`.
        a: Metrics of the first model.
        b: Metrics of the second model.
        gains: Paired differences b - a.
    """
    title = "a: {}\nb: {}".format(*names)
    table = _table("", "a", "b", "b - a", "95 % interval", "", title=title)
    table.caption = "paired: both answered the same problems"
    for name, gain in gains.items():
        shows = {gain.low > 0: "b higher", gain.high < 0: "a higher"}.get(True, "unclear")
        cells = [f"{figures[name].mean:.3f}" for figures in (a, b)]
        table.add_row(name, *cells, f"{gain.mean:+.3f}", _interval(gain, "+"), shows)
    return table


def _table(*header: str, title: str = "") -> Table:
    return Table(*header, title=title or None, box=box.SIMPLE_HEAD, title_style="bold")


def _is_pass_at_more(name: str) -> bool:
    return name.startswith("pass@") and "/" not in name and name != "pass@1"


def _cells(figures: Mapping[str, Estimate], name: str) -> tuple[str, str]:
    if name not in figures:
        return "-", ""
    return f"{figures[name].mean:.3f}", _interval(figures[name])


def _interval(figure: Estimate, sign: str = "") -> str:
    return f"{figure.low:{sign}.3f} to {figure.high:{sign}.3f}"
