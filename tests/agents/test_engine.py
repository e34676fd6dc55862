"""`sampler=vllm` against the real vLLM: exact after each update, and seen to fail where it is not.

Two servers are started, which takes minutes. `.ci/engine` installs vLLM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import RunStopped
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.types import Completion
from grpo_policy.adapters import add_adapters
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, SamplerParts
from grpo_policy.samplers.torch import sample
from grpo_policy.samplers.vllm import broadcast
from grpo_policy.samplers.vllm.client import Refused, Server, ServerLost
from grpo_policy.samplers.vllm.opening import open_sampler
from grpo_policy.samplers.vllm.own import free_port
from grpo_policy.samplers.vllm.plugin import VllmConfig
from grpo_policy.samplers.vllm.requests import ROUTE, Asked, Dialect
from grpo_policy.samplers.vllm.sampler import VllmSampler
from grpo_policy.samplers.vllm.worker.grpo_envs_group import Group
from grpo_policy.saving import save_weights
from tests.agents.test_vllm import moved
from tests.conftest import vllm_python
from tests.support.stand_in import StandIn, serving
from tests.training.test_vllm_runs import gone, trainer

pytestmark = pytest.mark.engine
GREEDY = Decoding(max_new_tokens=32, temperature=0.0)
SHARED = "Think about it before you answer, step by step, and say what the sum of both is. " * 4
"""Before each question: a block of the prefix cache, and more."""
FOUND = 8
"""Of so many prompts the greedy answers are compared."""


@contextmanager
def engine(*options: str) -> Iterator[str]:
    """Start a server as users do; gives its address once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "grpo_envs.engine", "--port", str(port), *options]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, "--python", vllm_python()], stdout=said, stderr=subprocess.STDOUT
        )

        def check(_: float) -> None:
            assert process.poll() is None, "it ended before it was ready"

        try:
            url = f"http://127.0.0.1:{port}"
            Server(url, 60).wait(900, check)
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with engine("--model", str(TINY), "--dtype", "fp32") as found:
        yield found


@pytest.fixture(scope="module")
def base() -> Policy:
    return load_policy(str(TINY))


@pytest.fixture
def policy(base: Policy) -> Policy:
    return deepcopy(base)


@pytest.fixture
def opened() -> Iterator[Callable[..., VllmSampler]]:
    """Makes samplers, and closes them."""
    made: list[VllmSampler] = []

    def open_one(url: str | None, policy: Policy, **keys: Any) -> VllmSampler:
        parts = SamplerParts(policy=policy, accelerator=Accelerator(cpu=True))
        cfg = VllmConfig(urls=[url] if url else [], **keys)
        made.append(open_sampler(cfg, parts))
        return made[-1]

    yield open_one
    for each in made:
        each.close()


def prompts(policy: Policy) -> list[tuple[int, ...]]:
    return [policy.render(f"{SHARED}What is {n}+{7 * n}?") for n in range(11, 11 + FOUND)]


def equal(some: Mapping[int, Sequence[Completion]], policy: Policy) -> int:
    """Return how many greedy answers are the trainer's."""
    own = sample(policy, prompts(policy), range(FOUND), GREEDY)
    return sum(some[i][0].token_ids == own[i].token_ids for i in range(FOUND))


def answers(made: VllmSampler, policy: Policy, how: Decoding = GREEDY) -> dict[int, Any]:
    return dict(made.sample(prompts(policy), list(range(FOUND)), how))


@pytest.mark.parametrize("push", ["shm", "http", "broadcast"])
def test_greedy_answers_are_the_trainers_after_each_update(
    push: str, url: str, policy: Policy, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "BUCKET", 2**18)  # several, and layers in two of them
    made = opened(url, policy, push=push)
    for _ in range(3):
        moved(policy)
        before = equal(answers(made, policy), policy) if made.version >= 0 else 0
        made.sync(policy)
        assert equal(answers(made, policy), policy) == FOUND
        assert before < FOUND / 2, "an update that changes no answer shows nothing"


def test_a_plain_reload_is_seen_to_fail(
    url: str, policy: Policy, opened: Any, tmp_path: Path
) -> None:
    """The head keeps a packed copy of the old weights."""
    made = opened(url, policy)
    made.sync(policy)
    moved(policy, 0.6)  # far enough to change the answers of the bundled model
    save_weights(policy, tmp_path / "weights", "fp32")
    plain = {"method": "reload_weights", "kwargs": {"weights_path": str(tmp_path / "weights")}}
    Server(url, 60).post("/collective_rpc", plain)
    assert equal(_with_salt(made, policy, "never used"), policy) < FOUND / 2


def test_a_kept_prefix_cache_is_seen_to_fail(
    url: str, policy: Policy, opened: Any, tmp_path: Path
) -> None:
    """Without a pause, and with the salt of the weights before."""
    made, server = opened(url, policy), Server(url, 60)
    made.sync(policy)
    version = made._weights
    assert equal(answers(made, policy), policy) == FOUND
    moved(policy, 0.6)  # far enough to change the answers of the bundled model
    save_weights(policy, tmp_path / "weights", "fp32")
    server.post("/start_weight_update")
    info = {"file": str(tmp_path / "weights" / "model.safetensors")}
    server.post("/update_weights", {"update_info": info})
    server.post("/finish_weight_update", {"weight_version": version})
    assert equal(_with_salt(made, policy, version), policy) < FOUND / 2
    assert equal(_with_salt(made, policy, "never used"), policy) == FOUND


def test_a_push_that_was_cut_off_leaves_nothing_to_the_next_one(
    url: str, policy: Policy, opened: Any, tmp_path: Path
) -> None:
    """Neither that it is under way, nor the layers that it had begun to load."""
    made, server = opened(url, policy), Server(url, 60)
    made.sync(policy)
    half = {name: torch.zeros_like(p) for name, p in policy.model.named_parameters()}
    save_file({k: v for k, v in half.items() if "q_proj" in k}, tmp_path / "half.safetensors")
    server.post("/start_weight_update")
    server.post("/update_weights", {"update_info": {"file": str(tmp_path / "half.safetensors")}})
    moved(policy)
    made.sync(policy)
    assert "already active" in made.lost[made.fleet.servers[0]]
    moved(policy)
    made.sync(policy)
    assert equal(answers(made, policy), policy) == FOUND


def test_many_are_asked_for_at_once(url: str, policy: Policy, opened: Any) -> None:
    """More tokens of prompts than a batch of vLLM takes, each with a seed."""
    made = opened(url, policy)
    made.sync(policy)
    asked = prompts(policy)
    copies = 16
    assert sum(map(len, asked)) * copies > 8192
    seeds = list(range(FOUND * copies))
    groups = dict(made.sample(asked, seeds, Decoding(max_new_tokens=4)))
    assert [len(groups[p]) for p in range(FOUND)] == [copies] * FOUND


def _with_salt(made: VllmSampler, policy: Policy, salt: str) -> dict[int, list[Completion]]:
    dialect = Dialect(policy.chat, GREEDY, made._weights, None)
    found = {}
    for number, prompt in enumerate(prompts(policy)):
        body = dialect.body(Asked(prompt=prompt, seed=0, most=GREEDY.max_new_tokens))
        (server,) = made.fleet.servers
        (choice,) = server.post(ROUTE, {**body, "cache_salt": salt})["choices"]
        found[number] = [Completion(text="", token_ids=tuple(choice["token_ids"]))]
    return found


def test_a_completion_depends_on_its_seed_alone(url: str, policy: Policy, opened: Any) -> None:
    made, how = opened(url, policy), Decoding(max_new_tokens=24)
    made.sync(policy)
    asked = prompts(policy)
    together = dict(made.sample(asked, list(range(4 * FOUND)), how))
    alone = dict(made.sample(asked[1:2], list(range(4, 8)), how))
    assert together[1] == alone[0]
    assert len({c.token_ids for c in alone[0]}) > 1


HOW = {
    "stopped by a text": Decoding(max_new_tokens=40, temperature=0.0, stop=("+", "</think>")),
    "cut off": Decoding(max_new_tokens=3, temperature=0.0),
    "penalised": Decoding(max_new_tokens=24, temperature=0.0, repetition_penalty=1.3),
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
def test_answers_end_where_ours_do(how: Decoding, url: str, policy: Policy, opened: Any) -> None:
    made = opened(url, policy)
    made.sync(policy)
    own = sample(policy, prompts(policy), range(FOUND), how)
    found = [answers(made, policy, how)[i][0] for i in range(FOUND)]
    for one, other in zip(found, own, strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_what_is_cut_is_never_sampled(url: str, policy: Policy, opened: Any) -> None:
    """One token is left: the likeliest."""
    made = opened(url, policy)
    made.sync(policy)
    for cut in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999999}):
        found = answers(made, policy, Decoding(max_new_tokens=32, **cut))
        assert equal(found, policy) == FOUND


@pytest.mark.parametrize("keys", [[], ["env=guess"]], ids=["math", "conversations"])
def test_the_gap_of_a_run_is_one_of_rounding(keys: list[str], url: str, tmp_path: Path) -> None:
    trainer(tmp_path, *keys, "sampler=vllm", f"sampler.urls=[{url}]").run()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert len(rows) == 3
    assert max(row["policy/sample_gap"] for row in rows) < 1e-5


def test_a_resumed_run_goes_on_as_one_that_was_left_alone(url: str, tmp_path: Path) -> None:
    """Its answers are the same: batches differ, and no draw of so few hangs on the last bits."""
    keys = ("sampler=vllm", f"sampler.urls=[{url}]")
    trainer(tmp_path / "whole", *keys).run()
    trainer(tmp_path / "cut", *keys, "trainer.steps=1").run()
    trainer(tmp_path / "cut", *keys, f"resume={tmp_path / 'cut'}").run()
    whole, cut = (
        [(row["step"], row["text"]) for row in read_jsonl(tmp_path / name / "completions.jsonl")]
        for name in ("whole", "cut")
    )
    assert whole == cut


def test_the_stand_in_answers_as_the_real_server_does(url: str, base: Policy) -> None:
    """The routes that runs use have the same forms."""
    stand_in = StandIn(deepcopy(base))
    with serving(stand_in) as other:
        for route in ("/weight_info", "/v1/models"):
            assert _within(Server(other, 60).get(route), Server(url, 60).get(route)), route
        for method in ("about_for_runs", "about_group"):
            asked = {"method": method}
            answers = [Server(each, 60).post("/collective_rpc", asked) for each in (other, url)]
            assert _within(*answers), method
        dialect = Dialect(base.chat, Decoding(max_new_tokens=4), "salt", None)
        body = dialect.body(Asked(prompt=base.render("What is 1+1?"), seed=1, most=4))
        assert _within(Server(other, 60).post(ROUTE, body), Server(url, 60).post(ROUTE, body))
        refused = []
        for each in (other, url):
            with pytest.raises(Refused) as caught:
                Server(each, 60).post(ROUTE, {**body, "model": "nobody"})
            refused.append((type(caught.value), str(caught.value).removeprefix(each)))
        assert refused[0][0] is refused[1][0]
        assert refused[1][1].startswith(refused[0][1])


def _within(some: Any, other: Any) -> bool:
    """Return whether all keys of one answer are in the other, with values of the same types."""
    if isinstance(some, dict):
        return all(key in other and _within(value, other[key]) for key, value in some.items())
    if isinstance(some, list):
        return not some or _within(some[0], other[0])
    return some is None or isinstance(other, type(some))


def test_adapters_are_pushed_as_files_to_a_server_that_the_run_starts(
    policy: Policy, opened: Any, tmp_path: Path
) -> None:
    add_adapters(policy, LoraConfig(rank=4), policy.model.dtype)
    others = {*below(os.getpid())}
    made = opened(None, policy, python=vllm_python())
    for _ in range(3):
        with torch.no_grad():  # the half that is 0 at first
            for parameter in policy.trained_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.03)
        policy.masters.publish()
        policy.version += 1
        made.sync(policy)
        assert equal(answers(made, policy), policy) == FOUND
    small = ("model.lora.rank=4", "agent.lr=1e-3", "sampler=vllm")
    trainer(tmp_path, *small, f"sampler.urls=[{made.fleet.servers[0].url}]").run()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert max(row["policy/sample_gap"] for row in rows) < 1e-5
    # However the run ends, nothing of its server is left.
    pids = {*below(os.getpid())} - others
    assert len(pids) > 2
    made.close()
    assert all(gone(pid) for pid in pids)


def test_a_server_that_fails_in_mid_broadcast_is_one_line(
    policy: Policy, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only hung is back with the next push, in a new group; then it is killed."""
    monkeypatch.setattr(broadcast, "BUCKET", 2**18)
    monkeypatch.setattr(broadcast, "_TIMEOUT", 5.0)
    send, fails, sent = Group.broadcast, 0, 0
    others = {*below(os.getpid())}
    with engine("--model", str(TINY), "--dtype", "fp32") as found:
        made = opened(found, policy, push="broadcast")
        made.sync(policy)
        assert made.metrics()["sampler/servers"] == 1
        pids = [pid for pid in below(os.getpid()) if pid not in others][1:]  # all of vLLM

        def fail(group: Group, *what: Any) -> None:
            nonlocal sent
            sent += 1
            if sent == 3:
                kill(pids, fails)
            send(group, *what)

        monkeypatch.setattr(Group, "broadcast", fail)
        for fails in (signal.SIGSTOP, signal.SIGKILL):
            sent = 0
            moved(policy)
            begun = time.monotonic()
            made.sync(policy)
            assert time.monotonic() - begun < 60
            with pytest.raises(RunStopped, match=rf"^no server .*: {found}[^\n]*$"):
                answers(made, policy)
            if fails == signal.SIGSTOP:
                kill(pids, signal.SIGCONT)
                _wait_for(Server(found, 10.0))
                sent = 3
                moved(policy)
                made.sync(policy)
                assert equal(answers(made, policy), policy) == FOUND


def kill(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _wait_for(server: Server) -> None:
    """Return once a server that was stopped has noticed that its broadcast has failed."""
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        with suppress(ServerLost):
            server.post("/collective_rpc", {"method": "about_group"}, 2.0)
            return
    raise AssertionError("it does not answer")


def below(pid: int) -> list[int]:
    """Return what a process has started, and what that has, as far as it is our engine's."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    ours = [child for child in children if pid != os.getpid() or _is_engine(child)]
    return ours + [found for child in ours for found in below(child)]


def _is_engine(pid: int) -> bool:
    return b"grpo_envs.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
