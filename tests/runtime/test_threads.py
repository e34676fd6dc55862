"""How many threads compute is decided by the model, said, and kept by a run that goes on."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from grpo_envs.config.schema import TrainerConfig
from grpo_envs.errors import ConfigError
from grpo_envs.runtime import threads
from grpo_envs.runtime.threads import settle, threads_for

SMALL, LARGE = 900_000, 135_000_000


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Other tests compute with as many threads as they did."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize(
    ("asked", "parameters", "given", "expected"),
    [
        pytest.param("auto", SMALL, None, 1, id="a small model gains little by more"),
        pytest.param("auto", LARGE, None, 4, id="a larger one takes the cores"),
        pytest.param("auto", LARGE, "3", 3, id="OMP_NUM_THREADS says it"),
        pytest.param(2, SMALL, "3", 2, id="the key says it"),
    ],
)
def test_threads_follow_the_model(
    asked: int | str,
    parameters: int,
    given: str | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_for(asked, parameters) == expected
    shared = expected // 2 if (asked, given, parameters) == ("auto", None, LARGE) else expected
    assert threads_for(asked, parameters, processes=2) == shared


@pytest.mark.parametrize(
    ("asked", "recorded", "expected", "said"),
    [
        pytest.param("auto", None, 1, "1 thread computes", id="a new run"),
        pytest.param("auto", 2, 2, "as before: 2 threads compute", id="as before"),
        pytest.param("auto", 1, 1, "", id="the same"),
        pytest.param("auto", 8, 1, "8 threads computed before, 1 do now", id="fewer cores"),
        pytest.param(1, 1, 1, "", id="asked for"),
    ],
)
def test_a_run_that_goes_on_keeps_its_threads(
    asked: int | str,
    recorded: int | None,
    expected: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    with caplog.at_level(logging.INFO):
        settle(asked, SMALL, recorded)
    assert torch.get_num_threads() == expected
    assert (said in caplog.text) if said else not caplog.records


@pytest.mark.parametrize("given", [0, -1, 1.5, "two", True, None])
def test_what_is_no_number_of_threads_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer.threads={given}. Allowed: 1 or more, auto"):
        TrainerConfig(threads=given)


@pytest.mark.parametrize(("load", "expected"), [(1.5, "passive"), (0.2, "None")])
def test_threads_wait_passively_where_the_machine_is_shared(load: float, expected: str) -> None:
    text = (
        f"import os, sys; os.getloadavg = lambda: ({load}, 0, 0)\n"
        "from grpo_envs.runtime.threads import wait_passively\n"
        "assert 'torch' not in sys.modules\n"
        "wait_passively(); print(os.environ.get('OMP_WAIT_POLICY'))"
    )
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=environ, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected
