"""Grading mathematics: verdicts a second, beside math-verify on the same cases, in one run.

pip install -e ".[dev,math-verify]" && python tests/benchmarks/math_grading.py

Every answer is new, so no cache helps: `numbers` are decided by the exact fast path, `expressions`
by the symbolic stage. math-verify (which uses the installed ANTLR) has far fewer of the same cases,
for it takes milliseconds each. Medians of several rounds, in processor time: one process, one core.

`--before PYTHON` measures another installation of this package, too: the same cases by that Python,
its rounds in turn with ours, so that a change of the machine's load meets both.
"""

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

from grpo_envs.graders.math import grade

Pair = tuple[str, str]
_NUMBERS = ("{n}", "{n}.0", "-{n}", r"\frac{{{n}}}{{7}}", "{n}/12", "{n}\\%", "{n:,}", "${n}$")
_EXPRESSIONS = (
    (r"\frac{{x^2-{n}}}{{x+1}}", r"(x^2-{n})/(x+1)"),
    (r"{n}\sqrt{{8}}", r"2 \cdot {n}\sqrt{{2}}"),
    (r"\sin^2(x)+{n}", r"1-\cos^2(x)+{n}"),
    (r"(x+{n})^2", r"x^2+2 \cdot {n} x+{n}^2"),
    (r"\{{\sqrt{{{n}}}, -\sqrt{{{n}}}\}}", r"\pm\sqrt{{{n}}}"),
    (r"x \in (-\infty, {n}]", r"x \le {n}"),
    (r"\frac{{{n}}}{{\sqrt{{3}}}}", r"\frac{{{n}\sqrt{{3}}}}{{3}}"),
    (r"e^{{{n} i \pi}}+{n}", r"\cos({n}\pi)+{n}"),
    (r"\binom{{{n}}}{{2}}+x", r"\frac{{{n}({n}-1)}}{{2}}+x"),
    (r"y = {n}x+1", r"2y-2 \cdot {n}x-2=0"),
)


def numbers(size: int, start: int) -> list[Pair]:
    """Return golds and answers that are plain numbers, half of them wrong."""
    pairs = []
    for n in range(start, start + size):
        form = _NUMBERS[n % len(_NUMBERS)].format(n=n)
        pairs.append((form, form if n // len(_NUMBERS) % 2 else _NUMBERS[0].format(n=n + 1)))
    return pairs


def expressions(size: int, start: int) -> list[Pair]:
    """Return golds and answers that need algebra, half of them wrong."""
    pairs = []
    for n in range(start, start + size):
        gold, answer = _EXPRESSIONS[n % len(_EXPRESSIONS)]
        wrong = n // len(_EXPRESSIONS) % 2
        pairs.append((gold.format(n=n), answer.format(n=n + wrong)))
    return pairs


CASES: dict[str, tuple[Callable[[int, int], list[Pair]], int, int]] = {
    "numbers": (numbers, 20_000, 100),
    "expressions": (expressions, 1000, 50),
}
"""How each kind is made, how many in a round, and how many of them for math-verify."""


def ours(pair: Pair) -> bool:
    """Decide a pair with this package."""
    return grade(pair[0], f"so \\boxed{{{pair[1]}}}").correct


def theirs() -> Callable[[Pair], bool] | None:
    """Return math-verify's verdict on a pair, None where it is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None

    def decide(pair: Pair) -> bool:
        gold = parse(f"${pair[0]}$", parsing_timeout=None)
        return bool(verify(gold, parse(f"so $\\boxed{{{pair[1]}}}$", parsing_timeout=None)))

    return decide


def seconds(decide: Callable[[Pair], bool], pairs: Sequence[Pair]) -> list[float]:
    """Return the time of each verdict."""
    found = []
    for pair in pairs:
        started = time.process_time()
        decide(pair)
        found.append(time.process_time() - started)
    return found


def one_round(name: str, start: int) -> float:
    """Return the verdicts a second of one round, after imports and warm-up.

    The garbage collector does not go through what imports have made: one such collection takes a
    tenth of a round, and falls into it by chance.
    """
    make, size, _ = CASES[name]
    for pair in make(20, 10):
        ours(pair)
    gc.collect()
    gc.freeze()
    return size / sum(seconds(ours, make(size, start)))


def rate_of(python: str, name: str, start: int) -> float:
    """Return the verdicts a second of one round that another Python measures."""
    command = [python, __file__, "--round", name, str(start)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare_with(before: str, rounds: int) -> None:
    """Print the verdicts a second of both installations, measured in turn."""
    print("| cases | before [verdicts/s] | now [verdicts/s] | now / before |")
    print("|---|---|---|---|")
    for name, (_, size, _) in CASES.items():
        starts = [1000 + round_ * size for round_ in range(rounds)]
        pairs = [(rate_of(before, name, s), rate_of(sys.executable, name, s)) for s in starts]
        old, new = (max(side) for side in zip(*pairs, strict=True))  # the least disturbed
        print(f"| {name} | {old:,.0f} | {new:,.0f} | {new / old:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="medians of (%(default)s)")
    parser.add_argument(
        "--before", metavar="PYTHON", help="compare with the package of this Python"
    )
    parser.add_argument(
        "--round", nargs=2, metavar=("CASES", "START"), help="measure one round only"
    )
    options = parser.parse_args()
    if options.round:
        print(one_round(options.round[0], int(options.round[1])))
    elif options.before:
        compare_with(options.before, options.rounds)
    else:
        table(options.rounds)


def table(rounds: int) -> None:
    """Print our verdicts a second beside math-verify's."""
    other = theirs()
    print("| cases | verdicts/s | median [us] | p99 [us] | math-verify [verdicts/s] | ratio |")
    print("|---|---|---|---|---|---|")
    for name, (make, size, few) in CASES.items():
        starts = [1000 + round_ * size for round_ in range(rounds)]
        for pair in make(20, 10):  # imports and warm-up
            ours(pair)
        times = [seconds(ours, make(size, start)) for start in starts]
        rate = median(size / sum(round_) for round_ in times)
        middle = median(median(round_) for round_ in times) * 1e6
        last = median(quantiles(round_, n=100)[-1] for round_ in times) * 1e6
        cells = [name, f"{rate:,.0f}", f"{middle:.1f}", f"{last:.0f}", "not installed", "-"]
        if other is not None:
            seconds(other, make(5, 10))
            slow = median(few / sum(seconds(other, make(few, start))) for start in starts[:3])
            cells[-2:] = [f"{slow:,.0f}", f"{rate / slow:,.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
