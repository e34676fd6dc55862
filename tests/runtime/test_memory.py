"""What a process has of the memory, what is left of it, and what happens when nothing is."""

import os
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import pytest
import torch

from grpo_envs.errors import SandboxError
from grpo_envs.runtime.memory import MemoryExhausted, gpu_metrics, in_one_line, memory_metrics

MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")


def made_up(root: Path, files: dict[str, str]) -> dict[str, float]:
    """What is measured where /proc and /sys say this. 300 MiB, 100 of them of files; 900 left."""
    statm = " ".join(str(mib * MIB // PAGE) for mib in (1000, 300, 100))
    usual = {
        "proc/self/statm": f"{statm} 1 0 7 0\n",
        "proc/self/limits": "Max address space         unlimited   unlimited   bytes\n",
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemFree: 5 kB\nMemAvailable: {900 * 1024} kB\n",
    }
    for name, text in {**usual, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return memory_metrics(root)


V2 = {
    "proc/self/cgroup": "0::/slurm/job_1\n",
    "sys/fs/cgroup/slurm/memory.max": f"{400 * MIB}\n",
    "sys/fs/cgroup/slurm/memory.current": f"{350 * MIB}\n",
    "sys/fs/cgroup/slurm/memory.stat": f"anon 1\ninactive_file {20 * MIB}\nslab 3\n",
}
UNLIMITED = {
    "sys/fs/cgroup/slurm/job_1/memory.max": "max\n",
    "sys/fs/cgroup/slurm/job_1/memory.current": "1\n",
    "sys/fs/cgroup/slurm/job_1/memory.stat": "inactive_file 0\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/docker/0123\n1:cpu:/docker/0123\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{400 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{350 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {20 * MIB}\n",
}
LIMITS = {"proc/self/limits": f"Max address space     {1040 * MIB}     unlimited     bytes\n"}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        pytest.param({}, 900.0, id="the machine"),
        pytest.param(V2, 70.0, id="a control group above this one"),
        pytest.param({**V2, **UNLIMITED}, 70.0, id="the one below it has no limit"),
        pytest.param(V1, 70.0, id="in a container of version 1"),
        pytest.param(LIMITS, 40.0, id="ulimit"),
        pytest.param({**LIMITS, **V2}, 40.0, id="the least counts"),
    ],
)
def test_what_is_left(tmp_path: Path, files: dict[str, str], left: float) -> None:
    assert made_up(tmp_path, files) == {"memory/process": 200.0, "memory/left": left}


def test_nothing_is_said_where_the_system_says_nothing(tmp_path: Path) -> None:
    assert memory_metrics(tmp_path) == {}


def test_this_process_and_what_it_takes() -> None:
    before = memory_metrics()
    # Not of the allocator, which may have kept memory that another test freed.
    taken = mmap(-1, 200 * MIB, MAP_PRIVATE | MAP_ANONYMOUS)
    for page in range(0, len(taken), PAGE):
        taken[page] = 1
    after = memory_metrics()
    assert after["memory/process"] - before["memory/process"] == pytest.approx(200, abs=5)
    assert after["memory/left"] > 0
    taken.close()


@pytest.mark.parametrize(
    "greedy", [lambda: bytearray(2**62), lambda: torch.empty(2**58)], ids=["Python", "torch"]
)
def test_no_memory_is_one_line(greedy: Callable[[], object]) -> None:
    with (
        pytest.raises(
            MemoryExhausted, match=r"^out of memory\. Saved checkpoints are complete"
        ) as caught,
        in_one_line(),
    ):
        greedy()
    assert "env.rewards" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), SandboxError("killed (out of memory?)"), OSError(28)]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, in_one_line():
        raise error
    assert caught.value is error


def test_a_gpu_in_use_tells_its_memory_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in, as there is no GPU: the numbers of PyTorch's own functions, and the reset."""
    assert gpu_metrics() == {}
    peaks = iter([3, 2])
    calls: list[str] = []
    for name, value in (("is_initialized", True), ("memory_allocated", 1 << 20)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4 << 20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(peaks) << 20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    found = [gpu_metrics() for _ in range(2)]
    assert found[0] == {"memory/allocated": 1.0, "memory/reserved": 4.0, "memory/peak": 3.0}
    assert found[1]["memory/peak"] == 2.0
    assert calls == ["reset", "reset"]
