"""Curves of one or several runs as a picture: `python -m grpo_envs.plot RUN... --out curve.png`."""

import argparse
from pathlib import Path

from grpo_envs.runs.curves import ACCURACY, KL, LENGTH, OPTIMISER, REWARD, seen
from grpo_envs.runs.newest import run_at
from grpo_envs.runs.plots import Line, draw
from grpo_envs.runs.record import read_record
from grpo_envs.runtime.terminal import exit_on_error


def plot(runs: list[Path], out: Path) -> None:
    """Draw held-out accuracy, reward, length, KL, loss, clipped tokens and learning rate.

    A curve that no run has, or that is 0 everywhere, has no panel.

    Raises:
        ConfigError: a folder is not that of a run, or matplotlib is not installed.
    """
    records = [read_record(run) for run in runs]
    curves = [ACCURACY, REWARD, LENGTH, *seen(records, [KL, *OPTIMISER])]
    draw([Line(label=run.path.name, runs=[run]) for run in records], curves, out)


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
