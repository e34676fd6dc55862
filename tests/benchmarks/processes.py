"""How many tokens a second one process trains on, and two that share the same cores.

    python tests/benchmarks/processes.py

The quick start's shape with the bundled model, and env=code, whose answers are programs to run. The
one process has all threads, each of the two has half of them. Medians over the steps of three runs
each, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

_STEPS = 12
_ENVS = ("math", "code")
_LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
]


def rate(env: str, processes: int) -> list[float]:
    """Return the tokens a second of each step of a run."""
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    launch = _LAUNCH if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, *launch, "-m", "grpo_envs.run", f"env={env}", "model.size=tiny"),
                *("trainer.device=cpu", f"trainer.steps={_STEPS}", "trainer.eval_problems=0"),
                *("logger=files", f"hydra.run.dir={folder}/run"),
            ],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        rows = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(row)["tokens/per_second"] for row in rows[2:]]  # the first ones warm up


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="one process and two, on the same cores")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    print("| | one process [tokens/s] | two [tokens/s] | ratio |\n|---|---:|---:|---:|")
    for env in _ENVS:
        found: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for processes in found:
                found[processes] += rate(env, processes)
        one, two = median(found[1]), median(found[2])
        print(f"| env={env} | {one:,.0f} | {two:,.0f} | {two / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
