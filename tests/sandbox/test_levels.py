"""Every level for every kind of user, and machines that lack something."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from grpo_envs.sandbox import Limits, LocalPool, SandboxUnavailable, acts, levels, worker
from grpo_envs.sandbox.acts import trial
from grpo_envs.sandbox.probes import bwrap_path, probe_all
from tests.sandbox.test_pool import alive, children, soon, zygotes
from tests.support.hostile_programs import HARM

ROOT = Path(__file__).parents[2]
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
ACTS = 8

# What is asked of a level in another process, where grpo_envs is a bare copy of the sandbox.
REPORT = """
import json, os, sys
from grpo_envs.sandbox import Calls, Limits, LocalPool, SandboxError
from grpo_envs.sandbox.acts import trial
level, bomb = sys.argv[1:]
pool = LocalPool(workers=1, level=level, preload=())
try:
    setting = pool.setting
except SandboxError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
limits = Limits(wall_s=1.0, cpu_s=2, memory_mib=512, threads=16)
calls = Calls(entry_point="f", args=[[5]])
late = "import sqlite3, ssl, decimal, os\\ndef f(x): return os.getuid()"
tests = "def check(candidate): assert candidate(2) == 4"
harm = pool.run(bomb, limits=limits)
def zygote():
    (keeper,) = [worker.process.pid for worker in pool._workers]
    with open(f"/proc/{keeper}/task/{keeper}/children") as file:
        return int(file.read())
print(json.dumps({
    "level": pool.level,
    "owner": os.stat(f"/proc/{zygote()}/environ").st_uid,
    "problems": [f"{f.act}: {f.problem}" for f in trial(setting) if f.problem],
    "bomb": [harm.status, harm.wall_s],
    "uid": pool.run(late, calls=calls).values[0].value,
    "judged": pool.judge("def f(x): return x * 2", tests=tests, entry_point="f").passed,
    "many": pool.run(
        "import threading as t\\nx = [t.Thread(target=print) for _ in range(12)]\\n"
        "for y in x: y.start()", limits=limits).status,
}))
"""


def reachable(path: Path) -> bool:
    """Whether a user that owns nothing can run what is there."""
    real = path.resolve()
    return all(p.stat().st_mode & 0o5 == 0o5 or p.stat().st_mode & 1 for p in [real, *real.parents])


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that nobody can run: this one, or the system's."""
    version = "import sys; sys.exit(sys.version_info < (3, 11))"
    for candidate in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if candidate and reachable(Path(candidate)):
            done = subprocess.run([candidate, "-c", version], check=False, env={})
            if done.returncode == 0:
                return candidate
    pytest.skip("no Python 3.11 that other users can run")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sandbox that everybody can read, without the rest of the package."""
    top = tmp_path_factory.mktemp("bare")
    for folder in (top, *top.parents):  # pytest's own are 0700
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    package = top / "grpo_envs"
    shutil.copytree(ROOT / "grpo_envs" / "sandbox", package / "sandbox")
    (package / "runtime").mkdir()
    for name in (
        "errors.py",
        *(f"runtime/{name}.py" for name in ("launch", "progress", "terminal")),
    ):
        shutil.copy(ROOT / "grpo_envs" / name, package / name)
    for folder in (package, package / "runtime"):
        (folder / "__init__.py").touch()
    for path in top.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return top


def bomb() -> str:
    return next(hostile for hostile in HARM if hostile.name == "thread bomb").program


def report(command: list[str], bare: Path, level: str, **how: Any) -> dict[str, Any]:
    environment = {"PYTHONPATH": str(bare), "PATH": f"{os.environ['PATH']}:/usr/bin:/bin"}
    if path := bwrap_path():
        environment["PATH"] += f":{Path(path).parent}"
    done = subprocess.run(
        [*command, "-c", how.pop("script", REPORT), level, bomb()],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        check=False,
        timeout=60,
        **how,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


USERS = [
    pytest.param(0, id="root", marks=AS_ROOT),
    pytest.param(NOBODY, id="nobody", marks=AS_ROOT),
    pytest.param(None, id="whoever we are"),
]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["confined", "bubblewrap"])
@pytest.mark.parametrize("user", USERS)
def test_a_level_holds_for_every_user(
    python: str, bare: Path, user: int | None, level: str
) -> None:
    how = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    found = report([python], bare, level, **how)
    if level == "bubblewrap" and "refused" in found:
        pytest.skip(found["refused"])
    assert found["level"] == level
    assert found["problems"] == []
    assert found["bomb"][0] in ("killed", "wall", "cpu", "memory")
    assert found["bomb"][1] < 5.0  # of a busy machine
    if level == "confined":  # else the keeper's child is bwrap
        assert found["owner"] == 0, "its memory is open to others of its user"
    assert found["judged"]
    assert found["many"] == "ok"
    if level == "confined" and (user == 0 or (user is None and os.geteuid() == 0)):
        assert found["uid"] > 1 << 30, "a user of its own"


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: rest.strip() for key, _, rest in (line.partition(":") for line in lines)}


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A child that sleeps in the sandbox."""
    pool = LocalPool(workers=1, level="confined", preload=())
    pool.run("pass")
    sleep = "import time; time.sleep(1)"
    thread = Thread(target=lambda: pool.run(sleep, limits=Limits(wall_s=2.0, open_files=17)))
    thread.start()
    (zygote,) = zygotes(pool)
    assert soon(lambda: bool(children(zygote)))
    (pid,) = children(zygote)
    assert soon(lambda: status(pid)["Seccomp_filters"] == "2")  # its own, and the zygote's
    yield pid
    thread.join()
    pool.close()


def test_what_the_kernel_says_of_a_child(sleeper: int) -> None:
    fields = status(sleeper)
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert fields["Seccomp_filters"] == "2"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[kind], 16) == 0
    limits = Path(f"/proc/{sleeper}/limits").read_text().splitlines()
    hard = {line[:26].strip(): line[26:].split()[1] for line in limits[1:]}
    assert hard["Max file size"] == hard["Max core file size"] == hard["Max locked memory"] == "0"
    assert hard["Max cpu time"] == "6"
    assert hard["Max open files"] == "17"
    assert 1 << 30 < int(hard["Max address space"]) < 3 << 30


def test_a_child_holds_only_its_own_descriptors(sleeper: int) -> None:
    found = {int(link.name): str(link.readlink()) for link in Path(f"/proc/{sleeper}/fd").iterdir()}
    assert set(found) == {0, 1, 2, 4}
    assert found[0].startswith("/memfd:")
    assert all(found[number].startswith("pipe:") for number in (1, 2, 4))


# Machines that lack something: a filter in front makes system calls fail.

FRONT = """
import ctypes, os, struct, sys
from grpo_envs.sandbox import confine
from grpo_envs.sandbox.seccomp import ALLOW, ANY_BIT, EQUAL, LOAD, RETURN, assemble, refuse
EPERM, ENOSYS = 1, 38
def block(number, error):
    return [(EQUAL, 0, 1, number), (RETURN, 0, 0, refuse(error))]
listed = [(LOAD, 0, 0, 0)]
for number, error in LACKING.items():
    listed += block(number, error)
listed += [
    (EQUAL, 0, 3, CLONE), (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, 0x7E020000),
    (RETURN, 0, 0, refuse(EPERM)), (RETURN, 0, 0, ALLOW),
]
confine.no_new_privileges()
confine.seccomp(assemble(listed))
"""
if os.uname().machine == "aarch64":
    CLONE, NAMESPACES, LANDLOCK, SECCOMP = 220, [97, 268, 40, 41, 39], [444, 445, 446], [277]
else:
    CLONE, NAMESPACES, LANDLOCK, SECCOMP = 56, [272, 308, 165, 155, 166], [444, 445, 446], [317]


def lacking(numbers: list[int], error: int) -> str:
    calls = {**dict.fromkeys(numbers, error), 435: 38}
    return f"CLONE = {CLONE}\nLACKING = {calls}\n{FRONT}\n{REPORT}"


def test_a_container_without_namespaces_is_confined(bare: Path) -> None:
    """Docker's default profile: no unshare, mount or new namespaces, and clone3 does not exist."""
    script = lacking(NAMESPACES, 1)
    found = report([sys.executable], bare, "auto", script=script)
    assert found["level"] == "confined"
    assert found["problems"] == []
    assert found["judged"]
    refused = report([sys.executable], bare, "bubblewrap", script=script)["refused"]
    assert refused.startswith("no isolation works here. bubblewrap: ")
    assert "user namespaces: refused (" in refused


def test_without_landlock_there_is_no_safe_level(bare: Path) -> None:
    script = lacking(LANDLOCK, 38)
    refused = report([sys.executable], bare, "auto", script=script)["refused"]
    assert "Landlock: none (Linux 5.13 or newer" in refused
    assert "confined: " in refused
    assert "bubblewrap: " in refused
    assert "\n" not in refused
    assert report([sys.executable], bare, "unsafe", script=script)["level"] == "unsafe"


def test_without_seccomp_there_is_no_safe_level(bare: Path) -> None:
    # The front filter itself is installed before it takes seccomp(2) away.
    refused = report([sys.executable], bare, "auto", script=lacking(SECCOMP, 38))["refused"]
    assert "seccomp: none" in refused


def test_an_architecture_without_a_table(bare: Path) -> None:
    """The kernel's 32-bit personality changes what the machine is called."""
    script = f"import ctypes; ctypes.CDLL(None).personality(8)\n{REPORT}"
    refused = report([sys.executable], bare, "auto", script=script)["refused"]
    assert "no table of system calls for " in refused
    assert "run on Linux on x86_64 or aarch64" in refused


@pytest.mark.parametrize("level", ["unsafe", "degraded"])
def test_levels_that_must_be_asked_for_have_limits_only(level: str, tmp_path: Path) -> None:
    pool = LocalPool(workers=1, level=level, preload=())
    limits = Limits(wall_s=0.5, memory_mib=256)
    try:
        assert pool.level == level
        assert pool.run(f"print(open({str(ROOT / 'README.md')!r}).read(1))").stdout == "#\n"
        assert (
            pool.run(f"with open({str(tmp_path / 'x')!r}, 'w') as f: f.write('x')").status
            == "error"
        )
        assert pool.run("bytearray(1 << 40)", limits=limits).status == "memory"
        forked = "import os, time\nif not os.fork():\n    os.setsid()\n    os.system('echo $PPID')"
        result = pool.run(f"{forked}\ntime.sleep(99)", limits=limits)
        assert result.status == "wall"
        assert soon(lambda: not alive(int(result.stdout)))
    finally:
        pool.close()


def test_auto_never_chooses_them() -> None:
    assert levels.SAFE == ("bubblewrap", "confined")


@pytest.mark.parametrize("act", acts._ACTS)
def test_the_self_test_sees_every_act(act: str) -> None:
    """At a level that forbids nothing each is done, or at least not refused as it should be."""
    results = {f.act: f.problem for f in trial(worker.Setting(level="unsafe"))}
    if act == "write a file":
        pytest.skip("refused by a limit on file sizes at every level")
    assert results[act]


def test_the_self_test_is_fast_and_complete() -> None:
    began = time.monotonic()
    results = trial(worker.Setting(level="confined"))
    assert time.monotonic() - began < 20  # on a busy machine: 5
    assert len(results) == ACTS + 2
    assert not any(result.problem for result in results)


def test_a_failed_self_test_makes_a_level_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    result = acts.ActResult(act="fork", expected="refused", problem="ok: it was done")
    monkeypatch.setattr(levels, "trial", lambda setting: [result])
    monkeypatch.setattr(levels, "_PROVEN", {})
    with pytest.raises(SandboxUnavailable, match="self-test failed: fork: ok: it was done"):
        LocalPool(level="confined").run("pass")


def test_every_probe_has_a_remedy() -> None:
    probes = probe_all()
    assert len(probes) == 6
    assert all(probe.remedy and probe.found and probe.needed for probe in probes)


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grpo_envs.sandbox", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_command_tells_what_there_is() -> None:
    done = run_command()
    assert done.returncode == 0, done.stderr
    for word in ("Landlock", "seccomp", "user namespaces", "bwrap", "cgroup", "level=auto is"):
        assert word in done.stdout
    for act in acts._ACTS:
        assert act in done.stdout


def test_the_command_fails_where_no_safe_level_is_there() -> None:
    done = run_command("--level=unsafe")
    assert done.returncode == 1
    assert run_command("--level=unsaef").returncode == 1
