"""The sympy workers: what they decide, and that nothing can hang, leak or outlive them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.graders.math import workers, zygote
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.parse import parse
from grpo_envs.graders.math.workers import Pool

ROOT = Path(__file__).parents[3]
K, X = ("var", "k"), ("var", "x")
# Sums that sympy has no closed form for: it would add a trillion terms.
HANGS: Node = ("sum", ("fn", "sin", ("pow", K, K)), K, ("num", "1"), ("num", "1000000000000"))
# Equal at every point, and sympy expands it to prove it: more terms than any memory holds.
SUM: Node = ("add", *(("var", f"x{i}") for i in range(30)))
BOMB = (("pow", SUM, ("num", "40")), ("pow", ("neg", SUM), ("num", "40")))
FIVE: Node = ("num", "5")


def pair(gold: str, answer: str) -> tuple[Node, Node]:
    return parse(gold), parse(answer)


def triangle(n: int, answer: int | None = None) -> tuple[Node, Node]:
    """1 + ... + n, which is n (n + 1) / 2."""
    total = n * (n + 1) // 2 if answer is None else answer
    return ("sum", K, K, ("num", "1"), ("num", str(n))), ("num", str(total))


def area(n: int) -> tuple[Node, Node]:
    """An integral, which takes sympy ten times as long as a sum."""
    return pair(rf"\int_0^{{{n}}} x^2 dx", rf"\frac{{{n**3}}}{{3}}")


# The same pool and the same zygote with another judge, which follows a script: it starts in no
# time, and takes as long as the script says.
JUDGE = f"""
import importlib.util, os, socket, sys, time
spec = importlib.util.spec_from_file_location("worker", {str(zygote.PROGRAM)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def judge(what, how, seconds):
    if what == "sleep":
        time.sleep(how)
    elif what == "spin":
        while True:
            pass
    elif what == "fill":
        return len(bytearray(how)) == 0
    elif what == "write":
        with open(how, "w") as file:
            file.write("x")
    elif what == "die":
        os.kill(os.getpid(), how)
    elif what == "fail":
        time.sleep(how)
        raise SystemError
    else:
        return what == how
    return True

_, number, memory, deadline, *_ = sys.argv[1:]
control = socket.socket(fileno=int(number))
control.sendall(b"R")
worker.WorkerZygote(control, judge, int(memory), float(deadline)).serve()
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "judge.py"
    path.write_text(JUDGE)
    return path


@pytest.fixture
def puppet(judge: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(zygote, "PROGRAM", judge)
    pool = Pool(size=2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def patient() -> Iterator[Pool]:
    """With sympy, and time enough on a busy machine: two pairs at once, on any machine."""
    pool = Pool(size=2, deadline=20.0)
    assert pool.decide([triangle(3)]) == [True]
    yield pool
    pool.close()


@pytest.fixture
def pool(patient: Pool, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """The same, with the deadline that there is by default."""
    monkeypatch.setattr(patient, "deadline", workers.DEADLINE)
    return patient


# Processes, as the system sees them


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def children(parent: int) -> set[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  exists?
    return {pid for pid in pids if parent_of(pid) == parent}


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "gone"


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


def kill(*pids: int, number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # one that has just answered ends by itself
            os.kill(pid, number)


def zygote_of(pool: Pool) -> int:
    assert pool._zygote is not None
    return pool._zygote.process.pid


def running(pool: Pool) -> list[int]:
    return [worker.pid for _, worker in list(pool._running.values())]


# What they decide


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        pytest.param(r"\sum_{n=1}^\infty \frac{1}{n^2}", r"\frac{\pi^2}{6}", True, id="Basel"),
        pytest.param(r"\sum_{n=1}^\infty \frac{1}{n^2}", r"\frac{\pi^2}{7}", False, id="not Basel"),
        pytest.param(r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True, id="a sum up to n"),
        pytest.param(r"\sum_{k=1}^{n} k", r"\frac{n(n-1)}{2}", False, id="a sum up to n, wrong"),
        pytest.param(r"\sum_{k=0}^{n}\binom{n}{k}", "2^n", True, id="binomials"),
        pytest.param(r"\sum_{n=0}^\infty x^n", r"\frac{1}{1-x}", True, id="where it converges"),
        pytest.param(r"\sum_{n=0}^\infty x^n", r"\frac{1}{1+x}", False, id="and is another"),
        pytest.param(r"\sum_{n=1}^\infty \frac1n", r"\infty", True, id="divergent"),
        pytest.param(r"\sum_{n=1}^\infty \frac1n", "5", False, id="divergent, not 5"),
        pytest.param(r"\sum_{n=0}^\infty (-1)^n", r"\frac12", None, id="Grandi has no value"),
        pytest.param(r"\prod_{k=1}^n k", "n!", True, id="a product"),
        pytest.param(r"\int_0^1 x^2 dx", r"\frac13", True, id="an integral"),
        pytest.param(r"\int_0^1 x^2 dx", r"\frac14", False, id="an integral, wrong"),
        pytest.param(r"\int_{-\infty}^\infty e^{-x^2} dx", r"\sqrt{\pi}", True, id="Gauss"),
        pytest.param(r"\int_0^\infty e^{-a x} dx", r"\frac1a", True, id="a parameter"),
        pytest.param(r"\int_0^1 e^{-x^2} dx", "0.7468", None, id="rounding is left to the rules"),
        pytest.param(r"\int_0^1 e^{-x^2} dx", "0.5", False, id="a decimal, wrong"),
        pytest.param(r"\int 2x dx", "x^2 + C", True, id="up to a constant"),
        pytest.param(r"\int 2x dx", "x^3 + C", False, id="up to a constant, wrong"),
        pytest.param(r"\int \frac1x dx", r"\ln|x| + C", True, id="on both half-lines"),
        pytest.param(r"\lim_{x\to 0} \frac{\sin x}{x}", "1", True, id="a limit"),
        pytest.param(r"\lim_{x\to 0} \frac{\sin x}{x}", "0", False, id="a limit, wrong"),
        pytest.param(r"\lim_{x\to 0^+} \frac1x", r"\infty", True, id="a limit from above"),
        pytest.param(r"\lim_{x\to 0^-} \frac1x", r"\infty", False, id="a limit from below"),
        pytest.param(r"\lim_{x\to 0} \frac1x", r"\infty", None, id="two sides that differ"),
        pytest.param(r"\lim_{n\to\infty} (1+\frac1n)^n", "e", True, id="Euler"),
        pytest.param(r"\frac{d}{dx} \sin(x^2)", r"2x\cos(x^2)", True, id="a derivative"),
        pytest.param(r"\frac{d}{dx} \sin(x^2)", r"\cos(x^2)", False, id="a derivative, wrong"),
        pytest.param(r"\{x \mid x > 2\}", r"(2,\infty)", True, id="an interval"),
        pytest.param(r"\{x \mid x > 2\}", r"[2,\infty)", False, id="another end"),
        pytest.param(r"\{x \mid x^2 = 4\}", r"\{-2, 2\}", True, id="roots"),
        pytest.param(r"\{x \mid x \neq 3\}", r"(-\infty,3)\cup(3,\infty)", True, id="a gap"),
        pytest.param(r"\{n \in \mathbb{Z} \mid 1 \le n < 4\}", r"\{1,2,3\}", True, id="integers"),
        pytest.param(r"\{n \in \mathbb{N} \mid n < 3\}", r"\{1,2\}", None, id="0 may be in N"),
        pytest.param(r"\{n \in \mathbb{N} \mid n > 3\}", r"\{1,2\}", False, id="or may not"),
        pytest.param(
            r"\{2k \mid k \in \mathbb{Z}\}", r"\{2n+2 \mid n \in \mathbb{Z}\}", True, id="even"
        ),
        pytest.param(
            r"\{2k \mid k \in \mathbb{Z}\}", r"\{2k+1 \mid k \in \mathbb{Z}\}", False, id="odd"
        ),
        pytest.param(
            r"\{n \in \mathbb{Z} \mid n > 100\}",
            r"\{n \in \mathbb{Z} \mid n > 101\}",
            None,
            id="no witness near 0, no proof",
        ),
        pytest.param(r"(\sum_{k=1}^3 k, \int_0^1 x dx)", r"(6,\frac12)", True, id="entry by entry"),
        pytest.param(r"(\sum_{k=1}^3 k, 2)", "(6,3)", False, id="one entry wrong"),
        pytest.param(r"\frac1{2004!}", r"\frac1{2006!}", False, id="tiny and different"),
        pytest.param(r"S = \sum_{k=1}^3 k", "6", True, id="a value that has a name"),
        pytest.param("6", r"S = \sum_{k=1}^3 k", True, id="an answer that has a name"),
        pytest.param(r"\sum_{k=1}^3 k \text{ cm}", r"6 \text{ cm}", True, id="of one unit"),
        pytest.param(r"\sum_{k=1}^3 k \text{ cm}", r"6 \text{ kg}", None, id="of two units"),
        pytest.param(r"\sqrt2+\sqrt3-\sqrt{5+2\sqrt6}", "0", True, id="zero, but for rounding"),
        pytest.param(r"\pi+10^{-60}", r"\pi", False, id="different in the 60th digit"),
        pytest.param("x^2-1", "(x-1)(x+1)", True, id="algebra"),
        pytest.param(r"\sqrt{x^2}", "x", False, id="not for negative x"),
        pytest.param(r"\sqrt{x^2}", "|x|", True, id="for all real x"),
        pytest.param(r"\text{blue}", "5", None, id="nothing for sympy"),
    ],
)
def test_verdicts(gold: str, answer: str, verdict: bool | None, patient: Pool) -> None:
    assert patient.decide([pair(gold, answer)]) == [verdict]


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(("nope", 1, 2), id="an unknown kind"),
        pytest.param(("sum",), id="a kind without parts"),
        pytest.param(("num", 5), id="a number for its digits"),
        pytest.param(("num", "__import__('os')"), id="code for digits"),
        pytest.param(("num", "9" * 60_000), id="60,000 digits"),
        pytest.param(("num", "9" * 100_000), id="more than is sent"),
        pytest.param(("base", "zz", ("num", "2")), id="digits that the base has not"),
        pytest.param(("repeat", "0.1", "x"), id="a period that is none"),
        pytest.param(("pow", ("num", "9"), ("num", "99999999")), id="a tower"),
        pytest.param(("fact", ("fact", ("num", "50"))), id="a factorial tower"),
        pytest.param(("div", ("num", "1"), ("num", "0")), id="division by zero"),
        pytest.param(("derivative", X, X, 10**6), id="a millionth derivative"),
        pytest.param(("binom", ("num", "9" * 50), ("num", "9" * 40)), id="a large binomial"),
    ],
)
def test_what_cannot_be_built_stays_open(tree: Node, pool: Pool) -> None:
    start = time.monotonic()
    assert pool.decide([(tree, FIVE), (FIVE, tree)]) == [None, None]
    assert time.monotonic() - start < 1.0  # bounded, not killed


def test_a_tree_of_any_depth_stays_open(pool: Pool) -> None:
    deep: Node = X
    for _ in range(50_000):
        deep = ("neg", deep)
    assert pool.decide([(deep, FIVE), triangle(4)]) == [None, True]


def test_what_is_too_long_is_not_even_sent() -> None:
    pool = Pool()
    assert pool.decide([(("num", "9" * 100_000), FIVE)]) == [None]
    assert pool._zygote is None


def test_no_name_is_ever_read_as_code(pool: Pool, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    code = f"__import__('os').system('touch {target}')"
    for tree in (("var", code), ("call", code, X), ("word", code), ("unit", X, code)):
        pool.decide([(tree, FIVE), (tree, tree), (FIVE, ("fn", code, X))])
    assert not target.exists()


def test_results_stand_in_the_order_of_the_pairs(pool: Pool) -> None:
    pairs = [triangle(n, answer=10) for n in range(1, 9)]  # right for n = 4
    pairs[6] = (HANGS, FIVE)
    expected: list[bool | None] = [n == 4 for n in range(1, 9)]
    expected[6] = None
    assert pool.decide(pairs) == expected
    assert pool.decide([]) == []


def test_a_verdict_does_not_depend_on_what_came_before(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "deadline", 2.0)
    pairs = [area(2), triangle(5), (HANGS, FIVE), area(3), triangle(6, answer=20)]
    expected = [True, True, None, True, False]
    assert pool.decide(pairs) == expected
    assert pool.decide(pairs[::-1]) == expected[::-1]


# Time and memory


@pytest.mark.parametrize(
    "hostile", [pytest.param((HANGS, FIVE), id="a hang"), pytest.param(BOMB, id="a memory bomb")]
)
def test_a_hostile_pair_has_its_verdict_in_time(hostile: tuple[Node, Node], pool: Pool) -> None:
    start = time.monotonic()
    assert pool.decide([hostile]) == [None]
    assert time.monotonic() - start < 1.5


SAME: Any = (1, 1)
OTHER: Any = (1, 2)
SPIN: Any = ("spin", 0)


def sleep(seconds: float) -> Any:
    return ("sleep", seconds)


@pytest.mark.parametrize(
    "stuck", [pytest.param(SPIN, id="it spins"), pytest.param(sleep(60), id="it sleeps")]
)
def test_a_worker_that_does_not_answer_is_killed(stuck: Any, puppet: Pool) -> None:
    puppet.decide([SAME])
    start = time.monotonic()
    assert puppet.decide([stuck]) == [None]
    assert 1.0 <= time.monotonic() - start < 1.5
    wait_for(lambda: len(children(zygote_of(puppet))) <= 2)
    assert puppet.decide([SAME, OTHER]) == [True, False]


def test_a_stopped_worker_is_killed(puppet: Pool) -> None:
    with ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(signal_running(puppet, signal.SIGSTOP))
        start = time.monotonic()
        assert puppet.decide([sleep(0.5)]) == [None]
        assert time.monotonic() - start < 10  # a worker that is not killed stays for ever
        (pid,) = stopped.result()
    wait_for(lambda: state(pid) == "gone")


def test_queueing_is_not_counted(puppet: Pool) -> None:
    # Four that hang, two at a time, take two deadlines; what waits behind them has its own.
    start = time.monotonic()
    assert puppet.decide([*[SPIN] * 4, sleep(0.5), SAME]) == [*[None] * 4, True, True]
    assert 2.5 <= time.monotonic() - start < 4.0


def test_pairs_run_side_by_side(puppet: Pool) -> None:
    puppet.decide([SAME])
    start = time.monotonic()
    assert puppet.decide([sleep(0.4)] * 4) == [True] * 4
    assert 0.8 <= time.monotonic() - start < 1.3


def test_a_spare_is_ready(puppet: Pool) -> None:
    puppet.decide([SAME])
    wait_for(lambda: len(children(zygote_of(puppet))) == 1)
    puppet.decide([sleep(0.1), SAME, SAME])
    wait_for(lambda: 1 <= len(children(zygote_of(puppet))) <= 3)


def test_the_limits_of_a_worker(puppet: Pool) -> None:
    puppet.decide([SAME])

    def limits() -> dict[str, list[str]]:
        for spare in children(zygote_of(puppet)):
            with suppress(OSError):  # the one that has just answered is about to end
                lines = Path(f"/proc/{spare}/limits").read_text().splitlines()
                found = {line[:25].strip(): line[26:].split()[:2] for line in lines}
                if found.get("Max processes") == ["0", "0"]:  # it is the last that is set
                    return found
        return {}

    found = wait_for(limits)
    assert found["Max address space"] == [str(workers.MEMORY)] * 2
    assert found["Max cpu time"] == ["2", "2"]
    assert found["Max file size"] == found["Max core file size"] == ["0", "0"]


def test_memory_beyond_the_limit_costs_its_pair_alone(judge: Path, puppet: Pool) -> None:
    puppet.deadline = 20.0  # a busy machine gives so much memory slowly
    small = Pool(size=1, memory=200 << 20, deadline=20.0)
    try:
        assert small.decide([("fill", 300 << 20), SAME]) == [None, True]  # type: ignore[list-item]
        assert puppet.decide([("fill", 300 << 20)]) == [False]  # type: ignore[list-item]
    finally:
        small.close()


def test_a_worker_writes_no_file(puppet: Pool, tmp_path: Path) -> None:
    assert puppet.decide([("write", str(tmp_path / "file")), SAME]) == [None, True]
    assert not any(path.stat().st_size for path in tmp_path.glob("file"))


def test_this_process_stays_as_it_is(puppet: Pool) -> None:
    def look() -> tuple[int, int]:
        status = Path("/proc/self/status").read_text()
        size = int(status.split("VmRSS:")[1].split()[0])
        return size, len(list(Path("/proc/self/fd").iterdir()))

    puppet.decide([SAME] * 20)
    size, files = look()
    assert puppet.decide([("die", 9), SPIN, *[SAME] * 150])[2:] == [True] * 150  # type: ignore[list-item]
    grown, more = look()
    assert grown - size < 2000  # KiB
    assert more <= files + 2  # spare workers


def test_the_zygote_imports_sympy_and_little_else(pool: Pool) -> None:
    mapped = Path(f"/proc/{zygote_of(pool)}/maps").read_text()
    assert "python" in mapped
    assert not [name for name in ("torch", "numpy", "gymnasium") if f"/{name}/" in mapped]
    status = Path(f"/proc/{zygote_of(pool)}/status").read_text()
    assert int(status.split("Threads:")[1].split()[0]) == 1


def test_how_fast_a_worker_is_replaced(pool: Pool) -> None:
    def replaced() -> float:
        pool.decide([(X, X)])
        spares = wait_for(lambda: children(zygote_of(pool)))
        kill(*spares)
        start = time.perf_counter()
        pool.decide([(X, X)])
        return 1000 * (time.perf_counter() - start)

    took = sorted(replaced() for _ in range(5))
    pairs = [triangle(n) for n in range(1, 41)]
    start = time.perf_counter()
    assert all(pool.decide(pairs))
    rate = len(pairs) / (time.perf_counter() - start)
    print(f"all workers killed, then a verdict: {took[2]:.1f} ms; {rate:.0f} sums/s, 2 at a time")


# Deaths


def signal_running(pool: Pool, number: int, times: int = 1) -> Callable[[], set[int]]:
    """Make a function that sends a signal to whatever runs, and to what runs in its place."""

    def send() -> set[int]:
        seen: set[int] = set()
        while times > len(seen):
            fresh = set(running(pool)) - seen
            kill(*fresh, number=number)
            seen |= fresh
            time.sleep(0.002)
        return seen

    return send


def test_a_worker_killed_in_the_middle_of_a_batch_costs_a_retry(patient: Pool) -> None:
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(signal_running(patient, signal.SIGKILL))
        assert patient.decide([area(n) for n in range(2, 6)]) == [True] * 4
        assert killed.result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_only_the_pair_is_tried_again(number: int, puppet: Pool) -> None:
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(signal_running(puppet, number))
        assert puppet.decide([sleep(0.3), SAME, OTHER, sleep(0.3)]) == [True, True, False, True]
        assert killed.result()


def test_a_pair_that_kills_its_workers_is_tried_twice(puppet: Pool, tmp_path: Path) -> None:
    puppet.decide([SAME])
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(signal_running(puppet, signal.SIGKILL, times=2))
        start = time.monotonic()
        assert puppet.decide([sleep(60)]) == [None]
        assert time.monotonic() - start < 0.9  # no third
        assert len(killed.result()) == 2
    assert puppet.decide([("die", signal.SIGSEGV), SAME]) == [None, True]  # type: ignore[list-item]


def test_what_raises_stays_open_at_once(puppet: Pool) -> None:
    puppet.decide([SAME])
    start = time.monotonic()
    assert puppet.decide([("fail", 0.6), SAME]) == [None, True]  # type: ignore[list-item]
    assert time.monotonic() - start < 1.1  # not tried again, as what dies would be


def test_a_late_retry_has_no_full_deadline(puppet: Pool) -> None:
    puppet.decide([SAME])

    def kill_late() -> None:
        (pid,) = wait_for(lambda: running(puppet))
        time.sleep(0.8)
        kill(pid)

    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(kill_late)
        start = time.monotonic()
        assert puppet.decide([SPIN]) == [None]
        assert time.monotonic() - start < 1.5
        late.result()


def test_an_idle_worker_that_was_killed_is_no_try(puppet: Pool) -> None:
    puppet.decide([SAME])
    spares = wait_for(lambda: children(zygote_of(puppet)))
    kill(*spares)
    wait_for(lambda: all(state(pid) == "gone" for pid in spares))
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(signal_running(puppet, signal.SIGKILL))
        assert puppet.decide([sleep(0.2)]) == [True]
        assert killed.result()


def test_the_zygote_is_rebuilt(puppet: Pool) -> None:
    puppet.decide([SAME])
    first = zygote_of(puppet)
    os.kill(first, signal.SIGKILL)
    assert puppet.decide([SAME, OTHER]) == [True, False]
    assert zygote_of(puppet) != first
    assert state(first) == "gone"  # reaped


def test_a_zygote_that_dies_in_the_middle_costs_a_retry(puppet: Pool) -> None:
    puppet.decide([SAME])
    before = zygote_of(puppet)

    def kill() -> set[int]:
        pids = set(wait_for(lambda: running(puppet)))
        time.sleep(0.7)  # what has a deadline of its own after that
        os.kill(before, signal.SIGKILL)
        return pids

    with ThreadPoolExecutor(1) as threads:
        orphans = threads.submit(kill)
        assert puppet.decide([sleep(0.8), SAME, sleep(0.8)]) == [True] * 3
    assert zygote_of(puppet) != before
    wait_for(lambda: all(state(pid) in ("gone", "Z") for pid in orphans.result()))


def test_workers_die_with_their_zygote(puppet: Pool) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(puppet.decide, [sleep(60)])
        pids = wait_for(lambda: running(puppet))
        time.sleep(0.1)
        kill(zygote_of(puppet))
        wait_for(lambda: all(state(pid) in ("gone", "Z") for pid in pids), seconds=1)
        assert asked.result() == [None]


def test_a_zygote_that_dies_again_and_again_is_told(puppet: Pool) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.002):
            if running(puppet) and puppet._zygote:
                os.kill(zygote_of(puppet), signal.SIGKILL)

    with ThreadPoolExecutor(1) as threads:
        killing = threads.submit(kill)
        try:
            with pytest.raises(GrpoEnvsError, match=r"^the workers of sympy_equal died 3 times\.$"):
                puppet.decide([sleep(0.5)])
        finally:
            stop.set()
        killing.result()
    assert puppet.decide([SAME]) == [True]


def test_no_zombie_stays(puppet: Pool) -> None:
    puppet.decide([SPIN, *[SAME] * 8])
    first = zygote_of(puppet)
    wait_for(lambda: {state(pid) for pid in children(first)} <= {"S"})
    family = children(first) | {first}
    puppet.close()
    assert state(first) == "gone"
    wait_for(lambda: {state(pid) for pid in family} <= {"gone", "Z"})  # init's, if any
    assert puppet.decide([SAME]) == [True]  # closing is not for ever


def test_ctrl_c_in_the_middle_leaves_a_pool_that_works(puppet: Pool) -> None:
    def interrupt() -> None:
        wait_for(lambda: running(puppet))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background: ignored
    try:
        with ThreadPoolExecutor(1) as threads:
            interrupted = threads.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                puppet.decide([sleep(0.5)])
            interrupted.result()
    finally:
        signal.signal(signal.SIGINT, before)
    # The verdict that was not waited for is nobody's.
    assert puppet.decide([OTHER, sleep(0.7)]) == [False, True]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        pytest.param("import sys; sys.exit(3)", "it ended", id="that ends at once"),
        pytest.param(
            "import socket, sys; s = socket.socket(fileno=int(sys.argv[2])); s.send(b'ENo such')",
            "No such",
            id="that says why",
        ),
    ],
)
def test_a_zygote_that_cannot_start_is_one_line(
    program: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(zygote, "PROGRAM", tmp_path / "program.py")
    with pytest.raises(GrpoEnvsError) as caught:
        Pool().decide([SAME])
    assert str(caught.value) == f"the math grader's workers cannot be started: {why}."


def test_a_missing_interpreter_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(
        GrpoEnvsError, match=r"^the math grader's workers cannot be started: .*No such"
    ):
        Pool().decide([SAME])


def test_a_missing_sympy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "find_spec", lambda name: None)
    with pytest.raises(GrpoEnvsError, match=r"^sympy is not installed: pip install sympy\.$"):
        Pool().decide([SAME])


# Callers


def test_threads_take_turns(puppet: Pool) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda n: puppet.decide([SAME, (n, 0)]), range(8))  # type: ignore[list-item]
    assert list(found) == [[True, n == 0] for n in range(8)]


def test_a_thread_that_ends_takes_no_worker_with_it(puppet: Pool) -> None:
    thread = threading.Thread(target=puppet.decide, args=([SAME],))
    thread.start()
    thread.join()
    first = zygote_of(puppet)
    time.sleep(0.1)
    assert puppet.decide([SAME]) == [True]
    assert zygote_of(puppet) == first


def test_coroutines(pool: Pool) -> None:
    async def both() -> list[list[bool | None]]:
        inside = pool.decide([triangle(3), (HANGS, FIVE)])
        beside = await asyncio.gather(
            *(asyncio.to_thread(pool.decide, [triangle(n)]) for n in (4, 5))
        )
        return [inside, *beside]

    assert asyncio.run(both()) == [[True, None], [True], [True]]


def test_prepare_starts_one_zygote(puppet: Pool) -> None:
    puppet.prepare()
    first = zygote_of(puppet)
    puppet.prepare()
    assert puppet.decide([SAME]) == [True]
    assert zygote_of(puppet) == first


# Other processes: programs, because a fork of a test process with threads is an error in itself

HEAD = """
import os, sys, threading, time
from pathlib import Path
from grpo_envs.graders.math import workers, zygote
if len(sys.argv) > 1:
    zygote.PROGRAM = Path(sys.argv[1])
SAME, SPIN = (1, 1), ("spin", 0)
def zygote_pid():
    return workers._POOLS["sympy_equal"]._zygote.process.pid
"""


def start(body: str, *arguments: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", HEAD + body, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(body: str, *arguments: Path) -> list[str]:
    """Run a program that must end well and in silence; return what it prints."""
    with start(body, *arguments) as process:
        out, err = process.communicate("all of the input", timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


def test_an_end_without_noise_that_leaves_nothing() -> None:
    # With sympy: this process has not imported it, and nobody else has read its input.
    pid, files, modules, rest = run("""
x = ("var", "x")
assert workers.decide([(x, x), (x, ("num", "1"))]) == [True, False]
print(zygote_pid())
print(*{os.readlink(f"/proc/{zygote_pid()}/fd/{number}") for number in range(3)})
print(*{"sympy", "mpmath", "torch"} & {*sys.modules})
print(sys.stdin.read())
""")
    assert files == "/dev/null"
    assert (modules, rest) == ("", "all of the input")
    assert state(int(pid)) == "gone"  # ended and reaped by its parent, not by the system after it


def test_an_end_while_a_daemon_thread_asks(judge: Path) -> None:
    (pid,) = run(
        """
threading.Thread(target=workers.decide, args=([SPIN] * 9,), daemon=True).start()
time.sleep(0.5)
print(zygote_pid())
""",
        judge,
    )
    wait_for(lambda: state(int(pid)) in ("gone", "Z"))


def test_a_forked_child_starts_its_own(judge: Path) -> None:
    (pid,) = run(
        """
workers.decide([SAME])
mine = zygote_pid()
child = os.fork()
if child == 0:
    assert workers._POOLS["sympy_equal"]._zygote is None
    assert workers.decide([SAME, SPIN]) == [True, None]
    assert zygote_pid() != mine
    print(zygote_pid(), flush=True)
    os._exit(0)
assert workers.decide([SAME] * 50) == [True] * 50
assert zygote_pid() == mine
assert os.waitpid(child, 0)[1] == 0
assert workers.decide([SAME, SPIN]) == [True, None]
""",
        judge,
    )
    wait_for(lambda: state(int(pid)) in ("gone", "Z"))


def test_a_fork_in_the_middle_of_a_batch(judge: Path) -> None:
    run(
        """
thread = threading.Thread(target=workers.decide, args=([("sleep", 0.3)] * 4,))
thread.start()
time.sleep(0.3)
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of 3.12: what is forked with threads may deadlock
    child = os.fork()
if child == 0:
    os._exit(workers.decide([SAME] * 3) != [True] * 3)
assert os.waitpid(child, 0)[1] == 0
thread.join()
assert workers.decide([SAME]) == [True]
""",
        judge,
    )


def test_a_parent_that_is_killed_leaves_nothing(judge: Path) -> None:
    with start(
        "print(workers.prepare() or zygote_pid(), flush=True)\nworkers.decide([SPIN] * 9)", judge
    ) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        family = wait_for(lambda: len(found := children(pid)) >= 2 and found | {pid})
        process.kill()
        process.wait(timeout=10)
        wait_for(lambda: {state(pid) for pid in family} <= {"gone", "Z"}, seconds=3)


def test_a_child_that_outlives_its_parent_keeps_no_zygote_alive(judge: Path) -> None:
    body = """
workers.decide([SAME])
child = os.fork()
if child == 0:
    time.sleep(60)
print(zygote_pid(), child, flush=True)
time.sleep(60)
"""
    with start(body, judge) as process:
        assert process.stdout
        pid, child = map(int, process.stdout.readline().split())
        process.kill()
        process.wait(timeout=10)
        try:
            wait_for(lambda: state(pid) in ("gone", "Z"), seconds=3)
            assert state(child) not in ("gone", "Z")
        finally:
            os.kill(child, signal.SIGKILL)
