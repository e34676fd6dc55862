"""How long the quick start takes, from the command to the end.

    python tests/benchmarks/quick_start.py

Three runs of the README's first command, each in a process and a folder of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from statistics import median

_RUNS = 3


def main() -> None:
    """Print the seconds of each run, and their median."""
    command = [sys.executable, "-m", "grpo_envs.run", "env=math", "model=qwen"]
    taken = []
    for _ in range(_RUNS):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run(
                [*command, f"hydra.run.dir={folder}/run"], check=True, capture_output=True
            )
            taken.append(time.perf_counter() - start)
    each = ", ".join(f"{seconds:.0f}" for seconds in taken)
    print(f"quick start: {median(taken):.0f} s (median of {each})")


if __name__ == "__main__":
    main()
