"""Where answers are graded: the choice by device, and processes that grade as this one does."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_math import MathEnv
from grpo_envs.env.ahead import Ahead
from grpo_envs.env.function import Function
from grpo_envs.env.grading import place, reentrant
from grpo_envs.env.rewards import Part
from grpo_envs.env.text import TextEnv
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.launch import cores
from grpo_envs.types import Group, Problem, Reply, Reward, Turn
from tests.support.needed import needed


class Pure(TextEnv):
    """Two pure functions. The note says which process graded."""

    sent = 0

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"{rng.random()}?", gold="right", solution="right")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.gold)}, note=str(os.getpid()))

    def __getstate__(self) -> dict[str, Any]:
        Pure.sent += 1
        return self.__dict__.copy()


class Learning(Pure):
    def adapt(self, groups: Sequence[Group]) -> None:
        """Remember them."""


class Locked(Pure):
    def __init__(self) -> None:
        super().__init__()
        self.reader = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115  `close` closes it

    def close(self) -> None:
        self.reader.close()


class Threaded(Pure):
    concurrency = "threads"


class InTurn(Pure):
    concurrency = "none"


@pytest.mark.parametrize(
    ("kind", "asked", "device", "expected"),
    [
        (Pure, "auto", "cpu", "none"),
        (Pure, "auto", "cuda", "processes"),
        (Pure, "none", "cuda", "none"),
        (Pure, "threads", "cuda", "threads"),
        (Pure, "processes", "cpu", "processes"),
        (Threaded, "auto", "cuda", "threads"),
        (InTurn, "auto", "cuda", "none"),
        (Learning, "auto", "cpu", "none"),
    ],
)
def test_the_place_goes_by_the_device_unless_it_is_said(
    kind: type[TextEnv], asked: str, device: str, expected: str
) -> None:
    assert place(kind(), asked, device) == (expected, "")


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (Learning, "Learning learns from the groups of a step (adapt)"),
        (Locked, "Locked cannot be sent to a process (TypeError: cannot pickle"),
    ],
)
def test_what_cannot_move_stays_and_says_so(kind: type[TextEnv], cause: str) -> None:
    env = kind()
    where, said = place(env, "auto", "cuda")
    assert (where, said[: len(cause)]) == ("none", cause)
    with pytest.raises(ConfigError) as caught:
        place(env, "processes", "cpu")
    assert str(caught.value) == f"trainer.graders=processes: {said}. Allowed: auto, none, threads."
    env.close()


def test_a_function_of_all_answers_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pure, "grades_each_alone", False)
    assert place(Pure(), "auto", "cuda") == (
        "none",
        "Pure has a reward function that takes all answers of a step at once",
    )


@pytest.mark.parametrize("name", ["math", "countdown", "guess", "format"])
def test_our_environments_of_pure_python_go_to_processes(name: str) -> None:
    assert place(grpo_envs.make(name), "auto", "cuda") == ("processes", "")


def graders(vector: GroupVectorEnv) -> set[int]:
    """Grade four answers ahead; return which processes did."""
    vector.reset(seed=[1, 2])
    answers = ["right", "wrong", "right", "right"]
    vector.score_ahead(dict(enumerate(answers)))
    _, rewards, *_, info = vector.step(answers)
    assert rewards.tolist() == [1, 0, 1, 1], info["detail"]
    return {int(note) for note in info["detail"]}


def test_processes_get_the_environment_once_and_bear_ctrl_c() -> None:
    vector = GroupVectorEnv(Pure(), 4, 2)
    assert graders(vector) == {os.getpid()}
    vector.grade_in("processes")
    Pure.sent = 0
    first = graders(vector)
    assert os.getpid() not in first
    for pid in first:
        os.kill(pid, signal.SIGINT)  # as the terminal does, to all of the run
    workers = first | graders(vector) | graders(vector)
    assert Pure.sent == 1
    assert len(workers) <= len(vector._graders._executor._processes)  # type: ignore[union-attr]
    vector.close()
    assert not any(map(_runs, workers))


class Counting(Pure):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": 1.0}, note=str(cores()))


def test_each_of_the_processes_has_one_core_for_pools_of_its_own() -> None:
    vector = GroupVectorEnv(Counting(), 4, 2)
    vector.grade_in("processes")
    vector.reset(seed=[1, 2])
    *_, info = vector.step([""] * 4)
    vector.close()
    assert set(info["detail"]) == {"1"}


def test_batches_are_graded_side_by_side_where_there_are_copies_for_them() -> None:
    both = threading.Barrier(2, timeout=10)

    def grade(members: Sequence[int], actions: Mapping[int, Turn]) -> list[Reply]:
        both.wait()  # raises unless another batch comes
        return [Reply(reward=Reward(note=actions[i].action)) for i in members]

    ahead = Ahead(grade, at_once=2)
    batches = [{0: Turn(action="a")}, {1: Turn(action="b")}]
    for batch in batches:
        ahead.begin(batch)
    replies, _ = ahead.take(batches[0] | batches[1])
    ahead.close()
    assert {i: reply.reward.note for i, reply in replies.items()} == {0: "a", 1: "b"}


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    from test_grading import GroupVectorEnv, Pure, graders
    vector = GroupVectorEnv(Pure(), 4, 2)
    vector.grade_in("processes")
    print(*graders(vector), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(KILLED, encoding="utf-8")
    given = [sys.executable, str(script), str(Path(__file__).parent)]
    done = subprocess.run(given, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    workers = list(map(int, done.stdout.split()))
    assert workers
    until = time.monotonic() + 30
    while any(map(_runs, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] != "Z"


def test_which_environments_threads_may_call_at_once() -> None:
    gym = needed("gym")
    assert reentrant(grpo_envs.make("math"))
    assert reentrant(grpo_envs.make("code"))  # its programs run side by side
    assert not reentrant(grpo_envs.make("gym", **gym))
    assert reentrant(grpo_envs.make("mixture", of={"math": 1, "code": 1}))
    assert not reentrant(grpo_envs.make("mixture", of={"math": 1, "gym": {"weight": 1, **gym}}))


# Environments that wait


class Waiting(Pure):
    """Its answers are graded once so many calls are in flight as `workers` says."""

    concurrency = "threads"
    workers = 64

    def __init__(self, waits_for: int = 64) -> None:
        super().__init__()
        self.barrier = threading.Barrier(waits_for, timeout=10)

    def score(self, problem: Problem, answer: str) -> Reward:
        self.barrier.wait()
        return super().score(problem, answer)


def test_so_many_calls_are_in_flight_at_once_as_there_are_workers() -> None:
    members = GroupVectorEnv(Waiting(), num_envs=128, group_size=8)
    members.reset(seed=list(range(16)))
    rewards = members.step(["right", "wrong"] * 64)[1]
    assert rewards.tolist() == [1.0, 0.0] * 64
    members.close()


def test_groups_that_wait_are_graded_side_by_side_while_others_are_sampled() -> None:
    """Four groups of eight are begun one by one: none of them ends before all are in flight."""
    members = GroupVectorEnv(Waiting(waits_for=32), num_envs=32, group_size=8)
    members.grade_in("threads")
    members.reset(seed=[1, 2, 3, 4])
    for first in range(0, 32, 8):
        members.score_ahead(dict.fromkeys(range(first, first + 8), "right"))
    assert members.step(["right"] * 32)[1].tolist() == [1.0] * 32
    members.close()


def test_a_function_of_all_answers_sees_all_of_them_where_others_are_graded_in_threads() -> None:
    seen: list[int] = []

    def count(_problems: Sequence[Problem], answers: Sequence[str]) -> list[float]:
        seen.append(len(answers))
        return [0.0 for _ in answers]

    env = Threaded()
    env._functions = {"count": Function("count", grpo_envs.batched(count), whole=True)}
    env._parts["count"] = Part()
    members = GroupVectorEnv(env, num_envs=8, group_size=4)
    members.reset(seed=[1, 2])
    members.step(["right"] * 8)
    assert seen == [8]
    members.close()


def test_a_mixture_waits_as_its_environments_do(monkeypatch: pytest.MonkeyPatch) -> None:
    of: dict[str, Any] = {"math": 1, "countdown": 1}
    assert grpo_envs.make("mixture", of=of).workers is None
    monkeypatch.setattr(MathEnv, "concurrency", "threads")
    monkeypatch.setattr(MathEnv, "workers", 3)
    mixed = grpo_envs.make("mixture", of=of)
    assert (mixed.concurrency, mixed.workers) == ("threads", 3)
    gym = {"weight": 1, **needed("gym")}
    assert grpo_envs.make("mixture", of={**of, "gym": gym}).concurrency == "none"
