"""`sampler.push=broadcast`: real gloo groups of a run and stand-ins for servers, also failing ones.

The tests with a real vLLM server are in test_engine.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import ConfigError, RunStopped
from grpo_policy.adapters import add_adapters
from grpo_policy.policy import Policy
from grpo_policy.samplers.torch import sample
from grpo_policy.samplers.vllm import broadcast
from grpo_policy.samplers.vllm.worker import grpo_envs_group as groups
from grpo_policy.samplers.vllm.worker.grpo_envs_group import Group, GroupLost, Meeting
from grpo_policy.saving import checkpoint_weights, save_weights
from tests.agents.test_vllm import (
    HOW,
    SEEDS,
    accelerator,
    alike,
    base,
    moved,
    opened,
    prompts,
    sampled,
    sampler,
    servers,
    tiny,
)

__all__ = ["accelerator", "base", "opened", "sampler", "servers", "tiny"]
CPU = torch.device("cpu")
SMALL = 2**18
"""The bytes of a bucket: the bundled model needs several buckets."""
GREEDY = HOW["greedy"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "BUCKET", SMALL)


# a group


@pytest.fixture
def pair() -> Iterator[tuple[Group, Group]]:
    """Both ends of a group, in threads."""
    store = groups.opened("127.0.0.1")
    meeting = Meeting(
        name="pair",
        address="127.0.0.1",
        port=store.port,
        size=2,
        backend="gloo",
        timeout=2.0,
        bucket=64,
    )
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(Group, meeting, 1, CPU)
        yield Group(meeting, 0, CPU, store=store), other.result()


def test_weights_arrive_as_they_are(pair: tuple[Group, Group]) -> None:
    """Weights of any dtype and size arrive; the trainer's default group is not initialised."""
    one, other = pair
    weights = {
        "matrix": torch.randn(3, 5),
        "halves": torch.randn(2, 2).bfloat16(),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "whole": torch.arange(7),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "larger than a bucket": torch.randn(9, 9),
    }
    told = groups.described(weights)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(one.send, weights, lambda: False)
        received = list(other.received(told))
        sent.result()
    found = dict(entry for bucket in received for entry in bucket)
    assert len(received) > 2
    assert list(found) == list(weights)
    for name, weight in weights.items():
        assert found[name].dtype == weight.dtype
        assert found[name].equal(weight)
    assert not distributed.is_initialized()


def test_a_broadcast_that_nobody_takes_ends_in_time(pair: tuple[Group, Group]) -> None:
    one, _ = pair
    begun = time.monotonic()
    with pytest.raises(GroupLost, match=r"^no broadcast in 2 s$"):
        one.broadcast(torch.zeros(64 * 2**20, dtype=torch.uint8))
    one.close()
    assert time.monotonic() - begun < 20


def test_a_member_that_leaves_ends_the_broadcast_of_the_others(pair: tuple[Group, Group]) -> None:
    one, other = pair
    other.close()
    with pytest.raises(GroupLost, match=r"Connection (closed|reset) by peer"):
        one.broadcast(torch.zeros(64 * 2**20, dtype=torch.uint8))


# what is sent


@pytest.mark.parametrize("computes", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_are_those_that_are_written(
    dtype: str, computes: torch.dtype, tiny: Policy, tmp_path: Path
) -> None:
    """Names, dtypes and values are equal, also if the model computes in a lower precision."""
    tiny.compute_in(computes)
    moved(tiny)
    save_weights(tiny, tmp_path, dtype)
    written = load_file(tmp_path / "model.safetensors")
    found = checkpoint_weights(tiny, dtype)
    assert found.keys() == written.keys()
    for name, value in written.items():
        assert found[name].dtype == value.dtype
        assert found[name].equal(value)


def test_weights_that_a_precision_cannot_hold_are_one_line(
    tiny: Policy, servers: Any, sampler: Any
) -> None:
    (url, stand_in), *_ = servers(1).items()
    stand_in.dtype = "float16"
    made = sampler([url], push="broadcast", precision="fp16")
    with torch.no_grad():
        tiny.trained_parameters()[0].fill_(1e6)
    tiny.version += 1
    made.sync(tiny)
    with pytest.raises(RunStopped, match=r"weights cannot be written: .* too large for fp16"):
        sampled(made, tiny, GREEDY)


# servers that fail


def expected(policy: Policy) -> Any:
    return sample(policy, prompts(policy), SEEDS, GREEDY)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("stall", r"/update_weights: no answer in 3 s|no broadcast in 3 s"),
        ("fall", r"Remote end closed connection without response"),
    ],
)
def test_a_server_that_fails_in_mid_broadcast_is_one_line(
    fault: str,
    line: str,
    tiny: Policy,
    servers: Any,
    sampler: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "_TIMEOUT", 3.0)
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url], push="broadcast")
    stand_in.fault = fault
    moved(tiny)
    begun = time.monotonic()
    made.sync(tiny)
    assert time.monotonic() - begun < 20
    with pytest.raises(RunStopped, match=rf"^no server is left that samples: {url}.*({line})"):
        sampled(made, tiny, GREEDY)


def test_the_others_take_over_and_a_server_is_back_in_a_new_group(
    tiny: Policy,
    servers: Any,
    sampler: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "_TIMEOUT", 3.0)
    (one, bad), (two, _) = servers(2).items()
    made = sampler([one, two], push="broadcast")
    first = bad.group.meeting.name
    bad.fault = "stall"
    moved(tiny)
    made.sync(tiny)
    assert made.metrics()["sampler/servers"] == 1
    assert caplog.text.count("the other servers take over") == 1
    alike(sampled(made, tiny, GREEDY), expected(tiny))
    bad.fault = ""
    moved(tiny)
    made.sync(tiny)
    assert made.metrics()["sampler/servers"] == 2
    assert bad.group.meeting.name != first
    alike(sampled(made, tiny, GREEDY), expected(tiny))


def test_a_server_that_was_started_anew_has_the_next_weights(
    tiny: Policy, servers: Any, sampler: Any
) -> None:
    """The server is in no group after its restart; the run asks for its group before each push."""
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url], push="broadcast")
    stand_in.group.close()
    stand_in.group, stand_in.weights = None, "default"
    moved(tiny)
    made.sync(tiny)
    alike(sampled(made, tiny, GREEDY), expected(tiny))


def test_two_runs_that_share_a_server_find_each_others_group(
    tiny: Policy, servers: Any, sampler: Any
) -> None:
    (url, _), *_ = servers(1).items()
    both = [sampler([url], push="broadcast") for _ in range(2)]
    for made in both:
        moved(tiny)
        made.sync(tiny)
        alike(sampled(made, tiny, GREEDY), expected(tiny))


def test_a_worker_that_does_not_join_is_one_line(
    tiny: Policy, servers: Any, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "JOIN", 1.0)
    (url, stand_in), *_ = servers(1).items()
    stand_in.workers = 2
    made = sampler([url], push="broadcast")
    with pytest.raises(RunStopped, match=r"not all have joined in 1 s"):
        sampled(made, tiny, GREEDY)


# what is refused


def test_a_server_that_takes_no_broadcasts_is_refused(servers: Any, sampler: Any) -> None:
    (url, stand_in), *_ = servers(1).items()
    stand_in.broadcasts = False
    with pytest.raises(ConfigError) as caught:
        sampler([url], push="broadcast")
    assert str(caught.value) == (
        f"sampler.push=broadcast with {url}, which does not take weights by broadcast. Start it "
        "with python -m grpo_envs.engine of this version. Otherwise allowed: shm, folder, http."
    )
    sampler([url], push="shm")


def test_adapters_are_refused(base: Policy, servers: Any, sampler: Any) -> None:
    policy = deepcopy(base)
    add_adapters(policy, LoraConfig(rank=4), policy.model.dtype)
    with pytest.raises(ConfigError) as caught:
        sampler(servers(1), policy, push="broadcast")
    assert str(caught.value) == (
        "sampler.push=broadcast with model.lora.rank above 0: vLLM reads adapters from files. "
        "Allowed: shm, folder."
    )


def test_nccl_is_between_different_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL refuses two members on one GPU; the run and a server may share a GPU."""
    own = SimpleNamespace(uuid="GPU-1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: own)
    gpu = torch.device("cuda", 0)
    assert broadcast._backend(gpu, ["GPU-2", "GPU-3"]) == "nccl"
    assert broadcast._backend(gpu, ["GPU-2", "GPU-1"]) == "gloo"
    assert broadcast._backend(gpu, [""]) == "gloo"
    assert broadcast._backend(CPU, ["GPU-2"]) == "gloo"


def test_an_error_of_torch_is_one_line_without_its_place() -> None:
    said = "[/a/gloo/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer. GLHF!\nmore"
    assert groups._line(RuntimeError(said)) == "Read error [127.0.0.1]:1: Connection reset by peer"


ALONE = """
import torch
from grpo_policy.samplers.vllm.worker.grpo_envs_group import Group, Meeting, opened
store = opened("127.0.0.1")
at = dict(name="", address="127.0.0.1", port=store.port, size=1, backend="gloo", timeout=5.0)
Group(Meeting(**at), 0, torch.device("cpu"), store=store).close()
"""


def test_a_process_may_exit_as_soon_as_it_has_left_its_group() -> None:
    subprocess.run([sys.executable, "-c", ALONE], check=True)
