"""The table of a comparison: for people, for a paper, or for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from grpo_envs.runs.comparison import Comparison, Result
from grpo_envs.runs.statistics import Estimate

Cells = Sequence[str]
_ESCAPED = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
}


def rows_of(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table as texts, with a row for each metric and variant.

    An interval follows its number: 0.981 [0.972, 0.990].
    """
    by = comparison.by
    names = {v.name: v.name for v in comparison.variants}
    if len(by) == 1:  # the key is in the header
        names = {name: name.removeprefix(f"{by[0]}=") for name in names}
    baseline = names[comparison.variants[0].name]
    several = len(comparison.question.metrics) > 1
    header = [
        by[0] if len(by) == 1 else "variant",
        *(["metric"] if several else []),
        "n",
        "mean [95 %]",
        "IQM [95 %]",
    ]
    alone = len(comparison.variants) == 1
    header += [] if alone else [f"minus {baseline}", "p", "pairs"]
    rows = []
    for result in comparison.results:
        row = [names[result.variant], *([result.metric] if several else []), str(result.runs)]
        row += [_shown(result.mean, result.runs), _shown(result.iqm, result.runs)]
        rows.append(row if alone else [*row, *_difference(result)])
    return header, rows


def _difference(result: Result) -> list[str]:
    found = result.difference
    if found is None:
        return ["-", "-", str(result.pairs) if result.pairs else "-"]
    return [_shown(found, found.pairs), f"{found.p:.2g}", str(found.pairs)]


def _shown(value: Estimate, runs: int) -> str:
    """Return a number with its interval, to the second digit of half the interval's width.

    >>> _shown(Estimate(mean=0.98123, low=0.97123, high=0.99123), 5)
    '0.981 [0.971, 0.991]'
    >>> _shown(Estimate(mean=0.5, low=0.5, high=0.5), 1)
    '0.5'
    """
    if runs < 2 or value.half_width == 0:
        return f"{value.mean:.4g}"
    digits = max(0, 1 - math.floor(math.log10(value.half_width)))
    mean, low, high = (f"{x + 0.0:.{digits}f}" for x in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def rich_table(header: Cells, rows: Sequence[Cells]) -> Table:
    """Return a table for a terminal; long cells are wrapped, not cut."""
    table = Table()
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(header: Cells, rows: Sequence[Cells]) -> str:
    """Return a table of Markdown.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    text = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([text[0], "|" + "---|" * len(header), *text[1:]])


def latex(header: Cells, rows: Sequence[Cells]) -> str:
    r"""Return a table of LaTeX, with the rules of the package booktabs.

    >>> print(latex(["a_b"], [["1 %"]]))
    \begin{tabular}{l}
    \toprule
    a\_b \\
    \midrule
    1 \% \\
    \bottomrule
    \end{tabular}
    """
    head, *body = [" & ".join(map(_escaped, line)) + r" \\" for line in (header, *rows)]
    start = rf"\begin{{tabular}}{{{'l' * len(header)}}}"
    ends = [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([start, r"\toprule", head, r"\midrule", *body, *ends])


def comma_separated(comparison: Comparison) -> str:
    """Return CSV with a column for each number, in full precision."""
    text = io.StringIO()
    names = ["variant", "metric", "n"]
    for name in ("mean", "iqm", "difference"):
        names += [name, f"{name}_low", f"{name}_high"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "p", "pairs"])
    for result in comparison.results:
        found = result.difference
        numbers = [*_numbers(result.mean), *_numbers(result.iqm), *_numbers(found)]
        p = "" if found is None else repr(found.p)
        row = [result.variant, result.metric, result.runs, *numbers, p, result.pairs]
        writer.writerow(row)
    return text.getvalue().rstrip("\n")


def _numbers(value: Estimate | None) -> list[str]:
    return [""] * 3 if value is None else [repr(x) for x in (value.mean, value.low, value.high)]


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "markdown": lambda comparison: markdown(*rows_of(comparison)),
    "latex": lambda comparison: latex(*rows_of(comparison)),
    "csv": comma_separated,
}
