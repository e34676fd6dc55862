"""What a process knows of its launcher, and its share of the machine."""

import os
import signal
import sys

import pytest

from grpo_envs import evaluate
from grpo_envs.graders.math.workers import Pool
from grpo_envs.runtime import launch
from grpo_envs.runtime.processes import ALONE, connect
from grpo_envs.runtime.stopping import Stop, StopNow
from grpo_envs.sandbox.pool import LocalPool

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts the second process of the third machine, which has six cores."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)


@pytest.mark.usefixtures("launched")
def test_a_process_knows_its_place_and_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (launch.index(), launch.count(), launch.speaks()) == (5, 8, False)
    assert launch.cores() == 3
    assert (Pool().size, LocalPool()._size) == (3, 3), "pools have the share"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "48")
    assert launch.cores() == 1
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launch.speaks()


@pytest.mark.usefixtures("launched")
def test_variables_that_are_not_torchruns_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK")  # as in pods that know their number and no more
    assert (launch.index(), launch.count(), launch.cores()) == (0, 1, 6)
    assert connect("cpu") is ALONE


def test_in_several_processes_ctrl_c_does_not_wait_for_the_step() -> None:
    for patient in (True, False):
        stop = Stop(patient=patient)
        with stop.listening():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            assert stop.terminated is not patient
            if patient:
                stop.check()
            else:
                os.kill(os.getpid(), signal.SIGINT)  # a second one does not kill
                with pytest.raises(StopNow):
                    stop.check()


@pytest.mark.usefixtures("launched")
def test_an_evaluation_is_not_made_by_every_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "env=math"])
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    assert ended.value.code == 2
    assert "8 processes would all answer everything. Allowed: one." in capsys.readouterr().err
