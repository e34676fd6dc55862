"""Curves of one or several runs as a picture: `python -m grpo_envs.plot RUN... --out curve.png`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_envs.errors import ConfigError, install
from grpo_envs.runs.curves import ACCURACY, KL, LENGTH, REWARD, Curve, Row, smooth
from grpo_envs.runs.newest import run_at
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime.terminal import exit_on_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a picture shows of a run."""

    label: str
    colour: int
    """Its place in matplotlib's cycle of ten."""
    steps: Sequence[Row]
    evals: Sequence[Row]


def plot(runs: list[Path], out: Path) -> None:
    """Draw held-out accuracy, reward, length and KL of each run over its steps.

    KL has no panel where no run has a reference.

    Raises:
        ConfigError: a folder is none of a run, or matplotlib is not installed.
    """
    lines = [
        Line(
            label=run.name,
            colour=number,
            steps=read_jsonl(run / "metrics.jsonl"),
            evals=read_jsonl(run / "eval.jsonl"),
        )
        for number, run in enumerate(runs)
    ]
    measured = {name for line in lines for row in line.steps for name in row}
    curves = [curve for curve in (REWARD, LENGTH, KL) if curve.metric in measured]
    draw(lines, [ACCURACY, *curves], out)


def draw(lines: Sequence[Line], curves: Sequence[Curve], out: Path, *, many: bool = False) -> None:
    """Draw a panel for each curve, with all lines in it.

    Args:
        lines: Those of the same label share it in the legend.
        curves: What is drawn.
        out: The picture, a PNG.
        many: Leave out what only a few lines have room for: the values of single steps and the
            intervals of evaluations. The legend is below.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    plt = _pyplot()
    width, height = (13 / 3, 4.0) if many else (3.75, 3.6)
    size = (width * len(curves), height)
    figure, axes = plt.subplots(1, len(curves), figsize=size, layout="constrained", squeeze=False)
    for axis, curve in zip(axes[0], curves, strict=True):
        named: set[str] = set()
        for line in lines:
            # What starts with an underscore is not in matplotlib's legend.
            _draw_line(axis, line, curve, ("_" if line.label in named else line.label, many))
            named.add(line.label)
        axis.set(title=curve.title, xlabel="step")
        axis.grid(alpha=0.3)
        if curve.share:
            axis.set_ylim(-0.03, 1.03)
    if many:
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4)
    elif len(lines) > 1:
        axes[0][0].legend(fontsize="small", loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _draw_line(axis: Any, line: Line, curve: Curve, how: tuple[str, bool]) -> None:
    label, many = how
    look = {"color": f"C{line.colour % 10}", "label": label}
    steps, values = curve.points(line.steps, line.evals)
    if curve.evaluated:
        bars = None if many else curve.half_widths(line.evals)
        axis.errorbar(steps, values, bars, marker="o", **look)
        return
    axis.plot(steps, smooth(values), **look)
    if not many:
        axis.plot(steps, values, color=look["color"], alpha=0.25)


def _pyplot() -> Any:
    """Import matplotlib, which only pictures need.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import matplotlib as mpl  # the extra `plot`
    except ModuleNotFoundError as error:
        text = f"pictures need matplotlib: {install('plot')}"
        raise ConfigError(text) from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


@exit_on_error()
def main() -> None:
    """Read the options and draw."""
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.plot", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="runs, or folders of runs (the newest)")
    parser.add_argument("--out", type=Path, default=Path("curve.png"), help="picture (%(default)s)")
    options = parser.parse_args()
    plot([run_at(run) for run in options.runs], options.out)
    print(options.out)


if __name__ == "__main__":
    main()
