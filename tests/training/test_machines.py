"""A run on several machines, as network namespaces: a server's link is cut in mid-run, and is back.

Two trainers and two servers, all at addresses of their own. With stand-ins for servers the run
must equal one of a single process with our own sampler; with two real ones it must sample what it
scores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.runs.rows import read_jsonl
from grpo_policy.models import TINY
from tests.conftest import vllm_python
from tests.support.machines import Machine, NoMachines, machines
from tests.training.test_vllm_runs import SMALL, rows, trainer

ROOT = Path(__file__).parents[2]
PORT = 8000
KEYS = (*SMALL, "trainer.steps=1000", "trainer.eval_problems=0", "sampler.push=http")
DETECTED = 40.0
"""Seconds [s] in which a cut link must be noticed; 25 is what the client asks of the system."""


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed after a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def four(opened: ExitStack) -> list[Machine]:
    """Machines, where they can be made."""
    try:
        return opened.enter_context(machines(4))
    except NoMachines as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture
def start(opened: ExitStack, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a Python program on a machine; it is ended after the test."""

    def one(machine: Machine, *words: str) -> subprocess.Popen[str]:
        said = opened.enter_context((tmp_path / f"{machine.name}.log").open("w"))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "eth0"}
        process = machine.start([sys.executable, *words], env=env, stdout=said, stderr=said)
        opened.callback(process.wait)
        opened.callback(process.terminate)
        return process

    return one


def serve(start: Any, servers: Sequence[Machine], program: Sequence[str], limit: float) -> str:
    """Start a server on each machine; return their addresses once all are ready."""
    for each in servers:
        start(each, *program, "--host", each.address, "--port", str(PORT))
    for each in servers:
        ready = f"until </dev/tcp/{each.address}/{PORT}; do sleep 0.2; done"
        each.start(["bash", "-c", ready], stderr=subprocess.DEVNULL).wait(limit)
    return ",".join(f"http://{each.address}:{PORT}" for each in servers)


class Watched:
    """A run whose metrics are read while it trains."""

    def __init__(self, out: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
        self.out, self.processes = out, processes

    def metrics(self) -> list[dict[str, Any]]:
        file = self.out / "metrics.jsonl"
        return read_jsonl(file) if file.is_file() else []

    def wait(self, servers: int, steps: int, limit: float) -> float:
        """Wait until so many steps more were sampled with so many servers; return the seconds."""
        begun, before = time.monotonic(), len(self.metrics())
        while True:
            found = [row["sampler/servers"] for row in self.metrics()[before:]]
            if found.count(servers) >= steps:
                return time.monotonic() - begun
            assert all(process.poll() is None for process in self.processes), "it has ended"
            assert time.monotonic() - begun < limit, f"{found}: {servers} were expected"
            time.sleep(0.1)


def train(start: Any, trainers: Sequence[Machine], urls: str, out: Path) -> Watched:
    """Start a run of several machines, whose first one is the master."""
    keys = [*KEYS, "sampler=vllm", f"sampler.urls=[{urls}]", f"hydra.run.dir={out}"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes", str(len(trainers))]
    torchrun += ["--nproc-per-node", "1", "--master-port", "29500"]
    torchrun += ["--master-addr", trainers[0].address]
    processes = [
        start(each, *torchrun, "--node-rank", str(rank), "-m", "grpo_envs.run", *keys)
        for rank, each in enumerate(trainers)
    ]
    return Watched(out, processes)


def lose_and_find(run: Watched, server: Machine) -> None:
    """Cut a server's link in mid-run, and join it again; the run must notice both."""
    run.wait(servers=2, steps=2, limit=240)
    server.cut()
    assert run.wait(servers=1, steps=1, limit=240) < DETECTED
    run.wait(servers=1, steps=2, limit=60)
    server.join()
    run.wait(servers=2, steps=2, limit=60)


def said_by(machine: Machine, folder: Path) -> str:
    return (folder / f"{machine.name}.log").read_text()


@pytest.mark.slow
def test_a_run_of_two_machines_goes_on_without_a_server_whose_link_is_cut(
    four: list[Machine], start: Any, tmp_path: Path
) -> None:
    first, second, one, two = four
    # Completions take long enough to be cut in their midst.
    program = [str(ROOT / "tests" / "support" / "stand_in.py"), "--seconds", "0.1"]
    urls = serve(start, (one, two), program, limit=120)
    run = train(start, (first, second), urls, tmp_path / "run")
    lose_and_find(run, one)
    for process in run.processes:
        process.terminate()
    for process in run.processes:
        process.wait()
    done = len(run.metrics())
    trainer(tmp_path / "alone", *SMALL, "trainer.eval_problems=0", f"trainer.steps={done}").run()
    whole, cut = (rows(tmp_path / name, "completions.jsonl") for name in ("alone", "run"))
    assert whole == cut[: len(whole)]
    said = said_by(first, tmp_path)
    assert said.count("the other servers take over") == 1
    assert f"http://{one.address}:{PORT} is back" in said


@pytest.mark.engine
def test_two_machines_sample_from_two_real_servers_one_of_which_is_lost_and_back(
    four: list[Machine], start: Any, tmp_path: Path
) -> None:
    first, second, one, two = four
    program = ["-m", "grpo_envs.engine", "--model", str(TINY), "--dtype", "fp32"]
    program += ["--python", vllm_python()]
    urls = serve(start, (one, two), program, limit=600)
    run = train(start, (first, second), urls, tmp_path / "run")
    lose_and_find(run, one)
    gaps = [row["policy/sample_gap"] for row in run.metrics()]
    assert 0 < max(gaps) < 1e-5  # each server samples with the weights that the trainers score with
    said = said_by(first, tmp_path)
    assert said.count("the other servers take over") == 1
    assert f"http://{one.address}:{PORT} is back" in said
