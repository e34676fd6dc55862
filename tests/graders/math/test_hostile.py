"""Whatever a model writes: a verdict in time, never "equal", no exception, no memory that stays."""

import asyncio
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_envs.graders.math import grade, grade_many
from tests.support.hostile_math import Case, cases

LIMIT = 1.5
"""Seconds of wall clock for one answer."""
CASES = cases()
HACKED = Path("/tmp/grpo_envs_hacked")  # what the injections would write
Report = list[tuple[str, bool, float]]


def verdicts(corpus: list[Case]) -> Report:
    """Name, verdict and seconds of each case."""
    warm_up()
    report = []
    for name, gold, answer in corpus:
        started = time.perf_counter()
        correct = grade(gold, f"\\boxed{{{answer}}}").correct
        correct |= grade(gold, f"so <answer>{answer}</answer>").correct
        report.append((name, correct, (time.perf_counter() - started) / 2))
    return report


def warm_up() -> None:
    """Load what is loaded once: 50 digits, and the processes of sympy."""
    grade("x^2", rf"\boxed{{x\cdot x+{time.time_ns()}}}")
    grade("7", rf"\boxed{{\sum_{{n=1}}^{{3}} n+{time.time_ns()}}}")


def shifted(corpus: list[Case]) -> list[Case]:
    """The same answers in other words: no verdict of an earlier test is in a cache."""
    stamp = time.time_ns() % 1_000_000
    return [
        (name, gold, f"{answer} + {stamp + i}") for i, (name, gold, answer) in enumerate(corpus)
    ]


def check(report: Report) -> None:
    assert [name for name, correct, _ in report if correct] == []
    slow = [(name, round(seconds, 2)) for name, _, seconds in report if seconds > LIMIT]
    assert slow == []
    assert not HACKED.exists()


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 150
    assert len({name for name, _, _ in CASES}) == len(CASES)


def test_every_answer_gets_its_verdict_in_time_and_memory_stays() -> None:
    warm_up()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(verdicts(CASES))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 50, f"{grown:.0f} MiB"


def test_a_batch_decides_as_one_by_one() -> None:
    corpus = CASES[::3]
    golds = [gold for _, gold, _ in corpus]
    answers = [f"\\boxed{{{answer}}}" for _, _, answer in corpus]
    assert not any(verdict.correct for verdict in grade_many(golds, answers))


def in_a_thread(work: Callable[[], Report]) -> Report:
    found: list[Report] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def in_asyncio(work: Callable[[], Report]) -> Report:
    async def main() -> Report:
        return work()

    return asyncio.run(main())


def in_a_forked_child(work: Callable[[], Report]) -> Report:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send(work()))
    child.start()
    report: Report = here.recv()
    child.join()
    return report


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("place", "every"),
    [
        pytest.param(in_a_thread, 3, id="a third of it in a thread"),
        pytest.param(in_a_thread, 1, id="in a thread", marks=pytest.mark.slow),
        pytest.param(in_asyncio, 1, id="in asyncio", marks=pytest.mark.slow),
        pytest.param(in_a_forked_child, 1, id="in a forked child", marks=pytest.mark.slow),
    ],
)
def test_the_same_everywhere(place: Callable[[Callable[[], Report]], Report], every: int) -> None:
    corpus = shifted(CASES[::every])
    check(place(lambda: verdicts(corpus)))
