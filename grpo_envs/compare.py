"""Variants over seeds: `python -m grpo_envs.compare multirun/agent_seed --by agent --over seed`.

Prints, for each variant, the mean and the interquartile mean of a metric over its runs, with 95 %
intervals, and the difference from the first variant in pairs of the same seed. Remarks on runs that
are left out and on keys that differ go to stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import rich

from grpo_envs.errors import ConfigError
from grpo_envs.runs.comparison import Comparison, Question, compare, read
from grpo_envs.runs.curves import curve_of
from grpo_envs.runs.newest import runs_in
from grpo_envs.runs.paper import FORMATS, rich_table, rows_of
from grpo_envs.runs.plots import Line, draw
from grpo_envs.runtime.terminal import exit_on_error

_TEXT = "text"
TEST = (
    "differences are paired; p is two-sided, from the sign-flip test (Fisher 1935), not corrected "
    "for several comparisons: with n pairs it cannot be below 2 / 2^n"
)


def lines_of(comparison: Comparison) -> list[Line]:
    """Return a line for each variant: the mean over its runs, with a band."""
    return [Line(label=v.name, runs=[*v.runs.values()]) for v in comparison.variants]


def remarks_of(comparison: Comparison) -> list[str]:
    """Return the remarks that belong to the table."""
    remarks = [f"left out {path}: {why}" for path, why in comparison.left_out.items()]
    remarks += [*filter(None, [comparison.ended]), *comparison.remarks]
    first = comparison.variants[0].name
    poor = {r.variant: r.pairs for r in comparison.results if r.difference is None}
    remarks += [
        f"{name}: {pairs} pairs with {first}. A difference is tested with 2 pairs or more."
        for name, pairs in poor.items()
        if name != first
    ]
    return [*remarks, TEST] if len(comparison.variants) > 1 else remarks


def _keys(text: str) -> list[str]:
    return [key for key in text.split(",") if key]


def _parser() -> argparse.ArgumentParser:
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.compare", description=f"{first} {more}"
    )
    parser.add_argument("runs", nargs="+", type=Path, help="runs, or folders of runs (all of them)")
    by = "keys or groups whose values define a variant, with commas (the overrides that vary)"
    parser.add_argument("--by", type=_keys, default=[], metavar="KEYS", help=by)
    over = "keys in which the runs of a variant differ (seed)"
    parser.add_argument("--over", type=_keys, default=["seed"], metavar="KEYS", help=over)
    metric = "metrics of metrics.jsonl or eval.jsonl, with commas (eval/accuracy)"
    parser.add_argument("--metric", type=_keys, default=["eval/accuracy"], help=metric)
    tasks = "a key whose values are tasks, which are resampled separately (none)"
    parser.add_argument("--tasks", default="", metavar="KEY", help=tasks)
    base = "the variant that others are compared with (the first)"
    parser.add_argument("--baseline", default="", metavar="VALUE", help=base)
    parser.add_argument(
        "--format", default=_TEXT, help=f"{_TEXT}, {', '.join(FORMATS)} (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="a picture of the curves, with bands (none)")
    return parser


@exit_on_error()
def main() -> None:
    """Read the options; print the table, then the remarks."""
    options = _parser().parse_args()
    allowed = [_TEXT, *FORMATS]
    if options.format not in allowed:
        raise ConfigError(f"--format={options.format}. Allowed: {', '.join(allowed)}.")
    question = Question(
        metrics=options.metric,
        by=options.by,
        over=options.over,
        tasks=options.tasks,
        baseline=options.baseline,
    )
    runs = read([run for path in options.runs for run in runs_in(path)])
    comparison = compare(runs, question)
    if options.format == _TEXT:
        rich.get_console().print(rich_table(*rows_of(comparison)))
    else:
        print(FORMATS[options.format](comparison))
    for remark in remarks_of(comparison):
        sys.stderr.write(f"{remark}\n")
    if options.out is not None:
        draw(lines_of(comparison), [curve_of(m) for m in question.metrics], options.out)
        sys.stderr.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
