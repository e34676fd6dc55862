"""Two processes (gloo) make the update that one makes from the same groups."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.test_agent import PRESETS
from tests.two_processes import gradients

ROOT = Path(__file__).parent.parent
Found = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found, started as a user starts them."""
    out = tmp_path_factory.mktemp("processes")
    # Accelerate 1.15 starts one process with `--cpu --num_processes 2`; --multi_gpu starts two, and
    # Accelerator(cpu=True) in them picks gloo.
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0"
    command = [sys.executable, "-m", *launch.split(), "-m", "tests.two_processes", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 1 of 2" in done.stdout
    return [torch.load(out / f"{i}.pt", weights_only=True) for i in range(2)]


@pytest.mark.parametrize("preset", PRESETS)
def test_two_processes_equal_one(preset: str, both: list[Found]) -> None:
    alone = gradients(Accelerator(cpu=True), preset)
    assert max(value.abs().max().item() for value in alone.values()) > 1e-3
    for found in both:
        assert found[preset].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[preset][name], value, rtol=1e-6, atol=1e-9)
