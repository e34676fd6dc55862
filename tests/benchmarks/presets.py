"""The presets of conf/agent/ on the quick start, after one number of samples: a Markdown table.

python tests/benchmarks/presets.py

Takes about 40 minutes on two cores. A run that is done is not repeated, one that was cut off goes
on: the folder of runs is kept.
"""

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import flat
from grpo_envs.runs.rows import read_jsonl

PRESETS = ("grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo", "reinforce_pp", "sapo")
HEADER = "| `agent=` | what it sets | updates | accuracy of each seed | mean | tokens |"


def settings(preset: str) -> str:
    """Return what a preset sets differently from the defaults."""
    usual = flat(asdict(compose_run([]).agent))
    own = flat(asdict(compose_run([f"agent={preset}"]).agent))
    changed = [f"{key}={value}" for key, value in own.items() if usual[key] != value]
    return ", ".join(changed) or "the defaults"


def train(preset: str, seed: int, samples: int, out: Path) -> Path:
    """Train unless that is done already; return the run's folder."""
    run = out / f"{preset}-{seed}"
    command = [sys.executable, "-m", "grpo_envs.run", f"agent={preset}", f"seed={seed}"]
    command += [f"trainer.max_samples={samples}", f"trainer.steps={samples}", "model.size=tiny"]
    resume = not (run / "done.json").exists() and (run / "checkpoints" / "last").exists()
    command += [f"resume={run}"] if resume else [f"hydra.run.dir={run}"]
    subprocess.run(command, check=True)
    return run


def line(preset: str, runs: list[Path]) -> str:
    """Return a preset's row of the table."""
    evals = [read_jsonl(run / "eval.jsonl")[-1] for run in runs]
    updates = fmean(sum(m["optim/updates"] for m in read_jsonl(r / "metrics.jsonl")) for r in runs)
    accuracies = [e["eval/accuracy"] for e in evals]
    each = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    length = fmean(e["eval/length"] for e in evals)
    cells = [f"`{preset}`", settings(preset), f"{updates:.0f}", each, f"{fmean(accuracies):.3f}"]
    return f"| {' | '.join(cells)} | {length:.0f} |"


def main() -> None:
    """Train every preset with every seed and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=7680, help="of a run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of a preset (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("multirun/presets"), help="%(default)s")
    options = parser.parse_args()
    finished: dict[str, list[Path]] = {preset: [] for preset in PRESETS}
    for seed in range(options.seeds):  # seed by seed: a first table comes early
        for preset in PRESETS:
            finished[preset].append(train(preset, seed, options.samples, options.out))
    first = read_jsonl(finished[PRESETS[0]][0] / "eval.jsonl")[0]
    print(f"\nbefore: {first['eval/accuracy']:.3f} ({first['eval/length']:.0f} tokens)\n")
    print(f"{HEADER}\n|---|---|---|---|---|---|")
    for preset in PRESETS:
        print(line(preset, finished[preset]))


if __name__ == "__main__":
    main()
