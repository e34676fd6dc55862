"""Curves of one or several runs as a picture: `python -m grpo_envs.plot RUN... --out curve.png`."""

import argparse
import sys
from pathlib import Path

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runs.rows import read_jsonl

_PANELS = {
    "reward/mean": "reward of sampled answers",
    "completion/length": "completion length [tokens]",
    "loss/kl": "KL to the reference [nats/token]",
}
_SMOOTH = 5


def plot(runs: list[Path], out: Path) -> None:
    """Draw reward, length and KL of each run over its steps, and held-out accuracy.

    KL has no panel where no run has a reference.
    """
    import matplotlib as mpl  # the extra `plot`; loaded only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    logged = [(run, read_jsonl(run / "metrics.jsonl")) for run in runs]
    measured = {name for _, metrics in logged for row in metrics for name in row}
    panels = {name: title for name, title in _PANELS.items() if name in measured}
    size = (3.75 * (1 + len(panels)), 3.6)
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=size, layout="constrained")
    for run, metrics in logged:
        evals = read_jsonl(run / "eval.jsonl")
        accuracy = [row["eval/accuracy"] for row in evals]
        bars = [row["eval/ci95"] for row in evals]
        axes[0].errorbar([e["step"] for e in evals], accuracy, bars, marker="o", label=run.name)
        for axis, name in zip(axes[1:], panels, strict=True):
            rows = [row for row in metrics if name in row]
            steps, values = [row["step"] for row in rows], [row[name] for row in rows]
            line = axis.plot(steps, smooth(values), label=run.name)[0]
            axis.plot(steps, values, color=line.get_color(), alpha=0.25)
    axes[0].set_ylim(0, 1)
    for axis, title in zip(axes, ("held-out accuracy, greedy", *panels.values()), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes[0].legend(fontsize="small", loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def smooth(values: list[float]) -> list[float]:
    """Return running means over the last five values."""
    windows = [values[max(0, i - _SMOOTH + 1) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def main() -> None:
    """Read the options and draw."""
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.plot", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("curve.png"), help="picture (%(default)s)")
    options = parser.parse_args()
    try:
        plot(options.runs, options.out)
    except GrpoEnvsError as error:
        sys.exit(f"grpo_envs: {error}")
    except ModuleNotFoundError:
        sys.exit('grpo_envs: pictures need matplotlib: pip install "grpo-envs[plot]"')
    print(options.out)


if __name__ == "__main__":
    main()
