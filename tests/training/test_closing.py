"""Environments are closed, once, however a command ends that made them."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.runs.folder import RunFolder
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from tests.support import forked

COUNTED = """
import itertools
import threading
import time
from pathlib import Path

from grpo_env_math import MathEnv

numbers = itertools.count()

class Counted(MathEnv):
    '''Notes when it is made and when it is closed.'''

    concurrency = "threads"

    def __init__(self, split="train", rewards=None, render_mode=None, fails: str = ""):
        if fails == f"made {split}":
            raise ValueError("no such server")
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        self.fails, self.number = fails, next(numbers)
        self.note("made")

    def note(self, what):
        with Path("notes").open("a") as file:
            file.write(f"{what} {self.split} {self.number}\\n")

    def score_batch(self, problems, answers):
        if self.fails == "graded":
            raise ValueError("no such server")
        if self.fails == "slow":
            time.sleep(0.5)
        return super().score_batch(problems, answers)

    def close(self):
        self.note("closed")
        names = [thread.name for thread in threading.enumerate()]
        if any(name.startswith("ThreadPool") for name in names):
            self.note("still grades")
        if self.fails == "closed":
            raise ValueError("no such server")
"""
QUICK = [
    *("env=counted", "trainer.steps=2", "trainer.prompts_per_step=2", "trainer.eval_problems=2"),
    *("trainer.eval_samples=2", "agent.group_size=2", "sampler.max_new_tokens=8"),
    "logger.names=[jsonl]",
]
BOTH = ["eval", "train"]


@pytest.fixture(scope="module", autouse=True)
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A package with an environment that counts."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "counted.py").write_text(COUNTED, encoding="utf-8")
    info = folder / "counted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grpo_envs.envs]\ncounted = counted:Counted\n")
    sys.path.insert(0, str(folder))
    name = "grpo_envs/counted-v0"
    gymnasium.register(id=name, entry_point="counted:Counted", disable_env_checker=True)
    yield
    gymnasium.registry.pop(name)
    sys.path.remove(str(folder))


def notes(cwd: Path, word: str) -> list[str]:
    """Split and number of the environments that were made, or closed."""
    lines = (cwd / "notes").read_text(encoding="utf-8").splitlines()
    return sorted(line.removeprefix(word) for line in lines if line.startswith(word))


def closed(cwd: Path) -> list[str]:
    """The splits of those that were closed; that is each of those that were made, once."""
    assert notes(cwd, "closed ") == notes(cwd, "made ")
    assert notes(cwd, "still grades ") == []
    return [note.partition(" ")[0] for note in notes(cwd, "closed ")]


@pytest.mark.parametrize(
    ("args", "code", "said", "expected"),
    [
        pytest.param([], 0, "", BOTH, id="it ends"),
        pytest.param(["env.fails=graded"], 1, "are invalid, more than", BOTH, id="grading fails"),
        pytest.param(["model.path=nowhere"], 1, "model.path=nowhere", BOTH, id="no such model"),
        pytest.param(
            ["env.fails=made eval"], 1, "no such server", BOTH[1:], id="one cannot be made"
        ),
    ],
)
def test_of_a_run(
    args: list[str], code: int, said: str, expected: list[str], tmp_path: Path
) -> None:
    done = forked.run(tmp_path, "grpo_envs.run", *QUICK, *args, "hydra.run.dir=run")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert closed(tmp_path) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_of_a_run_that_is_stopped(number: signal.Signals, code: int, tmp_path: Path) -> None:
    args = [*QUICK, "trainer.steps=400", "hydra.run.dir=run"]
    process = forked.Forked(tmp_path, "grpo_envs.run", *args)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    assert closed(tmp_path) == BOTH


def test_of_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    args = ["-m", *QUICK, "env.fails=graded,''", "hydra.sweep.dir=here"]
    done = forked.run(tmp_path, "grpo_envs.run", *args)
    assert done.returncode == 1
    assert closed(tmp_path) == sorted(2 * BOTH)


def test_a_close_that_fails_costs_no_result(tmp_path: Path) -> None:
    done = forked.run(tmp_path, "grpo_envs.run", *QUICK, "env.fails=closed", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Counted.close() failed: ValueError: no such server") == 2
    assert RunFolder(tmp_path / "run").result is not None
    assert closed(tmp_path) == BOTH


@pytest.mark.parametrize(
    ("args", "code", "times"),
    [
        pytest.param(["model.size=tiny"], 0, 1, id="it ends"),
        pytest.param(["a=tiny", "b=tiny"], 0, 2, id="two models"),
        pytest.param(["model.path=nowhere"], 2, 1, id="no such model"),
        pytest.param(["--problems", "0"], 2, 1, id="no problems"),
    ],
)
def test_of_an_evaluation(args: list[str], code: int, times: int, tmp_path: Path) -> None:
    few = ["--samples=2"] + ([] if "--problems" in args else ["--problems=2"])
    done = forked.run(tmp_path, "grpo_envs.evaluate", QUICK[0], QUICK[-2], *args, *few)
    assert done.returncode == code, done.stderr
    assert closed(tmp_path) == ["eval"] * times


def test_of_an_evaluation_that_is_stopped(tmp_path: Path) -> None:
    args = [QUICK[0], "model.size=tiny", "--problems=4000", "--samples=2", "env.fails=slow"]
    process = forked.Forked(tmp_path, "grpo_envs.evaluate", *args)
    while not list(tmp_path.glob("outputs/evaluate/counted/*/completions.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, closed(tmp_path)) == (130, ["eval"])
    assert errors == "grpo_envs: stopped; the same command continues from here.\n"


@pytest.mark.parametrize(
    ("module", "args"),
    [
        pytest.param("check", ["--problems=2"], id="check"),
        pytest.param("check", ["--problems=2", "env.fails=graded"], id="check, broken"),
        pytest.param("play", ["--raw"], id="play"),
    ],
)
def test_of_commands_that_look_at_one(module: str, args: list[str], tmp_path: Path) -> None:
    forked.run(tmp_path, f"grpo_envs.{module}", "env=counted", *args, said="7\n.\nq\n")
    # Gymnasium's own check_env makes some more, and closes one of them twice.
    assert {*notes(tmp_path, "closed ")} == {*notes(tmp_path, "made ")}


def graders() -> set[threading.Thread]:
    """Threads that grade; those of other tests may still be there, and end meanwhile."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")}


def test_the_threads_that_grade_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = graders()
    cfg = compose_run([*QUICK, "model.size=tiny"])
    envs = make_envs(cfg)
    trainer = build(cfg, tmp_path / "run", envs)
    trainer.run()
    assert graders() - before
    trainer.evaluation.close()
    envs.close()
    assert not graders() - before
    assert closed(tmp_path) == BOTH
    trainer.evaluation.close()  # a second time: nothing is left
    envs.train.close()
    assert len(closed(tmp_path)) == 2
