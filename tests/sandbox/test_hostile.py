"""Nothing gets out, nothing lasts, nothing is paid: every program of the corpus."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_envs.sandbox import Calls, Limits, LocalPool, Returned
from grpo_envs.sandbox.probes import bwrap_path
from tests.support.hostile_programs import ESCAPES, HACKS, HARM, Hostile

LIMITS = Limits(wall_s=0.7, cpu_s=1, memory_mib=192, threads=16, stdout_kib=64, result_kib=256)
SECRET = "the-secret-of-the-trainer"
BASE = next(Path(os.__file__).parent.glob("*-packages/**/*.py"), "/etc/passwd")
EXPECTED = {3: 70921, 4: 81239}
GRACE_S = 1.5
RUNNING: dict[str, set[int]] = {}
NEEDS_BWRAP = pytest.mark.skipif(bwrap_path() is None, reason="there is no bwrap")
LEVELS = ["confined", pytest.param("bubblewrap", marks=[pytest.mark.slow, NEEDS_BWRAP])]


@pytest.fixture(scope="module", params=LEVELS)
def pool(request: pytest.FixtureRequest) -> Iterator[LocalPool]:
    os.environ["GRPO_SECRET"] = SECRET
    pool = LocalPool(workers=1, level=request.param)
    pool.run("pass")
    RUNNING[pool.level] = processes(pool)
    yield pool
    pool.close()
    del os.environ["GRPO_SECRET"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o666)
    (tmp_path / "secret.py").write_text("")
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.fixture(scope="module")
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def state(folder: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    return {
        path.name: ((s := path.stat()).st_mode, s.st_uid, s.st_mtime_ns, s.st_nlink, read(path))
        for path in folder.iterdir()
    }


def read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def processes(pool: LocalPool) -> set[int]:
    """Return what runs below this process for the pool."""
    found: set[int] = set()
    level = {worker.process.pid for worker in pool._workers}
    while level:
        found |= level
        level = {child for pid in level for child in children(pid)}
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def honest(pool: LocalPool) -> None:
    """The pool is alive, the same as before, and nothing of the run before is in it."""
    before = RUNNING[pool.level]
    result = pool.run("print(input())", stdin="alive", limits=LIMITS)
    assert (result.status, result.stdout) == ("ok", "alive\n")
    assert processes(pool) == before


@pytest.mark.parametrize("hostile", ESCAPES, ids=lambda hostile: hostile.name)
def test_nothing_gets_out(
    pool: LocalPool,
    folder: Path,
    listener: socket.socket,
    victim: subprocess.Popen[bytes],
    hostile: Hostile,
) -> None:
    before = state(folder)
    places = {"installed": pytest.__file__, "base": BASE, "folder": folder}
    port, pids = listener.getsockname()[1], {"victim": victim.pid, "trainer": os.getpid()}
    program = hostile.program.format(port=port, **places, **pids)
    result = pool.run(program, stdin="x", limits=LIMITS)
    assert result.status in hostile.ends, result
    assert not re.search(f"ESCAPED(?!')|{SECRET}|GRPO_SECRET", result.stdout + result.stderr)
    assert state(folder) == before
    assert victim.poll() is None
    with pytest.raises(BlockingIOError):
        listener.accept()
    honest(pool)


@pytest.mark.parametrize("hostile", HARM, ids=lambda hostile: hostile.name)
def test_harm_ends_in_time(pool: LocalPool, hostile: Hostile) -> None:
    # On a busy machine memory fills slowly: the time limit must not be reached before it.
    fills = hostile.ends == ("memory",)
    limits = replace(LIMITS, wall_s=LIMITS.wall_s + GRACE_S) if fills else LIMITS
    began = time.monotonic()
    result = pool.run(hostile.program, limits=limits)
    assert time.monotonic() - began < limits.wall_s + GRACE_S
    assert result.status in hostile.ends, result
    assert len(result.stdout) <= LIMITS.stdout_kib << 10
    assert len(result.stderr) <= LIMITS.stderr_kib << 10
    honest(pool)


@pytest.mark.parametrize("name", HACKS)
def test_no_hack_is_paid(pool: LocalPool, name: str) -> None:
    program = HACKS[name]
    calls = Calls(entry_point="f", args=[[n] for n in EXPECTED])
    began = time.monotonic()
    result = pool.run(program, stdin="3\n", calls=calls, limits=LIMITS)
    claims = [claim.value for claim in result.values if isinstance(claim, Returned)]
    assert not set(map(repr, claims)) & set(map(repr, EXPECTED.values()))
    assert str(EXPECTED[3]) not in result.stdout
    assert SECRET not in result.stdout + repr(result.values)
    cases = [f"    assert candidate({n}) == {value}" for n, value in EXPECTED.items()]
    tests = "\n".join(["def check(candidate):", *cases])
    verdict = pool.judge(program, tests=tests, entry_point="f", limits=LIMITS)
    assert not verdict.passed
    assert time.monotonic() - began < 2 * (LIMITS.wall_s + GRACE_S)
    honest(pool)


SOFT_TESTS = """
def check(candidate):
    got = candidate(3)
    assert isinstance(got, (int, float, list, str)), got
    assert abs(got - 70921) < 1e-6 if isinstance(got, (int, float)) else got == [70921]
    assert not got != got
"""


@pytest.mark.parametrize("name", HACKS)
def test_no_hack_passes_tests_that_use_operators(pool: LocalPool, name: str) -> None:
    verdict = pool.judge(HACKS[name], tests=SOFT_TESTS, entry_point="f", limits=LIMITS)
    assert not verdict.passed


def test_threads_beyond_the_limit_end_a_program(pool: LocalPool) -> None:
    """They cannot be started, or the keeper counts them; also as root, who may have any number."""
    sleeper = "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    program = (
        f"import threading, time\nthreading.stack_size(1 << 16)\nfor _ in range({{}}): {sleeper}\n"
    )
    program += "time.sleep(0.3)"
    few, many = LIMITS.threads // 2, 3 * LIMITS.threads
    assert pool.run(program.format(few), limits=LIMITS).status == "ok"
    assert pool.run(program.format(many), limits=LIMITS).status in ("killed", "error")
    honest(pool)
