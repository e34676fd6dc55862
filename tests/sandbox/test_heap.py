"""Where new objects lie once the holes of the heap are filled."""

import json
import subprocess
import sys

import pytest

from grpo_envs.sandbox import heap

HEAP = str(heap.__file__)

COUNT = """
import json, runpy, sys
from itertools import repeat

settle = runpy.run_path(sys.argv[1])["settle"]

KINDS = {16: object, 32: (lambda: float("1.5")), 64: (lambda: bytes(31)),
         128: (lambda: bytes(90)), 400: (lambda: bytes(360))}
litter = {size: [make() for _ in repeat(None, 20000)] for size, make in KINDS.items()}
for items in litter.values():
    del items[::500]
filling = settle() if %s else []
made = {size: [make() for _ in repeat(None, 40)] for size, make in KINDS.items()}
print(json.dumps({size: len({id(item) >> 12 for item in items}) for size, items in made.items()}))
"""


def pages(*, settled: bool) -> dict[int, int]:
    """Return by their size on how many pages 40 new objects lie, where one of 500 was freed."""
    command = [sys.executable, "-S", "-c", COUNT % settled, HEAP]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {int(size): count for size, count in json.loads(done.stdout).items()}


@pytest.mark.skipif(sys.platform != "linux", reason="workers have zygotes of this kind on Linux")
def test_new_objects_lie_side_by_side() -> None:
    for size, count in pages(settled=True).items():
        assert count <= 40 * size // 4096 + 3, size
    assert all(count > 20 for count in pages(settled=False).values()), "there were no holes"
