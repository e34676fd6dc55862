"""Does the bundled model learn to call a tool through its chat template, and what is it worth?

    python tests/benchmarks/tools_learn.py --env calculator --seeds 3

A run with the tool and one without it for each seed (`env.turns=1`: a call comes to nothing, the
answer has to come at once), of the same steps, answers and held-out problems. The table has the
share of right answers, greedily decoded, and the calls of an episode, before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def evaluations(env: str, seed: int, overrides: list[str]) -> list[dict[str, Any]]:
    """Train, and return the evaluations before and after."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grpo_envs.run", f"env={env}", "model=qwen"]
        command += ["model.size=tiny", f"seed={seed}", f"hydra.run.dir={folder}/run", *overrides]
        subprocess.run(command, check=True, capture_output=True)
        lines = (Path(folder) / "run" / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in (lines[0], lines[-1])]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="calculator", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("overrides", nargs="*", help="of both runs")
    options = parser.parse_intermixed_args()
    print("| seed | turns | right before | right after | calls before | calls after |")
    print("|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        for turns, given in (("several", []), ("one", ["env.turns=1"])):
            found = evaluations(options.env, seed, [*options.overrides, *given])
            right = " | ".join(f"{each['eval/accuracy']:.3f}" for each in found)
            calls = " | ".join(f"{each['eval/reward/tool_calls']:.2f}" for each in found)
            print(f"| {seed} | {turns} | {right} | {calls} |", flush=True)


if __name__ == "__main__":
    main()
