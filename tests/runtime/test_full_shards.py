"""`trainer.shard=full`: weights in shards of two and three processes (gloo) train as one does."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.runtime.test_processes import ROOT, assert_same, rows
from tests.support.full_shards import CASES, go_on, train, updated, write_site

pytestmark = pytest.mark.slow


def made(count: int, out: Path) -> Path:
    """Have processes make the updates and runs of full_shards.py."""
    by = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command = [*by, "--standalone", "-m", "tests.support.full_shards", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run of one process: its first three steps, and all five."""
    out = tmp_path_factory.mktemp("alone")
    sys.path.insert(0, str(write_site(out / "site")))
    train(out / "three")
    shutil.copytree(out / "three", out / "five", symlinks=True)
    go_on(out / "five")
    yield out
    sys.path.pop(0)


@pytest.fixture(scope="module")
def two(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made; `begun` is a run that one process began."""
    out = tmp_path_factory.mktemp("two")
    shutil.copytree(alone / "three", out / "begun", symlinks=True)
    return made(2, out)


@pytest.fixture(scope="module")
def three(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three processes made; `begun` is a run that two processes began in shards."""
    out = tmp_path_factory.mktemp("three")
    shutil.copytree(two / "full", out / "begun", symlinks=True)
    return made(3, out)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_weights_and_metrics_are_those_of_one_process(
    case: str, count: int, request: pytest.FixtureRequest
) -> None:
    out: Path = request.getfixturevalue({2: "two", 3: "three"}[count])
    one = updated(Accelerator(cpu=True), case)
    parts = [torch.load(out / f"{i} {case}.pt", weights_only=True) for i in range(count)]
    held = [part.pop("held").item() for part in parts]
    assert sum(held) == one.pop("held").item()
    assert max(held) < 1.1 * sum(held) / count
    first: dict[str, Tensor] = parts[0]
    assert first.keys() == one.keys() > {"optim/grad_norm 2", "loss/total 2"}
    for name, value in one.items():
        assert_close(first[name], value, name)
    for part in parts[1:]:
        assert all(part[name].equal(first[name]) for name in part if "/" in name)


@pytest.mark.parametrize("count", [2, 3])
def test_the_reference_takes_over_the_weights_after_every_second_step(
    count: int, request: pytest.FixtureRequest
) -> None:
    """In every process, to the bit; with a rhythm of 0 it stays what it was."""
    out: Path = request.getfixturevalue({2: "two", 3: "three"}[count])
    for case, settings in CASES.items():
        every = settings.get("sync_reference_every", 0)
        for i in range(count):
            part = torch.load(out / f"{i} {case}.pt", weights_only=True)
            synced = [bool(part[f"in sync {step}"]) for step in range(3)]
            assert synced == [False, every == 2, False], f"{case}, process {i}"


def assert_close(found: Tensor, value: Tensor, name: str) -> None:
    """Compare to ten digits; to a hundredth of those where numbers are near 0."""
    torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12, msg=lambda m: f"{name}: {m}")


def test_runs_go_on_in_shards_and_from_them(alone: Path, two: Path, three: Path) -> None:
    assert_same(alone / "three", two / "full")
    assert_same(alone / "five", two / "begun")
    assert_same(alone / "five", three / "begun")
    go_on(two / "full")
    assert_same(alone / "five", two / "full")
    assert [row["step"] for row in rows(two / "full", "metrics")] == [1, 2, 3, 4, 5]


def test_in_bf16_the_masters_are_those_of_whole_weights(two: Path) -> None:
    assert_same(two / "bf16 optimizer", two / "bf16 full")
