"""How the cost of a step grows with group size, prompt length and model size.

    python tests/benchmarks/cost.py

From one shape (7 M parameters, 4 prompts of about 40 tokens, groups of 8, 64 tokens each) one thing
is changed at a time. Seconds of sampling and of the update, medians of three steps, and the peak
memory of a process that does nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.benchmarks.bench_grpo_step import How, Shape, run_side

_BASE = Shape(model="qwen3-7m", prompts=4, group=8, tokens=64, words=20)
SERIES = {
    "group size": {f"G = {size}": replace(_BASE, group=size) for size in (4, 8, 16, 32)},
    "prompt length": {
        f"{words + 20} tokens": replace(_BASE, words=words) for words in (20, 108, 492)
    },
    "model size": {
        "0.9 M (bundled)": replace(_BASE, model="tiny"),
        "7 M": _BASE,
        "135 M": replace(_BASE, model="smollm2-135m"),
    },
}


def main() -> None:
    """Print a table; or, with the name of a row, measure it."""
    if len(sys.argv) > 1:
        series, row = sys.argv[1:]
        print(json.dumps(run_side("ours", SERIES[series][row], How(steps=3))))
        return
    print("| | | sample [s] | update [s] | peak [MiB] |\n|---|---|---:|---:|---:|")
    for series, rows in SERIES.items():
        for row in rows:
            command = [sys.executable, __file__, series, row]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seen = json.loads(done.stdout.splitlines()[-1])
            cells = f"{seen['sample']:.2f} | {seen['update']:.2f} | {seen['peak']:.0f}"
            print(f"| {series} | {row} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
