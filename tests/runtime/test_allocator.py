"""Memory that a process keeps, counted by the system's page faults."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from grpo_envs.runtime.allocator import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else "")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(64 << 20)[::4096] = b"1" * (16 << 10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str, **environment: str) -> tuple[str, int]:
    """Return what `keep_freed_memory` said, and the page faults of 20 times 64 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    said, faults = done.stdout.split("\n")[:2]
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    said, faults = run("keep")
    _, before = run("leave")
    assert said == "True"
    assert faults < before / 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_a_user_chose_stays(name: str) -> None:
    value = "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "131072"
    said, _ = run("keep", **{name: value})
    assert said == "False"
