"""Runs with `sampler=vllm` against a stand-in equal those with our own sampler; faults end them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, RunStopped
from grpo_envs.evaluate import evaluate
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.trainer import Trainer
from grpo_policy.adapters import add_adapters
from grpo_policy.models import TINY, load_policy
from tests.support.stand_in import StandIn, serving

SMALL = [
    *("model.size=tiny", "logger=files", "trainer.prompts_per_step=2", "trainer.eval_problems=3"),
    *("agent.group_size=3", "sampler.max_new_tokens=12", "trainer.device=cpu"),
    *("trainer.eval_samples=2", "trainer.steps=3", "agent.warmup_steps=0"),
    "agent.loss.correction=none",
]
TIMES = ("time/", "tokens/", "memory/", "score/", "sampler/")
"""Metrics that two runs do not share."""


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed after a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def server(opened: ExitStack) -> Callable[..., tuple[str, StandIn]]:
    """Starts a stand-in."""

    def start(*overrides: str) -> tuple[str, StandIn]:
        policy = load_policy(str(TINY))
        if (lora := compose_run([*SMALL, *overrides]).model.lora).rank:
            add_adapters(policy, lora, policy.model.dtype)
        stand_in = StandIn(policy)
        return opened.enter_context(serving(stand_in)), stand_in

    return start


def trainer(out: Path, *overrides: str) -> Trainer:
    cfg = compose_run([*SMALL, *overrides])
    return build(cfg, out, make_envs(cfg))


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file, without what two runs do not share."""
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMES)}
        for row in read_jsonl(out / name)
    ]


def same(one: Path, other: Path) -> None:
    """The same answers and rewards; metrics but for the last bits of a float."""
    for name in ("completions.jsonl", "eval_completions.jsonl"):
        assert rows(one, name) == rows(other, name)
    for a, b in zip(rows(one, "metrics.jsonl"), rows(other, "metrics.jsonl"), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([], id="math"),
        pytest.param(
            ["env=guess", "agent.minibatches=2"], id="conversations", marks=pytest.mark.slow
        ),
        pytest.param(["model.lora.rank=4", "agent.lr=1e-3"], id="LoRA", marks=pytest.mark.slow),
        pytest.param(["trainer.lag=1"], id="ahead of the updates", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_that_of_our_own_sampler(keys: list[str], tmp_path: Path, server: Any) -> None:
    url, stand_in = server(*keys)
    trainer(tmp_path / "torch", *keys).run()
    made = trainer(tmp_path / "vllm", *keys, "sampler=vllm", f"sampler.urls=[{url}]")
    made.run()
    same(tmp_path / "torch", tmp_path / "vllm")
    assert len(made.decisive) > 0
    pushes = len({*stand_in.salts})
    assert made.cfg.lag or pushes == 4, "one before the first step and one after each"
    found = read_jsonl(tmp_path / "vllm" / "metrics.jsonl")[-1]
    assert found["sampler/servers"] == 1
    assert found["time/push"] > 0
    if stand_in.adapters:
        assert len(stand_in.adapters) == 1, "the versions before are unloaded"


def test_the_correction_is_on(tmp_path: Path, server: Any) -> None:
    """The metric says so: the servers' arithmetic is not the trainer's."""
    url, _ = server()
    keys = ("trainer.steps=1", "trainer.eval_problems=0", "agent.loss.correction=auto")
    trainer(tmp_path, *keys, "sampler=vllm", f"sampler.urls=[{url}]").run()
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["policy/correction"] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "push"), [("auto", "shm"), ("full", "shm"), ("full", "broadcast")]
)
def test_two_processes_share_servers_and_the_first_pushes(
    shard: str, push: str, tmp_path: Path, server: Any
) -> None:
    """Each samples its problems with a server of its own; the run is that of one process."""
    trainer(tmp_path / "one").run()
    servers = [server() for _ in range(2)]
    urls = ",".join(url for url, _ in servers)
    command = [*(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu")]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0", "-m", "grpo_envs.run"]
    keys = ["sampler=vllm", f"sampler.urls=[{urls}]", f"trainer.shard={shard}"]
    keys += [f"sampler.push={push}"]
    keys += [f"hydra.run.dir={tmp_path / 'two'}"]
    done = subprocess.run([*command, *SMALL, *keys], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "one", tmp_path / "two")
    for _, stand_in in servers:
        assert len({*stand_in.salts}) == 4
    alone = [*command, *SMALL, "sampler=vllm", f"hydra.run.dir={tmp_path / 'none'}"]
    done = subprocess.run(alone, capture_output=True, text=True, check=False)
    said = "sampler.urls=[] in 2 processes: only a single process can start its own server."
    assert said in done.stderr


def test_a_run_whose_server_dies_saves_and_goes_on(tmp_path: Path, server: Any) -> None:
    trainer(tmp_path / "whole").run()
    url, stand_in = server()
    made = trainer(tmp_path / "cut", "sampler=vllm", f"sampler.urls=[{url}]")
    stand_in.fault, stand_in.after = "die", 9 + 6 + 2  # in the second step
    with pytest.raises(RunStopped) as caught:
        made.run()
    assert str(caught.value) == (
        f"no server is left that samples: {url}: Remote end closed connection without response. "
        "Once a server runs, continue with resume=auto."
    )
    assert made.done == 1
    url, _ = server()
    go_on = ("sampler=vllm", f"sampler.urls=[{url}]", f"resume={tmp_path / 'cut'}")
    trainer(tmp_path / "cut", *go_on).run()
    same(tmp_path / "whole", tmp_path / "cut")


def test_another_version_of_the_engine_does_not_go_on(tmp_path: Path, server: Any) -> None:
    url, stand_in = server()
    keys = ("sampler=vllm", f"sampler.urls=[{url}]")
    trainer(tmp_path, *keys, "trainer.steps=1", "trainer.eval_problems=0").run()
    stand_in.version = "0.0.1"
    resumed = (*keys, "trainer.steps=2", "trainer.eval_problems=0", f"resume={tmp_path}")
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, *resumed)
    assert str(caught.value) == (
        "resume: the steps before were sampled by vllm 0.0.0, fp32, now it is vllm 0.0.1, fp32. "
        "Allowed: the same."
    )


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            ["sampler.precision=bf16"],
            "computes in float32, and the run samples in bfloat16. Start it with "
            "python -m grpo_envs.engine --dtype bf16, or set sampler.precision.",
        ),
        (
            ["model.lora.rank=4"],
            "accepts adapters (LoRA) of rank 0 or less, not 4. Start it with "
            "python -m grpo_envs.engine --lora-rank 4.",
        ),
        (
            ["sampler.thinking_budget=4"],
            "sampler=vllm does not know thinking_budget. Allowed: temperature, max_new_tokens, "
            "top_p, top_k, min_p, repetition_penalty, stop.",
        ),
    ],
)
def test_what_a_server_cannot_do_is_refused(
    keys: list[str], line: str, tmp_path: Path, server: Any
) -> None:
    url, _ = server()
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, "sampler=vllm", f"sampler.urls=[{url}]", *keys)
    assert str(caught.value).removeprefix(f"{url} ") == line


def test_a_context_that_is_too_short_is_refused(tmp_path: Path, server: Any) -> None:
    url, stand_in = server()
    stand_in.length = 20
    made = trainer(tmp_path, "sampler=vllm", f"sampler.urls=[{url}]")
    with pytest.raises(ConfigError, match=r"servers' context of 20\. Allowed: servers with a"):
        made.run()


def test_evaluate_samples_with_it(tmp_path: Path, server: Any) -> None:
    url, _ = server()
    found = []
    for keys in ([], ["sampler=vllm", f"sampler.urls=[{url}]"]):
        cfg = compose_run([*SMALL, *keys])
        found.append(evaluate(cfg, tmp_path / str(len(keys))).rows)
    assert found[0] == found[1]


# a server that the run starts itself


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs find a package `vllm` meanwhile: the stand-in. Returns its module."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(
        "import os, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'started')!r}).write_text(f'{{os.getpid()}} {{sys.argv}}')\n"
        "from tests.support.stand_in import main\nmain()\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[2])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("GRPO_ENVS_VLLM_PYTHON", sys.executable)
    return package / "api_server.py"


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Return whether a process ends within so many seconds."""
    for _ in range(int(seconds / 0.05)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("place")
def test_a_run_starts_its_server_and_ends_it(tmp_path: Path) -> None:
    flags = "sampler.flags=['--max-num-seqs=8']"
    trainer(tmp_path / "vllm", "sampler=vllm", flags).run()
    pid, _, words = (tmp_path / "started").read_text().partition(" ")
    assert "'--max-num-seqs=8'" in words
    assert "'--dtype', 'float32'" in words
    assert gone(int(pid))
    trainer(tmp_path / "torch").run()
    same(tmp_path / "torch", tmp_path / "vllm")


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_the_server_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpo_envs.run", *SMALL, "sampler=vllm"]
    keys = ["trainer.steps=1000", f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [*command, *keys], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (tmp_path / "run" / "metrics.jsonl").is_file():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert "sampler: vllm 0.0.0, fp32, at http://127.0.0.1:" in process.communicate()[0]
    pid, _, words = (tmp_path / "started").read_text().partition(" ")
    assert gone(int(pid))
    (model,) = re.findall(r"'--model', '(.*?)'", words)
    for _ in range(200):
        if not Path(model).exists():
            break
        time.sleep(0.05)
    assert not Path(model).exists(), "what it was started with goes, too"


def test_a_server_that_cannot_start_is_one_line(tmp_path: Path, place: Path) -> None:
    place.write_text("raise ValueError('no memory for one context')")
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, "sampler=vllm")
    assert str(caught.value).startswith(
        "sampler=vllm: the server that the run started has ended "
        "(ValueError: no memory for one context). Its log: "
    )


def test_an_interpreter_without_vllm_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^sampler\.python=.*: it has no vLLM\. Allowed: an in"):
        trainer(tmp_path, "sampler=vllm", f"sampler.python={sys.executable}")
    with pytest.raises(ConfigError, match=r"^sampler\.python=/nowhere: No such file or directory"):
        trainer(tmp_path, "sampler=vllm", "sampler.python=/nowhere")
