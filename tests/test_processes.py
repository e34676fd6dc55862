"""Two processes (gloo), started as a user starts them, do what one does."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from grpo_agent.models import TINY
from grpo_envs.processes import ALONE
from grpo_envs.rows import read_jsonl
from tests.two_processes import GRADIENTS, RUNS, SMALL, gradients, train

ROOT = Path(__file__).parent.parent
# Accelerate 1.15 starts one process with `--cpu --num_processes 2`; --multi_gpu starts two, and
# trainer.device=cpu in them picks gloo.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--main_process_port", "0", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "-m"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of everything in two_processes.py; `more` was begun by one."""
    out = tmp_path_factory.mktemp("processes")
    train(out / "more", "plain")
    command = [*LAUNCH, "tests.two_processes", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 1 of 2" in done.stdout
    return out


@pytest.mark.parametrize("case", GRADIENTS)
def test_the_gradient_of_two_is_that_of_one(case: str, made: Path) -> None:
    alone = gradients(Accelerator(cpu=True), case)
    if case != "fewer rows than processes":  # a group of one teaches nothing
        assert max(value.abs().max().item() for value in alone.values()) > 1e-3
    for i in range(2):
        found: dict[str, dict[str, Tensor]] = torch.load(made / f"{i}.pt", weights_only=True)
        assert found[case].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[case][name], value, rtol=1e-6, atol=1e-9)


def test_what_one_raises_all_raise_and_shares_are_in_order(made: Path) -> None:
    lost = "ProcessLost: process 1 failed: KeyError: 'level'"
    for i in range(2):
        told = ast.literal_eval((made / f"{i}.txt").read_text(encoding="utf-8"))
        assert told["gathered"] == [0, 1]
        assert told["by first"] == 0
        assert told["each"] == i
        assert told["shares"] == [[0, 1, 2, 3], [4, 5, 6]]
        assert told["done by"] == ([0] if i == 0 else [])
        assert told["a mistake"] == "ConfigError: env.level=9."
        assert told["a stop"] == "StopNow: "
        assert told["a bug"] == (lost if i == 0 else "KeyError: 'level'")


_OF_THIS_MACHINE = ("time/", "tokens/per_second", "score/hidden", "memory/")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a run without what is measured with a clock."""
    found = read_jsonl(folder / f"{name}.jsonl")
    return [
        {key: x for key, x in row.items() if not key.startswith(_OF_THIS_MACHINE)} for row in found
    ]


def assert_same(one: Path, two: Path) -> None:
    """Compare two runs: texts and rewards exactly, numbers and weights to float tolerance."""
    for name in ("completions", "eval_completions"):
        for a, b in zip(rows(one, name), rows(two, name), strict=True):
            assert a.pop("advantage", 0.0) == pytest.approx(b.pop("advantage", 0.0), abs=1e-5)
            assert a == b
    for name in ("metrics", "eval"):
        for a, b in zip(rows(one, name), rows(two, name), strict=True):
            assert a == {key: pytest.approx(x, rel=1e-3, abs=1e-5) for key, x in b.items()}
    for a_file in sorted((one / "checkpoints").glob("*/*.safetensors")):
        b_file = two / a_file.relative_to(one)
        a_weights, b_weights = load_file(a_file), load_file(b_file)
        start = load_file(TINY / "model.safetensors")
        for key, value in a_weights.items():  # AdamW makes much of a small gradient's last bits
            moved = (value - start.get(key, 0.0)).norm()
            assert (value - b_weights[key]).norm() <= 0.01 * moved, key


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_is_that_of_one(name: str, made: Path, tmp_path: Path) -> None:
    train(tmp_path, name)
    assert_same(tmp_path / name, made / "two" / name)
    assert {row["step"] for row in rows(made / "two" / name, "metrics")} == {1, 2, 3}


def test_a_run_goes_on_in_another_number_of_processes(made: Path, tmp_path: Path) -> None:
    train(tmp_path / "straight", "plain")  # then on, in one
    straight, fewer, more = (tmp_path / "straight", made / "two", made / "more")
    for out in (straight, fewer):
        train(out, "plain", ALONE, "trainer.steps=5", f"resume={out}")
    assert_same(straight / "plain", more / "plain")
    assert_same(straight / "plain", fewer / "plain")
    assert [row["step"] for row in rows(more / "plain", "metrics")] == [1, 2, 3, 4, 5]


def launched(out: Path, *overrides: str) -> subprocess.Popen[str]:
    """Begin a small run in two processes, as a user does."""
    command = [*LAUNCH, "grpo_envs.run", *SMALL, f"hydra.run.dir={out}", *overrides]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=out.parent, stdout=pipe, stderr=pipe, text=True)


def wait_for(file: Path, lines: int) -> None:
    """Wait until a run has written so many rows."""
    for _ in range(1200):
        if file.is_file() and len(file.read_text(encoding="utf-8").splitlines()) >= lines:
            return
        time.sleep(0.1)
    raise AssertionError(f"{file} did not come")


def processes_of(run: subprocess.Popen[str]) -> dict[int, int]:
    """The process ids by RANK."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="utf-8").split()
    found: dict[int, int] = {}
    for child in children:
        told = Path(f"/proc/{child}/environ").read_text(encoding="utf-8").split("\0")
        found |= {int(x[5:]): int(child) for x in told if x.startswith("RANK=")}
    return found


def test_a_run_of_two_says_and_writes_once_and_saves_on_sigterm(tmp_path: Path) -> None:
    run = launched(tmp_path / "run", "trainer.steps=500")
    wait_for(tmp_path / "run" / "metrics.jsonl", 2)
    started = time.monotonic()
    run.send_signal(signal.SIGTERM)  # to the launcher, which sends it on
    said, complained = run.communicate(timeout=60)
    assert time.monotonic() - started < 30
    for words in ("in 2 processes, fp32", "SIGTERM: saving, then ending.", "saved. To go on:"):
        assert said.count(words) == 1, said
    assert "Error" not in complained.replace("SignalException", "")
    steps = [row["step"] for row in rows(tmp_path / "run", "metrics")]
    assert steps == list(range(1, len(steps) + 1))
    last = (tmp_path / "run" / "checkpoints" / "last").resolve()
    assert last.name == f"step_{len(steps):06d}"
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "no folder of another process"
    # The launcher itself ends with 1 after a signal; its processes end with 0.
    assert run.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_and_resume_auto_goes_on(
    rank: int, tmp_path: Path
) -> None:
    straight = launched(tmp_path / "straight", "trainer.steps=8")
    straight.communicate(timeout=120)
    run = launched(tmp_path / "run", "trainer.steps=8")
    wait_for(tmp_path / "run" / "metrics.jsonl", 3)
    os.kill(processes_of(run)[rank], signal.SIGKILL)
    _, complained = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "exitcode  : -9" in complained, "the launcher says which"
    assert "[rank" not in complained, "no traceback of the other"
    again = launched(tmp_path / "run", "trainer.steps=8", "resume=auto")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert_same(tmp_path / "straight", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "line"),
    [
        pytest.param("env.level=two", "env.level=two. Allowed: 1, 2, 3, 4, 5.", id="of a key"),
        pytest.param("trainer.prompts_per_step=1", "Allowed: 2 or more, one a process.", id="few"),
        pytest.param("model.path=nowhere", "model.path=nowhere: ", id="while building"),
        pytest.param("+key=1", "an added (+) key is none of ours", id="while composing"),
        pytest.param("-m", "-m in a run of several processes. Allowed: key=value.", id="a flag"),
    ],
)
def test_a_mistake_is_one_line_of_one_process(override: str, line: str, tmp_path: Path) -> None:
    run = launched(tmp_path / "run", override)
    said, complained = run.communicate(timeout=60)
    lines = [x for x in (said + complained).splitlines() if x.startswith("grpo_envs:")]
    assert len(lines) == 1, lines
    assert line in lines[0]
    assert "[rank" not in complained
    assert run.returncode == 1
