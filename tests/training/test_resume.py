"""A run that is killed and goes on ends as one that was left alone, to the bit.

Each life of a run is a forked process, which SIGKILL ends in the midst of sampling, grading, an
update, a line of a log, a checkpoint or an evaluation.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import RunConfig
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.loggers import JsonlLogger
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runs.folder import RunFolder, job_name
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime.stopping import Stop
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.evaluation import Evaluation
from grpo_policy.learner import Learner
from tests.support import forked

SMALL = [
    *("model.size=tiny", "logger=files", "trainer.steps=6", "trainer.prompts_per_step=3"),
    *("trainer.eval_problems=3", "trainer.eval_every=2", "trainer.save_every=2"),
    *("agent.group_size=4", "sampler.max_new_tokens=24", "agent.lr=1e-3"),
]
KINDS = {
    "quick": [
        *("trainer.eval_samples=2", "agent.lr_schedule=cosine", "agent.warmup_steps=2"),
        *("agent.adam_betas=[0.8,0.9]", "sampler.temperature={0: 1.0, 3: 0.7, 5: 0.9}"),
        *("agent.loss.clip_low={0: 0.2, 4: 0.01}", "agent.loss.beta={0: 0.1, 4: 0.5}"),
    ],
    "plain": ["trainer.eval_samples=2"],
    "lora": ["model.lora.rank=2"],
    "four updates a step": ["agent.epochs=2", "agent.minibatches=2", "agent.loss.beta=0"],
    "conversations": ["env=guess"],
    "mixture with levels": [
        *("env=mixture", "env.of={math: {levels: [1, 2, 3]}, countdown: 1}", "env.pace=1"),
        *("agent.sync_reference_every=2", "agent.group_size=2", "sampler.temperature=0.3"),
    ],
    "zero-variance groups are replaced": ["agent=dapo", "agent.minibatches=1"],
    "a lag": ["trainer.lag=2", "agent.minibatches=2", "sampler.temperature={0: 1.0, 5: 0.7}"],
}
PLACES: dict[str, tuple[type, str, int]] = {
    "sampling": (Stop, "check", 60),
    "grading": (GroupVectorEnv, "step", 3),
    "updating": (Learner, "_backward", 3),
    "between updates": (torch.optim.AdamW, "step", 3),
    "writing a log": (JsonlLogger, "_write", 5),
    "writing a checkpoint": (Checkpoints, "point_last_to", 1),
    "evaluating": (Evaluation, "_rows", 1),
}
"""What is counted there, and a number of calls that comes within two or three steps."""
QUICK = ("updating", "writing a checkpoint")
"""Those that the default suite tries."""


@cache
def composed(kind: str) -> RunConfig:
    longer = ["trainer.steps=24"] if kind != "quick" else []
    return compose_run([*SMALL, *longer, *KINDS[kind]])


def live(kind: str, out: Path, strike: Callable[[], None] = lambda: None) -> None:
    """Train in this process: on from the last checkpoint, or from the start."""
    cfg = deepcopy(composed(kind))
    if Checkpoints(out).newest_whole():
        cfg.resume = str(out)
    strike()
    build(cfg, out, make_envs(cfg)).run()


def in_a_child(work: Callable[[], None]) -> int:
    """Return the exit code of a forked process, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)  # no clean-up of pytest's in here
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(place: str, call: int) -> Callable[[], None]:
    """Return what makes SIGKILL come with a call of this process; half of a line is written."""
    owner, name, _ = PLACES[place]
    original = getattr(owner, name)
    calls = 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if place == "writing a log":
                with (self._run / f"{args[0]}.jsonl").open("a", encoding="utf-8") as file:
                    file.write('{"step": 99, "te')
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    return lambda: setattr(owner, name, counted)


def left_by(out: Path) -> dict[str, Any]:
    """What must be the same: all rows but their times, and hashes of the weights."""
    rows = {}
    for name in ("metrics", "completions", "eval", "eval_completions"):
        lines = (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        times = ("time/", "tokens/", "score/hidden", "memory/")
        rows[name] = [
            {key: value for key, value in json.loads(line).items() if not key.startswith(times)}
            for line in lines
        ]
    weights = sorted((out / "checkpoints" / "last").resolve().glob("*.safetensors"))
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights}
    assert hashes
    state = torch.load(out / "checkpoints" / "last" / "trainer.pt", weights_only=True)
    moments = [
        hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for each in state["agent"]["optimizer"]["state"].values()
        for value in each.values()
    ]
    return {**rows, "weights": hashes, "moments": moments}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What a run that nobody disturbs leaves."""

    @cache
    def left(kind: str) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("straight")
        assert in_a_child(lambda: live(kind, out)) == 0
        return left_by(out)

    return left


def killed(kind: str, out: Path, strikes: Sequence[tuple[str, int]]) -> int:
    """Let a run be killed as often as there are strikes, then end; return how often it was."""
    deaths = 0
    for place, call in strikes:
        strike = kill_at(place, call)
        code = in_a_child(lambda strike=strike: live(kind, out, strike))  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL), code
        deaths += code != 0
        if code == 0:  # it was over before the call came
            break
    assert in_a_child(lambda: live(kind, out)) == 0
    return deaths


forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@forks
@pytest.mark.parametrize(
    ("place", "call"),
    [
        *((place, call) for place, (_, _, call) in PLACES.items() if place in QUICK),
        *(
            pytest.param(place, call, marks=pytest.mark.slow)
            for place, (_, _, call) in PLACES.items()
            if place not in QUICK
        ),
        pytest.param(
            "writing a log",
            2,
            id="between an evaluation and its answers",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_kill_anywhere_changes_nothing(
    place: str, call: int, tmp_path: Path, straight: Callable[[str], dict[str, Any]]
) -> None:
    assert killed("quick", tmp_path, [(place, call)]) == 1
    assert left_by(tmp_path) == straight("quick")


@contextmanager
def busy() -> Iterator[None]:
    """Have two other processes compute meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@forks
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "quick"])
def test_ten_kills_at_random_change_nothing(
    kind: str, tmp_path: Path, straight: Callable[[str], dict[str, Any]]
) -> None:
    rng = random.Random(kind)
    places = [*PLACES, *rng.sample(list(PLACES), 3)]
    rng.shuffle(places)
    strikes = [(place, rng.randint(1, PLACES[place][2])) for place in places]
    undisturbed = straight(kind)
    with busy():
        assert killed(kind, tmp_path, strikes) == 10
    assert left_by(tmp_path) == undisturbed
    levels = {row.get("env/math/level") for row in straight(kind)["metrics"]}
    assert len(levels) > 1 or kind != "mixture with levels"  # there is a state to be lost


@forks
def test_a_checkpoint_that_was_cut_short_is_passed_over(
    tmp_path: Path,
    straight: Callable[[str], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert in_a_child(lambda: live("quick", tmp_path, kill_at("updating", 5))) == -signal.SIGKILL
    newest = Checkpoints(tmp_path).newest_whole()
    assert newest is not None
    assert newest.name == "step_000004"
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    older = Checkpoints(tmp_path).newest_whole()
    assert older is not None
    assert older.name == "step_000002"
    assert Checkpoints(tmp_path).require(composed("quick").decisive()) == 2
    assert "step_000004 is not whole (model.safetensors has 1,000 of" in caplog.text
    assert in_a_child(lambda: live("quick", tmp_path)) == 0
    assert left_by(tmp_path) == straight("quick")


# A folder whose only checkpoint is broken

SHORT = [
    *("trainer.steps=2", "trainer.prompts_per_step=2", "trainer.eval_problems=2"),
    *("trainer.save_every=2", "agent.group_size=2", "sampler.max_new_tokens=8"),
    "logger.names=[jsonl,csv,tensorboard]",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done; only its last step has a checkpoint."""
    cwd = tmp_path_factory.mktemp("short")
    done = forked.run(cwd, "grpo_envs.run", *SHORT, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return cwd / "run"


def break_in(folder: Path, finished: Path) -> bytes:
    """Leave a run in a folder that was cut off, whose only checkpoint lacks most of its weights."""
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "done.json").unlink()
    weights = folder / "checkpoints" / "step_000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:  # steps that are lost
        file.write('{"step": 3, "reward/mean": 0.5}\n{"step": 4, "rew')
    return weights.read_bytes()


@forks
@pytest.mark.parametrize(
    ("args", "place"),
    [
        pytest.param(["hydra.run.dir=run", "resume=auto"], "run", id="resume=auto"),
        pytest.param(["resume=run"], "run", id="resume=FOLDER"),
        pytest.param(["resume=run", "trainer.steps=3"], "run", id="resume=FOLDER for longer"),
        pytest.param(["hydra.run.dir=run"], "run", id="the same command"),
        pytest.param(["-m", "hydra.sweep.dir=here"], f"here/{job_name(SHORT)}", id="a sweep"),
    ],
)
def test_a_run_whose_only_checkpoint_is_broken_starts_anew(
    args: list[str], place: str, tmp_path: Path, finished: Path
) -> None:
    folder = tmp_path / place
    lost = break_in(folder, finished)
    flags, more = ([word for word in args if (word == "-m") is flag] for flag in (True, False))
    done = forked.run(tmp_path, "grpo_envs.run", *flags, *SHORT, *more)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "whole" in line or "anew" in line]
    assert told == [
        f"{place}: no checkpoint is whole; the run starts anew. Kept in {place}/checkpoints: "
        f"broken_step_000002 (model.safetensors has 1,000 of 3,441,904 bytes)"
    ]
    kept = folder / "checkpoints" / "broken_step_000002"
    assert (kept / "model.safetensors").read_bytes() == lost
    last = 3 if "trainer.steps=3" in args else 2
    assert (folder / "checkpoints" / "last").resolve().name == f"step_{last:06d}"
    assert RunFolder(folder).result is not None
    for name, steps in (("metrics", range(1, last + 1)), ("eval", (0, last))):
        rows = [row["step"] for row in read_jsonl(folder / f"{name}.jsonl")]
        table = (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert rows == [int(row.partition(",")[0]) for row in table] == [*steps]
    drawn = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}).Reload()
    for name, steps in (("reward/mean", range(1, last + 1)), ("eval/accuracy", (0, last))):
        assert [event.step for event in drawn.Scalars(name)] == [*steps]
    if last == 2:
        assert left_by(folder)["weights"] == left_by(finished)["weights"]


@forks
def test_what_begins_anew_can_be_told_so_twice(tmp_path: Path, finished: Path) -> None:
    """It is broken again before it is done, and both are kept."""
    folder = tmp_path / "run"
    break_in(folder, finished)
    kept = folder / "checkpoints" / "broken_step_000002"
    shutil.copytree(folder / "checkpoints" / "step_000002", kept)
    done = forked.run(tmp_path, "grpo_envs.run", *SHORT, "resume=run")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["broken_step_000002", "broken_step_000002-2", "last", "step_000002"]


@forks
@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param(
            ["resume=run", "seed=1", "env.level=3"],
            "resume=run: another configuration: env.level=null then, 3 now; seed=0 then, 1 now. "
            "As it was: seed=0 without env.level\n",
        ),
        pytest.param(["hydra.run.dir=run", "seed=1"], "run holds another run: seed=0 then, 1 now."),
        pytest.param(["resume=nowhere"], "resume=nowhere: no checkpoint in it."),
    ],
)
def test_a_run_of_another_configuration_is_not_begun_in_its_place(
    args: list[str], said: str, tmp_path: Path, finished: Path
) -> None:
    break_in(tmp_path / "run", finished)
    done = forked.run(tmp_path, "grpo_envs.run", *SHORT, *args)
    assert done.returncode == 1
    assert done.stderr.startswith(f"grpo_envs: {said}")
    assert (tmp_path / "run" / "checkpoints" / "step_000002").is_dir()


@forks
def test_a_run_that_was_cut_off_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, finished: Path
) -> None:
    break_in(tmp_path / "run", finished)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    done = forked.run(tmp_path, "grpo_envs.run", *SHORT, "resume=run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run: no checkpoint yet; the run starts anew.") == 1
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


@forks
def test_a_run_that_was_done_and_is_made_longer_is_not_done_while_it_goes_on(
    tmp_path: Path, finished: Path
) -> None:
    """Killed on its way, the same command with resume=auto goes on."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    longer = [*SHORT, "trainer.steps=400", "trainer.save_every=1", "hydra.run.dir=run"]
    process = forked.Forked(tmp_path, "grpo_envs.run", *longer, "resume=auto")
    try:
        while not (tmp_path / "run" / "checkpoints" / "step_000003").is_dir():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert RunFolder(tmp_path / "run").result is None
