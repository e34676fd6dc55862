"""Two processes (gloo), started as a user starts them, do what one does."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from grpo_envs.errors import ConfigError
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime import launch
from grpo_envs.runtime.processes import ALONE, ProcessLost, connect
from grpo_policy.models import TINY
from tests.support.two_processes import (
    GRADIENTS,
    IN_BF16,
    IN_FP16,
    OF_FSDP,
    QUICK,
    RUNS,
    SHARDED_GRADIENTS,
    SHARDED_RUNS,
    SMALL,
    gradients,
    overflowed,
    train,
)

ROOT = Path(__file__).parents[2]
# Accelerate 1.15 starts one process with `--cpu --num_processes 2`; --multi_gpu starts two, and
# trainer.device=cpu in them picks gloo.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--main_process_port", "0", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "-m"),
]

FSDP = """\
distributed_type: FSDP
num_machines: 1
num_processes: 2
mixed_precision: "no"
fsdp_config:
  fsdp_version: 2
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of the quick cases of two_processes.py."""
    return made("quick", tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What they made of all of them."""
    return made("whole", tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def in_fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What they made in fp16."""
    return made("fp16", tmp_path_factory.mktemp("fp16"))


def made(how: str, out: Path) -> Path:
    """Have two processes make the runs; one process began those that go on."""
    for name in ("more", "sharded") if how != "fp16" else ():
        train(out / name, "plain")
    command = [*LAUNCH, "tests.support.two_processes", str(out), how]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 1 of 2" in done.stdout
    return out


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """The folder of `quick` or `whole`, as the parameter says."""
    path: Path = request.getfixturevalue(request.param)
    return path


def split(cases: Sequence[tuple[str, ...]], quick: Sequence[tuple[str, ...]]) -> list[Any]:
    """Return parameters: the quick cases for the default suite, the others as slow ones."""
    return [
        pytest.param(
            *case,
            "quick" if case in quick else "whole",
            marks=() if case in quick else pytest.mark.slow,
        )
        for case in cases
    ]


@pytest.mark.parametrize(
    ("case", "kind", "folder"),
    split(
        [*((case, "") for case in GRADIENTS), *((case, " sharded") for case in SHARDED_GRADIENTS)],
        [*((case, "") for case in QUICK), *((case, " sharded") for case in SHARDED_GRADIENTS)],
    ),
    indirect=["folder"],
)
def test_the_gradient_of_two_is_that_of_one(case: str, kind: str, folder: Path) -> None:
    alone = gradients(Accelerator(cpu=True), case)
    moments = alone.pop("moments").item() * (0.5 if kind else 1.0)
    if case != "fewer rows than processes":  # a group of one teaches nothing
        assert max(value.abs().max().item() for value in alone.values()) > 1e-3
    for i in range(2):
        file = folder / f"{i}{kind}.pt"
        found: dict[str, Tensor] = torch.load(file, weights_only=True)[case]
        assert found.pop("moments").item() == pytest.approx(moments, rel=0.01)
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)


def test_what_one_raises_all_raise_and_shares_are_in_order(quick: Path) -> None:
    lost = "ProcessLost: process 1 failed: KeyError: 'level'"
    for i in range(2):
        found = ast.literal_eval((quick / f"{i}.txt").read_text(encoding="utf-8"))
        assert found["gathered"] == [0, 1]
        assert found["by first"] == 0
        assert found["each"] == i
        assert found["shares"] == [[0, 1, 2, 3], [4, 5, 6]]
        assert found["done by"] == ([0] if i == 0 else [])
        assert found["a mistake"] == "ConfigError: env.level=9."
        assert found["a stop"] == "StopNow: "
        assert found["asked"] == (True, 0), "one was asked to end, all did"
        assert found["answers"] == ([3, 6] if i == 0 else [2, 4]), "of five problems"
        assert found["a bug"] == (lost if i == 0 else "KeyError: 'level'")


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
            # Roundings alone. Those of bf16 depend on the batch's shape and on the processor.
            gap = max(row.pop("policy/sample_gap", 0.0) for row in (a, b))
            assert gap < (0.02 if "bf16" in str(one) or "fp16" in str(one) else 1e-5)
            assert a == {key: pytest.approx(x, rel=1e-3, abs=1e-5) for key, x in b.items()}
    for a_file in sorted((one / "checkpoints").glob("*/*.safetensors")):
        b_file = two / a_file.relative_to(one)
        a_weights, b_weights = load_file(a_file), load_file(b_file)
        start = load_file(TINY / "model.safetensors")
        for key, value in a_weights.items():  # AdamW makes much of a small gradient's last bits
            moved = (value - start.get(key, 0.0)).norm()
            assert (value - b_weights[key]).norm() <= 0.01 * moved, key


@pytest.mark.parametrize(
    ("name", "folder"), split([(name,) for name in RUNS], [("plain",)]), indirect=["folder"]
)
def test_a_run_of_two_is_that_of_one(name: str, folder: Path, tmp_path: Path) -> None:
    train(tmp_path, name)
    assert_same(tmp_path / name, folder / "two" / name)
    assert {row["step"] for row in rows(folder / "two" / name, "metrics")} == {1, 2, 3}


def go_on(out: Path, name: str) -> None:
    train(out, name, ALONE, "trainer.steps=5", f"resume={out / name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED_RUNS)
def test_a_run_in_shards_is_that_of_one_which_goes_on_with_it(
    name: str, whole: Path, tmp_path: Path
) -> None:
    alone, shards = tmp_path, whole / "sharded"
    train(alone, name)
    assert_same(alone / name, shards / name)
    go_on(alone, name)
    go_on(shards, name)
    assert_same(alone / name, shards / name)


@pytest.mark.slow
def test_shards_in_bf16_have_the_masters_of_whole_ones(whole: Path, tmp_path: Path) -> None:
    """Both in two processes; checkpoints hold float32, and one process goes on with them."""
    one, two = whole / "bf16", whole / "bf16 sharded"
    assert_same(one / "plain", two / "plain")
    weights = load_file(two / "plain" / "checkpoints" / "last" / "model.safetensors")
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert not any(value.equal(value.bfloat16().float()) for value in weights.values())
    train(two, "plain", ALONE, *IN_BF16, "trainer.steps=5", f"resume={two / 'plain'}")
    assert {row["step"] for row in rows(two / "plain", "metrics")} == {1, 2, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", " sharded"], ids=["whole", "sharded"])
def test_in_fp16_all_repeat_an_update_that_overflows_in_one(kind: str, in_fp16: Path) -> None:
    alone = overflowed(Accelerator(cpu=True))
    attempts = alone.pop("finite").tolist()
    assert attempts[0] is False
    assert attempts[-2:] == [True, True], "of two updates"
    for i in range(2):
        found: dict[str, Tensor] = torch.load(in_fp16 / f"{i}{kind}.pt", weights_only=True)
        own = found.pop("finite").tolist()
        assert own == (attempts if i == 1 else [True] * len(attempts)), "the last row is the 2nd's"
        assert found.keys() == alone.keys() > {"gain", "bonus"}
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_run_in_fp16_has_one_scale_and_goes_on_with_it(in_fp16: Path) -> None:
    one, two = in_fp16 / "fp16" / "plain", in_fp16 / "fp16 sharded" / "plain"
    assert_same(one, two)
    scalers = [scaler_of(out) for out in (one, two)]
    assert scalers[0] == scalers[1]
    assert scalers[0]["_growth_tracker"] == 3, "an update a step"
    train(two.parent, "plain", ALONE, *IN_FP16, "trainer.steps=5", f"resume={two}")
    assert scaler_of(two) == scalers[0] | {"_growth_tracker": 5}


def scaler_of(out: Path) -> dict[str, Any]:
    """What the newest checkpoint says of the scale of the loss."""
    state = torch.load(out / "checkpoints" / "last" / "trainer.pt", weights_only=True)
    scaler: dict[str, Any] = state["agent"]["scaler"]
    return scaler


def test_a_run_goes_on_in_another_number_of_processes_and_in_shards(
    quick: Path, tmp_path: Path
) -> None:
    train(tmp_path / "straight", "plain")  # then on, in one
    straight, fewer, more = (tmp_path / "straight", quick / "two", quick / "more")
    for out in (straight, fewer):
        go_on(out, "plain")
    assert_same(straight / "plain", more / "plain")
    assert_same(straight / "plain", fewer / "plain")
    assert_same(straight / "plain", quick / "sharded" / "plain")
    assert [row["step"] for row in rows(more / "plain", "metrics")] == [1, 2, 3, 4, 5]


def launched(out: Path, *overrides: str, by: Sequence[str] = LAUNCH) -> subprocess.Popen[str]:
    """Begin a small run in two processes, as a user does."""
    command = [*by, "grpo_envs.run", *SMALL, f"hydra.run.dir={out}", *overrides]
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
        environment = Path(f"/proc/{child}/environ").read_text(encoding="utf-8").split("\0")
        found |= {int(x[5:]): int(child) for x in environment if x.startswith("RANK=")}
    return found


@pytest.mark.slow
def test_a_run_of_two_says_and_writes_once_and_saves_on_sigterm(tmp_path: Path) -> None:
    run = launched(tmp_path / "run", "trainer.steps=500")
    wait_for(tmp_path / "run" / "metrics.jsonl", 2)
    started = time.monotonic()
    run.send_signal(signal.SIGTERM)  # to the launcher, which sends it on
    said, complained = run.communicate(timeout=60)
    assert time.monotonic() - started < 30
    for words in ("in 2 processes, fp32", "SIGTERM: saving, then ending.", "saved. To continue:"):
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
        pytest.param("+key=1", "an added (+) key does not exist", id="while composing"),
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


def launched_with(config: str, out: Path, *overrides: str) -> subprocess.Popen[str]:
    """Begin it with a configuration of the launcher's."""
    file = out.parent / "launcher.yaml"
    file.write_text(config, encoding="utf-8")
    by = [*LAUNCH[:3], "--config_file", str(file), "--main_process_port", "0", "-m"]
    return launched(out, *overrides, by=by)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "LoRA, conversations"])
def test_a_run_that_the_launcher_is_told_to_shard(name: str, tmp_path: Path) -> None:
    """On CPUs, over gloo: Accelerate would shard on GPUs only, see `sharding_accelerator`."""
    run = launched_with(FSDP, tmp_path / "run", *RUNS[name])
    said, complained = run.communicate(timeout=120)
    assert run.returncode == 0, complained
    assert "in 2 processes, sharded, fp32" in said
    train(tmp_path / "alone", name)
    assert_same(tmp_path / "alone" / name, tmp_path / "run")


@pytest.mark.slow
def test_what_the_launcher_is_told_and_a_run_does_not_do_is_one_line(tmp_path: Path) -> None:
    run = launched_with(FSDP.replace("version: 2", "version: 1"), tmp_path / "run")
    said, complained = run.communicate(timeout=60)
    lines = [x for x in (said + complained).splitlines() if x.startswith("grpo_envs:")]
    assert lines == ["grpo_envs: fsdp_version=1. Allowed: 2."]
    assert run.returncode == 1


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "deepspeed of accelerate launch. Allowed: --mul"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "megatron_lm of accelerate launch. Allowed: --"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config of accelerate laun"),
        (OF_FSDP | {"FSDP_VERSION": "1"}, "fsdp_version=1. Allowed: 2."),
        (OF_FSDP | {"FSDP_OFFLOAD_PARAMS": "True"}, "fsdp_offload_params=true. Allowed: false."),
        (
            OF_FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "=true. Allowed: false, or model.gradient_checkpointing=true in its place.",
        ),
    ],
)
def test_a_launcher_that_is_told_what_a_run_does_not_do_is_refused(
    variables: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(line)):
        connect("cpu")


def test_processes_that_do_not_reach_each_other_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a machine's name means 127.0.0.1 to itself."""

    def refuse(**_: Any) -> None:
        raise RuntimeError("Gloo connectFullMesh failed with Connection refused, remote=...\nat")

    monkeypatch.setattr(launch, "count", lambda: 2)
    monkeypatch.setattr("accelerate.PartialState", refuse)
    with pytest.raises(ProcessLost) as caught:
        connect("cpu")
    assert str(caught.value) == (
        "the processes of the run cannot connect (Gloo connectFullMesh failed with "
        "Connection refused, remote=...). If a machine's host name does not resolve to its address "
        "on the shared network, GLOO_SOCKET_IFNAME=eth0 (with GPUs also NCCL_SOCKET_IFNAME) "
        "selects the interface."
    )
