"""The presets of conf/agent/ on the quick start, after one number of samples: a Markdown table.

python tests/benchmarks/presets.py
python tests/benchmarks/presets.py --only gmpo vespo --seeds 1

A run takes one to three minutes of a core. A run that is done is not repeated, and one that was
interrupted resumes: the folder of runs is kept. After each seed the table is printed and written to
`table.md` in that folder. The teacher of `distill` is the model of `grpo` with the same seed.
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

PRESETS = (
    *("grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo", "reinforce_pp", "sapo"),
    *("gdpo", "dppo", "vespo", "luspo", "gmpo", "clip_cov", "kl_cov", "top_entropy", "distill"),
)
MORE = {
    "dppo_kl": (
        "agent=dppo",
        "agent.loss.objective=dppo_kl",
        "agent.loss.clip_low=0.05",
        "agent.loss.clip_high=0.05",
    ),
    "entropy_target": (
        "agent=grpo",
        "agent.loss.entropy_target=0.3",
        "agent.loss.entropy_max=0.02",
    ),
    "moving_reference": (
        "agent=grpo",
        "agent.sync_reference_every=1",
        "agent.sync_reference_decay=0.9",
    ),
}
"""Mechanisms that are no preset, by the overrides that turn them on."""
HEADER = "| `agent=` | what it sets | updates | before | after, each seed | mean | tokens |"


def overrides(variant: str, seed: int, out: Path) -> list[str]:
    """Return what turns a preset or mechanism on."""
    teacher = [f"agent.teacher={out / f'grpo-{seed}'}"] if variant == "distill" else []
    return [*MORE.get(variant, (f"agent={variant}",)), *teacher]


def settings(variant: str) -> str:
    """Return what a variant sets differently from the defaults."""
    usual = flat(asdict(compose_run([]).agent))
    own = flat(asdict(compose_run(overrides(variant, 0, Path("RUNS"))).agent))
    changed = [f"{key}={value}" for key, value in own.items() if usual[key] != value]
    return ", ".join(changed) or "the defaults"


def train(preset: str, seed: int, samples: int, out: Path) -> Path:
    """Train unless that is done already; return the run's folder."""
    run = out / f"{preset}-{seed}"
    command = [sys.executable, "-m", "grpo_envs.run", *overrides(preset, seed, out.resolve())]
    command += [f"seed={seed}"]
    command += [f"trainer.max_samples={samples}", f"trainer.steps={samples}", "model.size=tiny"]
    resume = not (run / "done.json").exists() and (run / "checkpoints" / "last").exists()
    command += [f"resume={run}"] if resume else [f"hydra.run.dir={run}"]
    subprocess.run(command, check=True)
    return run


def line(preset: str, runs: list[Path]) -> str:
    """Return a preset's row of the table."""
    first, evals = ([read_jsonl(run / "eval.jsonl")[i] for run in runs] for i in (0, -1))
    before = fmean(e["eval/accuracy"] for e in first)
    updates = fmean(sum(m["optim/updates"] for m in read_jsonl(r / "metrics.jsonl")) for r in runs)
    accuracies = [e["eval/accuracy"] for e in evals]
    each = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    length = fmean(e["eval/length"] for e in evals)
    cells = [f"`{preset}`", settings(preset), f"{updates:.0f}"]
    cells += [f"{before:.3f}", each, f"{fmean(accuracies):.3f}"]
    return f"| {' | '.join(cells)} | {length:.0f} |"


def table(finished: dict[str, list[Path]], out: Path) -> None:
    """Print a row for each variant, and keep the table in `out`."""
    rows = [line(variant, runs) for variant, runs in finished.items()]
    text = "\n".join([HEADER, "|---|---|---|---|---|---|---|", *rows])
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}", flush=True)


def main() -> None:
    """Train every preset with every seed; print the table after each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=7680, help="of a run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of a preset (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("multirun/presets"), help="%(default)s")
    parser.add_argument("--only", nargs="+", choices=[*PRESETS, *MORE], help="these (all)")
    options = parser.parse_args()
    variants = options.only or [*PRESETS, *MORE]
    finished: dict[str, list[Path]] = {variant: [] for variant in variants}
    for seed in range(options.seeds):  # seed by seed: a first table comes early
        if "distill" in variants and "grpo" not in variants:
            train("grpo", seed, options.samples, options.out)
        for variant in variants:
            finished[variant].append(train(variant, seed, options.samples, options.out))
        table(finished, options.out)


if __name__ == "__main__":
    main()
