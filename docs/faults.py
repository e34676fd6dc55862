"""Injects real faults into real runs and writes what happened to docs/faults.md.

python docs/faults.py            # about three minutes; as root, for the small disks
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """\
# Faults

Written by `python docs/faults.py`, which injects each fault into a real run of the bundled model.

| exit code of `grpo_envs.run` | meaning |
|---|---|
| 0 | the run is done, or SIGTERM ended it and it is saved |
| 1 | the run ended early; the last line gives the reason and the remedy |
| 130 | Ctrl-C ended the run after the current step, and it is saved |

Other commands exit with 2 on a mistake in the command line. `check` and `doctor` exit with 1 if
they find something.

| fault | exit code | last message |
|---|---|---|
"""
_QUICK = [
    *("trainer.steps=6", "trainer.prompts_per_step=2", "trainer.eval_problems=2"),
    *("trainer.save_every=2", "agent.group_size=4", "logger.names=[console,jsonl]"),
]
_PLUGIN = """
import os, signal, sys, time

from grpo_env_math import MathEnv

class Apart(MathEnv):
    concurrency = "processes"

def kills(problem, answer):
    if len(answer) % 5 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

def raises(problem, answer):
    raise ValueError("no network")

def raises_at_times(problem, answer):
    if len(answer) % 2:
        raise ValueError("no network")
    return 1.0

def returns_nan(problem, answer):
    return float("nan")

def sleeps(problem, answer):
    time.sleep(600)

seen = []

def leaks(problem, answer):
    seen.append(b"x" * 2**20)
    return len(seen) % 7 / 7

def exits(problem, answer):
    sys.exit(1)
"""
_NAMES = ("raises", "raises_at_times", "returns_nan", "sleeps", "leaks", "exits", "kills")


def make_plugin(folder: Path) -> None:
    """Make a package with reward functions that fail, as `pip install --target` would leave it."""
    (folder / "faulty.py").write_text(_PLUGIN, encoding="utf-8")
    info = folder / "faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    points = "".join(f"{name} = faulty:{name}\n" for name in _NAMES)
    (info / "entry_points.txt").write_text(
        f"[grpo_envs.envs]\napart = faulty:Apart\n[grpo_envs.rewards]\n{points}"
    )


class Place:
    """A folder to run in."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(cwd), *sys.path]),
            "COLUMNS": "400",
        }
        make_plugin(cwd)

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Begin a run."""
        command = [sys.executable, "-m", "grpo_envs.run", *_QUICK, *overrides]
        return subprocess.Popen(
            command,
            cwd=self.cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *overrides: str, about: str = "") -> tuple[int, str]:
        """Return the exit code and the last line of a run, or the last one that has `about`."""
        process = self.start(*overrides)
        printed, _ = process.communicate()
        return process.returncode, last_line(printed, about)

    def hit(self, number: signal.Signals, *overrides: str) -> tuple[int, str]:
        """Send a signal after the second step; return the exit code and the last line."""
        process = self.started("hydra.run.dir=hit", "trainer.steps=200", *overrides)
        process.send_signal(number)
        printed, _ = process.communicate()
        return process.returncode, last_line(printed, "stopped")

    def started(self, folder: str, *overrides: str) -> subprocess.Popen[str]:
        """Begin a run in `folder`; return when three steps are made."""
        process = self.start(folder, *overrides)
        metrics = self.cwd / folder.removeprefix("hydra.run.dir=") / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
            if process.poll() is not None:
                raise RuntimeError(process.communicate()[0])
            time.sleep(0.05)
        return process

    def starved(self, mib: int, folder: str, *overrides: str) -> tuple[int, str]:
        """Give a run so much memory more than it has after three steps; return what it printed."""
        process = self.started(folder, *overrides)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + mib * 2**20
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        printed, _ = process.communicate()
        return process.returncode, printed

    @contextmanager
    def disk(self, options: str) -> Iterator[Path]:
        """Mount a small file system."""
        disk = self.cwd / "disk"
        disk.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def last_line(printed: str, about: str = "") -> str:
    """Return the last line, or the last one that has `about`; '' where there is none."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and about in line]
    return lines[-1] if lines else ""


def full_disk(place: Place) -> tuple[int, str]:
    """A disk that is full at the second checkpoint."""
    with place.disk("size=12m"):
        return place.run("hydra.run.dir=disk/run", "logger=files")


def terminated_early(place: Place) -> tuple[int, str]:
    """SIGTERM while the run's parts are being made."""
    process = place.start("hydra.run.dir=early")
    while not (place.cwd / "early" / ".hydra").is_dir():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    return process.returncode, last_line(printed, "SIGTERM")


def read_only(place: Place) -> tuple[int, str]:
    """A place that cannot be written."""
    with place.disk("size=12m,ro"):
        return place.run("hydra.run.dir=disk/run")


def dataset_gone(place: Place) -> tuple[int, str]:
    """A dataset that is gone when the run is resumed."""
    rows = place.cwd / "rows.jsonl"
    lines = (f'{{"prompt": "What is {i}+1?", "gold": "{i + 1}"}}\n' for i in range(50))
    rows.write_text("".join(lines))
    place.run("hydra.run.dir=gone", "env.dataset=rows.jsonl", "trainer.steps=2")
    rows.unlink()
    return place.run("resume=gone", "env.dataset=rows.jsonl", "trainer.steps=4")


def killed_and_resumed(place: Place) -> tuple[int, str]:
    """SIGKILL, then the same command with resume=auto."""
    place.hit(signal.SIGKILL)
    return place.run("hydra.run.dir=hit", "resume=auto", "trainer.steps=8")


def cut_short(place: Place) -> tuple[int, str]:
    """A checkpoint whose weights were cut short; resumed."""
    place.run("hydra.run.dir=cut", "trainer.steps=4")
    (place.cwd / "cut" / "done.json").unlink()
    weights = place.cwd / "cut" / "checkpoints" / "step_000004" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return place.run("resume=cut", "trainer.steps=4", about="not whole")


def only_one_cut_short(place: Place) -> tuple[int, str]:
    """The only checkpoint, cut short; resumed."""
    place.run("hydra.run.dir=cut", "trainer.steps=2")
    (place.cwd / "cut" / "done.json").unlink()
    weights = place.cwd / "cut" / "checkpoints" / "step_000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return place.run("resume=cut", "trainer.steps=2", about="no checkpoint is whole")


def helpers_killed(place: Place) -> tuple[int, str]:
    """The processes that run the programs of env=code are killed, all at once."""
    process = place.started("hydra.run.dir=code", "env=code", "trainer.steps=10")
    kill_helpers(process.pid)
    printed, _ = process.communicate()
    return process.returncode, last_line(printed, "sandbox")


def kill_helpers(pid: int, named: str = "") -> int:
    """Kill what a process has started, and what that has; return how many were killed.

    Only those with `named` in their command.
    """
    killed = 0
    for helper in helpers_of(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it went with who had started it
            if named in Path(f"/proc/{helper}/cmdline").read_text():
                os.kill(helper, signal.SIGKILL)
                killed += 1
    return killed


def helpers_of(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    with suppress(FileNotFoundError, ProcessLookupError):  # of what ends meanwhile
        below = [int(child) for task in tasks for child in task.read_text().split()]
        return below + [found for child in below for found in helpers_of(child)]
    return []


def leaking(place: Place, about: str = "") -> tuple[int, str]:
    """A reward function that keeps a MiB of each answer, with 500 MiB to take."""
    given = ("hydra.run.dir=leak", "trainer.steps=400", "env.rewards={leaks: 0.1}")
    code, printed = place.starved(500, *given)
    return code, last_line(printed, about)


def two_in_one(place: Place) -> tuple[int, str]:
    """Two runs started into one folder: the second."""
    first = place.start("hydra.run.dir=shared", "trainer.steps=200")
    while not (place.cwd / "shared" / "metrics.jsonl").is_file():
        time.sleep(0.05)
    second = place.run("hydra.run.dir=shared", "trainer.steps=200")
    first.kill()
    first.communicate()
    return second


FAULTS: dict[str, Callable[[Place], tuple[int, str]]] = {
    "the disk is full at the second checkpoint": full_disk,
    "the disk is read-only": read_only,
    "the dataset is gone when a run is resumed": dataset_gone,
    "SIGTERM": lambda place: place.hit(signal.SIGTERM),
    "SIGTERM while the run's parts are being made": terminated_early,
    "Ctrl-C": lambda place: place.hit(signal.SIGINT),
    "SIGKILL, then the same command with `resume=auto`": killed_and_resumed,
    "the newest checkpoint was cut short; resumed": cut_short,
    "the only checkpoint was cut short; resumed": only_one_cut_short,
    "two runs in one folder: the second": two_in_one,
    "a reward function that always raises": lambda place: place.run("env.rewards={raises: 1}"),
    "a reward function that raises for some answers": lambda place: place.run(
        "env.rewards={raises_at_times: 0.1}",
        "trainer.max_invalid_fraction=0.9",
        about="rewards are invalid",
    ),
    "a reward function that returns NaN": lambda place: place.run("env.rewards={returns_nan: 1}"),
    "a reward function that sleeps": lambda place: place.run(
        "env.rewards={sleeps: {weight: 1, timeout: 1}}"
    ),
    "a reward function that calls `sys.exit`": lambda place: place.run("env.rewards={exits: 1}"),
    "a reward function that kills its process, of `concurrency=processes`": lambda place: place.run(
        "env=apart",
        "env.rewards={kills: 0.1}",
        "trainer.max_invalid_fraction=0.9",
        "trainer.steps=2",
        about="rewards are invalid",
    ),
    "the sandbox's processes are killed while `env=code` trains": helpers_killed,
    "a reward function that leaks memory, after 40 steps": lambda place: leaking(place, "grows by"),
    "the same when no memory is left": leaking,
    "the hub cannot be reached": lambda place: place.run("model.path=Qwen/Qwen3-0.6B"),
    "updates that are not finite": lambda place: place.run(
        "agent.lr=1e8", "agent.warmup_steps=0", "agent.loss.beta=0", "trainer.steps=20"
    ),
}


def page() -> str:
    """Inject every fault; return the page."""
    rows = []
    for fault, inject in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            code, line = inject(Place(Path(folder)))
        line = line.replace(folder, ".").replace("|", "\\|")
        rows.append(f"| {fault} | {code} | `{line}` |")
        print(rows[-1], flush=True)
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
