"""Two zygotes in a worker: which one a program runs in costs time, and changes nothing."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grpo_envs.sandbox import Calls, Limits, LocalPool, Returned, acts
from grpo_envs.sandbox.preload import RARE, names_any
from grpo_envs.sandbox.worker import Setting, Worker, payload

pytest.importorskip("numpy")
LIMITS = Limits(wall_s=5.0, cpu_s=2, memory_mib=256)
HIDDEN = "__import__('num' + 'py')"  # not to be guessed from the text
LIGHT, FULL = "", "# import numpy\n"
KINDS = pytest.mark.parametrize("kind", [LIGHT, FULL], ids=["light", "full"])


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(workers=1, level="confined")
    yield pool
    pool.close()


def judged(pool: LocalPool, program: str, *lines: str) -> tuple[bool, str]:
    tests = "\n    ".join(("def check(candidate):", *lines))
    verdict = pool.judge(program, tests=tests, entry_point="f", limits=LIMITS)
    return verdict.passed, verdict.error


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import numpy", True),
        ("import math, numpy as np", True),
        ("def f():\n    from numpy.linalg import norm", True),
        ("import statistics", True),
        ("print(1)", False),
        ("import math", False),
        ("import numpydoc", False),
        ("numpy = 1", False),
    ],
)
def test_what_a_program_seems_to_import(text: str, named: bool) -> None:
    assert names_any(text, (*RARE, "numpy")) == named


@KINDS
@pytest.mark.parametrize("name", [*RARE, "random", "json", "uuid", "pprint"])
def test_the_standard_library_is_there(pool: LocalPool, kind: str, name: str) -> None:
    hidden = " + ".join(map(repr, name))
    result = pool.run(f"{kind}print(__import__({hidden}).__name__)", limits=LIMITS)
    assert (result.status, result.stdout) == ("ok", f"{name}\n")


def test_the_light_one_has_no_packages_and_the_full_one_has(pool: LocalPool) -> None:
    program = "import sys\nprint('numpy' in sys.modules)"
    assert pool.run(LIGHT + program).stdout == "False\n"
    assert pool.run(FULL + program).stdout == "True\n"


def test_a_package_that_was_not_guessed(pool: LocalPool) -> None:
    text = f"print('once', input())\nprint({HIDDEN}.arange(3))"
    result = pool.run(text, stdin="in", limits=LIMITS)
    assert (result.status, result.stdout, result.stderr) == ("ok", "once in\n[0 1 2]\n", "")
    caught = f"try: print({HIDDEN}.pi > 3)\nexcept BaseException: print('none')"
    assert pool.run(caught, limits=LIMITS).stdout == "True\n"
    late = f"def f(x): return int({HIDDEN}.sum([x, 1])) if x else 0"
    values = pool.run(late, calls=Calls(entry_point="f", args=[[0], [2]]), limits=LIMITS).values
    assert values == (Returned(value=0), Returned(value=3))


@pytest.mark.parametrize(
    "program",
    [
        f"numpy = {HIDDEN}\ndef f(x): return int(numpy.sum(x))",
        f"def f(x): return int({HIDDEN}.sum(x))",
    ],
    ids=["at once", "late"],
)
@pytest.mark.parametrize(
    "lines",
    [
        ["assert candidate([1, 2]) == 3"],
        ["try: y = candidate([1, 2])", "except: y = 0", "assert y == 3"],
        [f"assert candidate([1, 2]) == {HIDDEN}.sum([1, 2])"],
    ],
    ids=["plain", "tests that catch all", "in the tests too"],
)
def test_a_package_that_was_not_guessed_is_judged(
    pool: LocalPool, program: str, lines: list[str]
) -> None:
    assert judged(pool, program, *lines) == (True, "")
    assert not judged(pool, program, *lines, "assert False")[0]


@KINDS
@pytest.mark.parametrize("name", ["pytest", "no_such_package"])
def test_a_package_that_is_not_there(pool: LocalPool, kind: str, name: str) -> None:
    result = pool.run(f"{kind}import {name}", limits=LIMITS)
    assert result.status == "error"
    assert result.stderr.endswith(f"ModuleNotFoundError: No module named '{name}'\n")


def test_what_is_nowhere_is_not_looked_for_in_the_other(pool: LocalPool) -> None:
    text = "import sys\ntry: import no_such_package\nexcept ImportError: pass"
    text += "\nprint('numpy' in sys.modules)"
    assert pool.run(text, limits=LIMITS).stdout == "False\n"


def test_its_exit_code_is_an_error_like_others(pool: LocalPool) -> None:
    result = pool.run("import os; os.write(1, b'1'); os._exit(87)", limits=LIMITS)
    assert (result.status, result.stdout) == ("error", "1")


@pytest.mark.slow
def test_the_longest_second_run_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_envs.sandbox.worker._HUNG", 2.0)
    pool = LocalPool(workers=1, level="confined")
    try:
        limits = Limits(wall_s=3.0, cpu_s=2)
        text = "import os, sys, time\ntime.sleep(2.5 if 'numpy' not in sys.modules else 60)\n"
        assert pool.run(f"{text}os._exit(87)", limits=limits).status == "wall"
    finally:
        pool.close()


def test_a_wrong_answer_gets_no_second_try(pool: LocalPool) -> None:
    """A program may see that no call follows its answer, and ask for another run then."""
    program = (
        "import os, sys, threading\n"
        "def f(x):\n"
        "    if 'numpy' in sys.modules: return 1\n"
        "    threading.Timer(0.02, os._exit, [87]).start()\n"
        "    return 0\n"
    )
    slow = "import time; time.sleep(0.2)"  # the program is gone when the verdict comes
    assert not judged(pool, program, "y = candidate(1)", slow, "assert y == 1")[0]
    assert judged(pool, FULL + program, "y = candidate(1)", slow, "assert y == 1")[0]


@pytest.mark.parametrize("ending", ["os._exit(0)", "os._exit(87)", "os.close(4)"])
@KINDS
def test_tests_that_catch_all_do_not_hide_an_end(pool: LocalPool, ending: str, kind: str) -> None:
    program = f"{kind}import os\ndef f(x): {ending}"
    found = judged(pool, program, "try: candidate(1)", "except: pass")
    assert found == (False, "the program ended, or did not answer by the rules")


def test_chance_is_the_same_in_both(pool: LocalPool) -> None:
    text = "import random\nprint(random.random(), hash('a'), list({'x', 'y', 'z'}))"
    results = [pool.run(kind + text).stdout for kind in (LIGHT, FULL, LIGHT, FULL)]
    assert len(set(results)) == 1
    assert results[0]


@KINDS
def test_both_are_confined_alike(pool: LocalPool, kind: str) -> None:
    """Each act of the self-test is refused in both, as the same error."""
    text = f"{kind}import os\nfor act in (os.fork, lambda: os.kill(os.getppid(), 0), os.listdir):\n"
    text += "    try: act(); print('done')\n    except OSError as e: print(e.errno)"
    assert pool.run(text, limits=LIMITS).stdout == "1\n1\n13\n"


def test_the_self_test_tries_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only one of them lets through is found."""
    setting = Setting(level="confined", preload=("numpy",))
    real = Worker.ask
    assert not any(result.problem for result in acts.trial(setting))
    for leaky in (False, True):

        def ask(self, limits, blobs, *, judge, full, leaky=leaky):  # type: ignore[no-untyped-def]
            if full == leaky and b"os.fork()" in blobs[0]:
                blobs = [payload(program="", entry_point="", calls=None), b""]
            return real(self, limits, blobs, judge=judge, full=full)

        monkeypatch.setattr(Worker, "ask", ask)
        problems = {result.act: result.problem for result in acts.trial(setting)}
        assert [act for act, problem in problems.items() if problem] == ["fork"]


@KINDS
def test_a_killed_zygote_is_replaced(kind: str) -> None:
    pool = LocalPool(workers=1, level="confined")
    try:
        assert pool.run(f"{kind}print(1)").stdout == "1\n"
        (worker,) = pool._workers
        keeper = worker.process.pid
        zygotes = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        assert len(zygotes) == 2
        os.kill(int(zygotes[bool(kind)]), signal.SIGKILL)
        time.sleep(0.1)
        assert [pool.run(f"{kind}print({n})").stdout for n in range(3)] == ["0\n", "1\n", "2\n"]
    finally:
        pool.close()
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in zygotes)


def helpers(pid: int, name: str) -> list[int]:
    """The processes below one that run a program of this name."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    below = [int(child) for task in tasks for child in task.read_text().split()]
    here = [child for child in below if name in Path(f"/proc/{child}/cmdline").read_text()]
    return here + [found for child in below for found in helpers(child, name)]


@pytest.mark.parametrize("victim", ["keeper.py", "zygote.py"])
def test_helpers_that_were_all_killed_cost_no_answer(
    victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While nothing is asked, as by the kernel for want of memory."""
    pool = LocalPool(workers=4, level="confined")
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(pool.run, ["import time; time.sleep(0.5)"] * 4))
            assert len(pool._workers) == 4
            for pid in helpers(os.getpid(), victim):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
            results = list(threads.map(pool.run, ["print(1)"] * 4))
        assert [result.stdout for result in results] == ["1\n"] * 4
        assert [pool.run(f"print({n})").stdout for n in range(8)] == [f"{n}\n" for n in range(8)]
        assert len(pool._workers) <= 4
    finally:
        pool.close()
    assert "; a new worker runs the program again" in caplog.text
