"""What a GPU is given and waited for, counted on any device; and the peak memory of a step.

    python tests/benchmarks/launches.py
    python tests/benchmarks/launches.py --before ../old/.venv/bin/python

The second compares with the checkout that is installed for another interpreter. Operations are
those that PyTorch dispatches, each at least one kernel; views do not count. A host read is a value
of a tensor that Python asks for, which makes it wait for a GPU. Tokens are sampled with the bundled
model, from prompts of equal length and from padded ones; a step is that of shape (d) of
bench_grpo_step.py with fewer tokens. Its peak memory is that of shape (a), of the whole process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpo_envs  # of the interpreter that runs this; all else of `tests` is of this checkout
from grpo_policy.models import TINY, load_policy

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.benchmarks.bench_grpo_step import SHAPES, How, ours, run_side
from tests.support.counters import Count, HostReads, Operations, a_token, as_on_a_gpu

_STEP = replace(SHAPES["d"], prompts=4, tokens=16)


def figures() -> dict[str, float]:
    """Return everything that is measured, by name."""
    peak = run_side("ours", SHAPES["a"], How(steps=1))["peak"]  # first: the process has no other
    policy = as_on_a_gpu(load_policy(str(TINY)))
    found = {}
    for name, count in (("operations", Operations), ("host reads", HostReads)):
        for prompts, padded in (("equal", False), ("padded", True)):
            found[f"{name} a token, {prompts} prompts"] = a_token(policy, count, padded=padded)
        found[f"{name} a step"] = a_step(count)
    return {**found, "peak memory of a step [MiB]": peak}


def a_step(count: Callable[[], Count]) -> float:
    """Return what a step costs, in what `count` counts: three steps less two."""
    totals = []
    for steps in (2, 3):
        with count() as counted:
            ours(_STEP, How(steps=steps))
        totals.append(counted.total)
    return float(totals[1] - totals[0])


def measure(python: str) -> dict[str, float]:
    """Measure with an interpreter, in a process of its own."""
    command = [python, __file__, "--one"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", metavar="PYTHON", help="interpreter of another checkout")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(f"measuring {Path(grpo_envs.__file__).parent}", file=sys.stderr)
        print(json.dumps(figures()))
        return
    now = measure(sys.executable)
    if not options.before:
        print("| | now |\n|---|---:|")
        for name, value in now.items():
            print(f"| {name} | {value:,.4g} |")
        return
    before = measure(options.before)
    print("| | before | now | ratio |\n|---|---:|---:|---:|")
    for name, value in now.items():
        ratio = f"{before[name] / value:.2f}" if value else "-"
        print(f"| {name} | {before[name]:,.4g} | {value:,.4g} | {ratio} |")


if __name__ == "__main__":
    main()
