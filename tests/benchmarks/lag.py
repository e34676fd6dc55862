"""What a lag costs and gains: the quick start with `trainer.lag` 0, 1 and 2.

    python tests/benchmarks/lag.py [--seeds 3]

Each run is a process with a folder of its own. Seconds are those of a run's steps, without start
and evaluations; they say little on a machine with other work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median

from grpo_envs.runs.rows import read_jsonl

LAGS = (0, 1, 2)


def main() -> None:
    """Print a row for each lag."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each lag")
    parser.add_argument("overrides", nargs="*", help="keys of all runs, e.g. trainer.steps=20")
    options = parser.parse_args()
    print(
        "| `trainer.lag` | held-out accuracy, before and after | mean | s | s hidden | correction |"
    )
    print("|---|---|---:|---:|---:|---:|")
    for lag in LAGS:
        print(_row(lag, options.seeds, options.overrides), flush=True)


def _row(lag: int, seeds: int, overrides: list[str]) -> str:
    before, after, seconds, hidden, correction = [], [], [], [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            keys = [f"seed={seed}", f"trainer.lag={lag}", f"hydra.run.dir={run}", *overrides]
            command = [sys.executable, "-m", "grpo_envs.run", "env=math", "model=qwen", *keys]
            subprocess.run(command, check=True, capture_output=True)
            evaluated, steps = read_jsonl(run / "eval.jsonl"), read_jsonl(run / "metrics.jsonl")
        before.append(evaluated[0]["eval/accuracy"])
        after.append(evaluated[-1]["eval/accuracy"])
        seconds.append(sum(step["time/step"] for step in steps))
        hidden.append(sum(step.get("time/hidden", 0.0) for step in steps))
        correction.append(fmean(step.get("policy/correction", 1.0) for step in steps))
    pairs = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(before, after, strict=True))
    return (
        f"| {lag} | {pairs} | {fmean(after):.3f} | {median(seconds):.0f} | {median(hidden):.0f} "
        f"| {fmean(correction):.3f} |"
    )


if __name__ == "__main__":
    main()
