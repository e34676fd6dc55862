"""Which tokens a turn's reward reaches (`agent.advantage.turns`), on env=guess: a Markdown table.

python tests/benchmarks/turn_credit.py

A run that is done is not repeated, one that was cut off goes on: the folder of runs is kept.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from grpo_envs.runs.rows import read_jsonl

CREDITS = {
    "episode": [],
    "discounted": ["agent.advantage.turns=discounted"],
    "per_turn": ["agent.advantage.turns=per_turn"],
}
HOW = ("env=guess", "model.size=tiny", "agent.lr=3e-4", "trainer.eval_problems=400")
HEADER = "| `turns` | correct, each seed | mean | reward, each seed | mean | flat turns |"


def train(credit: str, seed: int, steps: int, out: Path) -> Path:
    """Train unless that is done already; return the run's folder."""
    run = out / f"{credit}-{seed}"
    command = [sys.executable, "-m", "grpo_envs.run", *HOW, *CREDITS[credit]]
    command += [f"seed={seed}", f"trainer.steps={steps}"]
    resume = not (run / "done.json").exists() and (run / "checkpoints" / "last").exists()
    command += [f"resume={run}"] if resume else [f"hydra.run.dir={run}"]
    if not (run / "done.json").exists():
        subprocess.run(command, check=True)
    return run


def line(credit: str, runs: list[Path]) -> str:
    """Return a row of the table: of the held-out problems after training."""
    evals = [read_jsonl(run / "eval.jsonl")[-1] for run in runs]
    steps = [row for run in runs for row in read_jsonl(run / "metrics.jsonl")]
    cells = [f"`{credit}`"]
    for name in ("eval/reward/correct", "eval/reward"):
        values = [row[name] for row in evals]
        cells += [", ".join(f"{value:.3f}" for value in values), f"{fmean(values):.3f}"]
    flat = [row.get("group/turns_flat", row["group/zero_std"]) for row in steps]
    return f"| {' | '.join([*cells, f'{fmean(flat):.2f}'])} |"


def main() -> None:
    """Train with every credit and seed, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=24, help="of a run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("multirun/turn_credit"))
    options = parser.parse_args()
    lines = []
    for credit in CREDITS:
        seeds = range(options.seeds)
        runs = [train(credit, seed, options.steps, options.out) for seed in seeds]
        lines.append(line(credit, runs))
    before = read_jsonl(options.out / "episode-0" / "eval.jsonl")[0]
    correct, reward = before["eval/reward/correct"], before["eval/reward"]
    print(f"Before training: correct {correct:.3f}, reward {reward:.3f}.\n")
    print(HEADER, "|---" * HEADER[2:].count("|") + "|", *lines, sep="\n")


if __name__ == "__main__":
    main()
