"""Faults of machines and plugins, made for real: one line, and nothing is lost that was saved."""

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig
from grpo_envs import GroupVectorEnv, Problem, Reward, TextEnv, batched
from grpo_envs.config.composition import compose_run
from grpo_envs.env.function import Function
from grpo_envs.env.rewards import score_safely
from grpo_envs.errors import ConfigError
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.newest import newest_cut_off
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.training.environments import make_envs
from grpo_envs.types import Completion, Group
from grpo_policy.learner import OutOfMemory
from grpo_policy.models import TINY, load_policy
from grpo_policy.samplers import Decoding
from tests.support import forked

FAULTS = run_path(str(Path(__file__).parents[2] / "docs" / "faults.py"))
"""What injects the faults of docs/faults.md."""
Place: Any = FAULTS["Place"]
QUICK = [
    *("trainer.steps=40", "trainer.prompts_per_step=2", "trainer.eval_problems=2"),
    *("trainer.save_every=2", "agent.group_size=4", "sampler.max_new_tokens=24", "logger=files"),
]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "grpo_envs.run", *QUICK, *args]


def run(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args), cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


def steps(folder: Path) -> list[int]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["step"] for line in text.splitlines() if line.endswith("}")]


def until_step(process: subprocess.Popen[str] | forked.Forked, folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not ((folder / "metrics.jsonl").is_file() and len(steps(folder)) >= count):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB: the second checkpoint of the bundled model does not fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no tmpfs may be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_with_a_line_and_the_run_goes_on_where_there_is_room(
    small_disk: Path,
) -> None:
    done = run(small_disk.parent, "hydra.run.dir=disk/run", "trainer.steps=4")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("grpo_envs: disk/run/checkpoints/step_000004 cannot be written: ")
    assert "No space left on device" in line
    assert line.endswith("step_000002 is whole, resume=auto continues from it.")
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    again = run(small_disk.parent, "hydra.run.dir=disk/run", "trainer.steps=4", "resume=auto")
    assert again.returncode == 0, again.stderr
    assert steps(small_disk / "run") == [1, 2, 3, 4]
    AutoModelForCausalLM.from_pretrained(small_disk / "run" / "checkpoints" / "last")


def test_a_place_that_cannot_be_written_is_one_line(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run(small_disk.parent, "hydra.run.dir=disk/run")
    assert done.returncode == 1
    assert done.stderr.startswith("grpo_envs: Read-only file system (disk/run).")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "times",
    [pytest.param([1, 3], id="twice", marks=pytest.mark.slow), pytest.param([2], id="once")],
)
def test_sigterm_saves_and_exits_0_and_auto_goes_on(tmp_path: Path, times: list[int]) -> None:
    """As a cluster does that takes the machine away and starts the same command again."""
    folder = tmp_path / "run"
    args = ["hydra.run.dir=run", "resume=auto", "trainer.steps=8", "trainer.save_every=99"]
    for least in times:
        process = forked.Forked(tmp_path, "grpo_envs.run", *QUICK, *args)
        until_step(process, folder, least)
        time.sleep(random.random() / 2)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert time.monotonic() - start < 30
        assert "SIGTERM: saving, then ending." in printed
        saved = Checkpoints(folder).newest_whole()
        assert saved is not None
        assert saved.name == f"step_{steps(folder)[-1]:06d}"
    last = forked.run(tmp_path, "grpo_envs.run", *QUICK, *args)
    assert last.returncode == 0, last.stderr
    assert steps(folder) == list(range(1, 9))


def test_sigterm_before_there_is_anything_to_save_exits_0(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("hydra.run.dir=run"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / ".hydra").is_dir():  # then it imports torch
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == "grpo_envs: SIGTERM: ended, there was nothing to save.\n"
    RunFolder(tmp_path / "run").require_same({})  # nobody's: the same command begins there anew


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        done = run(tmp_path, "hydra.run.dir=run")
    assert done.returncode == 1
    assert done.stderr == "grpo_envs: run: another run is using it.\n"
    with folder.locked():  # who is gone holds nothing
        pass


def test_auto_finds_the_newest_of_the_same_command(tmp_path: Path) -> None:
    said = ["env=math", "seed=1"]
    for name, overrides, done in (
        ("2026-01-01", said, False),
        ("2026-01-02", [*said, "resume=auto"], False),
        ("2026-01-03", said, True),
        ("2026-01-04", ["env=math", "seed=2"], False),
    ):
        folder = RunFolder(tmp_path / name)
        folder.claim({}, overrides)
        if done:
            folder.finish(1, {})
    assert newest_cut_off(tmp_path, [*said, "resume=auto"]) == tmp_path / "2026-01-02"
    assert newest_cut_off(tmp_path, ["env=code"]) is None


@pytest.mark.slow
def test_old_checkpoints_go_when_only_some_are_kept(tmp_path: Path) -> None:
    args = ["hydra.run.dir=run", "trainer.steps=6", "trainer.keep_checkpoints=2"]
    assert run(tmp_path, *args).returncode == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["last", "step_000004", "step_000006"]


class Fatal(TextEnv):
    """Its grader dies of some answers, as of a bug in a library in C."""

    concurrency = "processes"

    def problem(self, seed: int, split: str | None = None) -> Problem:
        return Problem(prompt="?", gold="", solution="yes")

    def score(self, problem: Problem, answer: str) -> Reward:
        if answer == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Reward(parts={"correct": float(answer == "yes")})


@pytest.mark.slow
def test_an_answer_that_kills_its_grader_is_invalid_and_the_others_are_graded() -> None:
    envs = GroupVectorEnv(Fatal(), 4, 4)
    envs.reset(seed=[0])
    _, rewards, _, _, infos = envs.step(["yes", "die", "no", "yes"])
    assert rewards.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert infos["reward_valid"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert "the grading process died" in infos["detail"][1]
    envs.reset(seed=[1])  # the pool is there again
    assert envs.step(["yes"] * 4)[1].tolist() == [1.0] * 4
    envs.close()


@pytest.mark.slow
def test_grading_processes_that_were_killed_while_idle_cost_no_answer() -> None:
    """As by the kernel for want of memory: the broken pool refuses what comes next."""
    envs = GroupVectorEnv(Fatal(), 4, 4)
    for seed in range(2):
        envs.reset(seed=[seed])
        _, rewards, _, _, infos = envs.step(["yes", "no", "no", "yes"])
        assert rewards.tolist() == [1.0, 0.0, 0.0, 1.0]
        assert infos["reward_valid"].all()
        assert FAULTS["kill_helpers"](os.getpid(), named="spawn_main") > 0
        time.sleep(0.5)
    envs.close()


def test_a_run_in_a_locked_folder_is_told_apart_from_a_mistake(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with (
        folder.locked(),
        pytest.raises(ConfigError, match="another run is using it"),
        RunFolder(tmp_path).locked(),
    ):
        pass


# Reward functions


def grade_with(function: Any, answers: list[str]) -> list[Reward]:
    """What a reward function makes of answers, as the environment asks it."""
    whole = getattr(function, "batched", False)
    asked = Function("f", function, whole=whole, timeout=0.3)
    return score_safely(asked, [Problem(prompt="", gold="", solution="")] * len(answers), answers)


def slow(problem: Problem, answer: str) -> float:
    if answer == "sleep":
        time.sleep(60)
    if answer == "exit":
        sys.exit("enough")
    return float(answer == "yes")


async def slow_service(problem: Problem, answer: str) -> float:
    if answer == "sleep":
        await asyncio.sleep(60)
    return slow(problem, answer)


@batched
def slow_together(problems: Sequence[Problem], answers: Sequence[str]) -> list[float]:
    return [slow(problem, answer) for problem, answer in zip(problems, answers, strict=True)]


@pytest.mark.parametrize("function", [slow, slow_service, slow_together])
def test_a_reward_function_that_sleeps_costs_its_own_answer(function: Any) -> None:
    start = time.monotonic()
    rewards = grade_with(function, ["yes", "sleep", "no", "yes"])
    assert [reward.valid for reward in rewards] == [True, False, True, True]
    assert "took longer than 0.3 s" in rewards[1].error
    assert [reward.parts.get("f") for reward in rewards] == [1.0, None, 0.0, 1.0]
    assert time.monotonic() - start < 5


def test_one_that_always_sleeps_is_not_asked_for_ever() -> None:
    start = time.monotonic()
    rewards = grade_with(slow, ["sleep"] * 200)
    assert not any(reward.valid for reward in rewards)
    assert rewards[-1].error == "f: TimeoutError: not asked: 3 others took longer than 0.3 s"
    assert time.monotonic() - start < 5


def test_one_that_exits_costs_its_own_answer() -> None:
    rewards = grade_with(slow, ["yes", "exit", "no"])
    assert [reward.valid for reward in rewards] == [True, False, True]
    assert rewards[1].error == "f: SystemExit: enough"


# Memory


def make_groups(rows: int, tokens: int) -> list[Group]:
    """A group whose members say something each, at length."""
    ids = tuple(5 + i % 90 for i in range(tokens))
    said = Completion(text="", token_ids=ids, logprobs=(-4.0,) * tokens)
    rewards = tuple(Reward(parts={"correct": float(i % 2)}) for i in range(rows))
    return [Group(key=0, prompt="", prompt_ids=(5,), completions=(said,) * rows, rewards=rewards)]


def memory(name: str) -> int:
    """VmSize or VmPeak of this process [bytes]."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if name in x]
    return int(line.split()[1]) * 1024


def update_in_a_child(micro_batch_tokens: int, limit: int | None) -> dict[str, Any]:
    """Make an update in a forked process that may have `limit` more bytes than it begins with."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        outcome: dict[str, Any] = {}
        try:
            policy = load_policy(str(TINY))
            cfg = GrpoConfig(lr=1e-3, loss=LossConfig(beta=0.0))
            cfg.micro_batch_tokens = micro_batch_tokens
            accelerator = Accelerator(cpu=True)
            agent = GrpoAgent(policy, cfg, accelerator, Decoding(max_new_tokens=256))
            before = memory("VmSize")
            if limit is not None:
                most = resource.getrlimit(resource.RLIMIT_AS)[1]
                resource.setrlimit(resource.RLIMIT_AS, (before + limit, most))
            try:
                agent.update(make_groups(64, 256))
            except OutOfMemory as error:
                outcome["error"] = str(error)
            outcome |= {
                "grown": memory("VmPeak") - before,
                "tokens": agent.learner.micro_batch_tokens,
            }
            outcome["weight"] = float(policy.trained_parameters()[1].detach().double().sum())
        finally:
            os.write(there, json.dumps(outcome).encode())
            os._exit(0)
    os.close(there)
    with os.fdopen(here) as pipe:
        outcome = json.loads(pipe.read())
    os.waitpid(child, 0)
    return outcome


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_update_that_does_not_fit_is_made_in_halves_or_told_of() -> None:
    whole, halved = (update_in_a_child(tokens, None) for tokens in (16448, 8224))
    assert halved["grown"] < 0.8 * whole["grown"]  # else nothing would be shown below
    between = (whole["grown"] + halved["grown"]) // 2
    saved = update_in_a_child(16448, between)
    assert "error" not in saved
    assert saved["tokens"] == 8224
    assert saved["weight"] == pytest.approx(halved["weight"], rel=1e-6)
    lost = update_in_a_child(16448, halved["grown"] // 3)
    assert lost["error"].startswith("out of memory with micro-batches of 8224 tokens, half of ")
    assert "model.gradient_checkpointing=true" in lost["error"]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 4])
def test_the_death_of_the_sandboxs_helpers_costs_no_run(tmp_path: Path, times: int) -> None:
    """All of them at once; once, no answer is lost. Again and again, some may be."""
    place = Place(tmp_path)
    given = ("hydra.run.dir=run", "env=code", "trainer.steps=15", "trainer.max_invalid_fraction=1")
    process = place.started(*given)
    for _ in range(times):
        assert FAULTS["kill_helpers"](process.pid) > 0
        time.sleep(0.3)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    assert "; a new worker runs the program again" in printed
    assert steps(tmp_path / "run") == list(range(1, 16))
    rows = read_jsonl(tmp_path / "run" / "completions.jsonl")
    invalid = [row["error"] for row in rows if not row["valid"]]
    assert all("SandboxError: a program could not be run, twice: " in error for error in invalid)
    assert times > 1 or not invalid


@pytest.mark.slow
def test_a_reward_function_that_kills_its_process_costs_its_own_answers(tmp_path: Path) -> None:
    place = Place(tmp_path)
    given = ("hydra.run.dir=run", "env=apart", "env.rewards={kills: 0.1}", "trainer.steps=2")
    code, line = place.run(*given, "trainer.max_invalid_fraction=1", about="invalid")
    assert code == 0, line
    assert "rewards are invalid: the grading process died: " in line
    rows = read_jsonl(tmp_path / "run" / "completions.jsonl")
    assert {row["valid"] for row in rows} == {True, False}
    for row in rows:  # it kills at every fifth length
        assert row["valid"] == (len(row["text"]) % 5 > 0)


@pytest.mark.slow
def test_a_leak_is_told_of_ends_with_a_line_and_the_run_goes_on(tmp_path: Path) -> None:
    """A reward function that keeps a MiB of each answer, and a machine with 500 MiB to give."""
    place = Place(tmp_path)
    given = ("hydra.run.dir=run", "env.rewards={leaks: 0.1}")
    code, printed = place.starved(500, *given, "trainer.steps=400")
    assert code == 1
    assert "Traceback" not in printed
    *_, line = printed.splitlines()
    assert line.startswith("grpo_envs: ")
    assert "MemoryError" in line or "out of memory" in line
    (warning,) = [
        line for line in printed.splitlines() if "memory of the run's process grows" in line
    ]
    assert warning.startswith("step 40: ")
    saved = Checkpoints(tmp_path / "run").newest_whole()
    assert saved is not None
    last = int(saved.name.removeprefix("step_")) + 3
    code, line = place.run(*given, "resume=auto", f"trainer.steps={last}")
    assert (code, line) == (0, "checkpoint: run/checkpoints/last")
    assert steps(tmp_path / "run") == list(range(1, last + 1))


def test_a_name_of_a_reward_that_yaml_takes_for_a_number_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^a name in env\.rewards=nan\. Allowed: text"):
        make_envs(compose_run(["env.rewards={nan: 1}"]))
