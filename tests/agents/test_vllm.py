"""`sampler=vllm` against a stand-in: the protocol, what is pushed, and servers that fail.

The stand-in draws as our own sampler does, so that a run with it must equal a run without it.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, RunStopped
from grpo_envs.types import Completion
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, SamplerParts
from grpo_policy.samplers.torch import sample
from grpo_policy.samplers.vllm import push
from grpo_policy.samplers.vllm.client import Server, require_url
from grpo_policy.samplers.vllm.opening import open_sampler
from grpo_policy.samplers.vllm.plugin import VllmConfig
from grpo_policy.samplers.vllm.requests import Asked, Dialect, Written
from grpo_policy.samplers.vllm.round import Round
from grpo_policy.samplers.vllm.sampler import VllmSampler
from tests.support.stand_in import StandIn, serving

QUESTIONS = ("What is 12+34?", "What is 5*6?", "Write a function that adds two numbers.")
SEEDS = range(100, 106)

Open = Callable[..., VllmSampler]


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def base() -> Policy:
    return load_policy(str(TINY))


@pytest.fixture
def tiny(base: Policy) -> Policy:
    """The bundled model, for one test to change."""
    return deepcopy(base)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed after a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def servers(base: Policy, opened: ExitStack) -> Callable[[int], dict[str, StandIn]]:
    """Starts so many stand-ins, by their addresses."""

    def start(count: int) -> dict[str, StandIn]:
        made = [StandIn(deepcopy(base)) for _ in range(count)]
        return {opened.enter_context(serving(each)): each for each in made}

    return start


@pytest.fixture
def sampler(tiny: Policy, accelerator: Accelerator, opened: ExitStack) -> Open:
    """Makes a sampler that has its weights."""

    def make(urls: Sequence[str], policy: Policy = tiny, **keys: Any) -> VllmSampler:
        keys = {"timeout": 20.0} | keys
        parts = SamplerParts(policy=policy, accelerator=accelerator)
        made = open_sampler(VllmConfig(urls=list(urls), **keys), parts)
        opened.callback(made.close)
        made.sync(policy)
        return made

    return make


def prompts(policy: Policy) -> list[tuple[int, ...]]:
    return [policy.render(question) for question in QUESTIONS]


def sampled(made: VllmSampler, policy: Policy, how: Decoding) -> list[Completion]:
    done = dict(made.sample(prompts(policy), list(SEEDS), how))
    return [completion for p in range(len(QUESTIONS)) for completion in done[p]]


def alike(some: Sequence[Completion], others: Sequence[Completion]) -> None:
    for one, other in zip(some, others, strict=True):
        assert replace(one, logprobs=()) == replace(other, logprobs=())
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def moved(policy: Policy, by: float = 0.2) -> None:
    """An update."""
    torch.manual_seed(policy.version)
    with torch.no_grad():
        for parameter in policy.trained_parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * by)
    policy.masters.publish()
    policy.version += 1


HOW = {
    "sampled": Decoding(max_new_tokens=24),
    "greedy": Decoding(max_new_tokens=24, temperature=0.0),
    "cut off": Decoding(max_new_tokens=3, temperature=0.7),
    "stopped by a text": Decoding(max_new_tokens=40, stop=("</think>", "+")),
    "distorted": Decoding(max_new_tokens=12, top_p=0.9, top_k=5, repetition_penalty=1.2),
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
def test_completions_are_those_of_our_own_sampler(
    how: Decoding, tiny: Policy, servers: Any, sampler: Open
) -> None:
    found = sampled(sampler(servers(1)), tiny, how)
    expected = sample(tiny, prompts(tiny), SEEDS, how)
    alike(found, expected)
    assert {c.finish_reason for c in expected} <= {"stop", "length"}


def test_a_text_that_only_the_server_reads_ends_nothing(
    tiny: Policy, servers: Any, sampler: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is asked again without stop strings: the same seed, so the same tokens."""
    (url, stand_in), *_ = servers(1).items()
    generate, asked = stand_in.generate, []

    def early(body: dict[str, Any]) -> Any:
        params = body["sampling_params"]
        asked.append(params)
        answer = generate({**body, "sampling_params": {**params, "stop": []}})
        if "stop" in params:
            (choice,) = answer["choices"]
            choice["finish_reason"] = "stop"
            del choice["token_ids"][2:], choice["logprobs"]["content"][2:]
        return answer

    monkeypatch.setattr(stand_in, "generate", early)
    how = Decoding(max_new_tokens=24, stop=("never written",))
    alike(sampled(sampler([url]), tiny, how), sample(tiny, prompts(tiny), SEEDS, how))
    assert len(asked) == 2 * len(SEEDS)


def test_groups_come_as_soon_as_they_are_whole(tiny: Policy, servers: Any, sampler: Open) -> None:
    """The first is there while the next completion hangs, and closing asks for no other."""
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url], in_flight=1)
    stand_in.fault, stand_in.after = "hang", 2
    groups = made.sample(prompts(tiny), list(SEEDS), Decoding(max_new_tokens=8))
    group, completions = next(groups)
    assert (group, len(completions)) == (0, 2)
    groups.close()  # type: ignore[attr-defined]
    time.sleep(0.2)
    assert stand_in.after >= -1, "nothing is asked for after the third, which was on its way"


def test_what_tick_raises_ends_the_sampling(tiny: Policy, servers: Any, sampler: Open) -> None:
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url])
    stand_in.fault = "hang"

    def tick() -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(made.sample(prompts(tiny), list(SEEDS), HOW["greedy"], tick=tick))
    assert time.monotonic() - begun < 5


# what is pushed


@pytest.mark.parametrize("push", ["shm", "folder", "http", "broadcast"])
def test_the_server_has_the_weights_after_each_update(
    push: str, tiny: Policy, servers: Any, sampler: Open, tmp_path: Path
) -> None:
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url], push=push, folder=str(tmp_path / "shared"))
    how, versions = HOW["greedy"], []
    for _ in range(3):
        moved(tiny)
        made.sync(tiny)
        alike(sampled(made, tiny, how), sample(tiny, prompts(tiny), SEEDS, how))
        versions.append(stand_in.weights)
    assert len({*versions}) == 3
    assert stand_in.salts[:: len(SEEDS)] == versions, "no cache of old weights"
    assert made.version == tiny.version == 3
    assert made.metrics()["sampler/servers"] == 1
    made.sync(tiny)
    assert stand_in.weights == versions[-1], "the same weights are not pushed twice"
    made.close()
    assert not [*(tmp_path / "shared").glob("*")], "nothing is left over"


def test_weights_that_a_killed_run_left_are_taken_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(push, "_MEMORY", tmp_path)
    left = tmp_path / "grpo-envs-weights-killed"
    (left / "killed-3").mkdir(parents=True)
    (left / "lock").touch()
    os.utime(left, (0, 0))
    goes_on = push.Store("shm", None, "another")
    third = push.Store("http", None, "third")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grpo-envs-weights-another",
        "grpo-envs-weights-third",
    ]
    for store in (goes_on, third):
        store.close()
    assert not [*tmp_path.iterdir()]


def test_weights_in_bf16_are_pushed_in_bf16(tiny: Policy, servers: Any, sampler: Open) -> None:
    (url, stand_in), *_ = servers(1).items()
    stand_in.dtype = "bfloat16"
    sampler([url], precision="bf16")
    weights = dict(stand_in.policy.model.named_parameters())
    for name, value in tiny.model.named_parameters():
        assert weights[name].equal(value.bfloat16().float())


def test_two_runs_do_not_take_each_others_weights(
    tiny: Policy, servers: Any, sampler: Open
) -> None:
    """Another run's version 0 is not ours."""
    (url, stand_in), *_ = servers(1).items()
    sampler([url])
    first = stand_in.weights
    sampler([url])
    assert stand_in.weights != first


# servers that fail


def test_a_server_that_is_not_there_is_one_line(sampler: Open, servers: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        sampler(["http://127.0.0.1:9"])
    assert str(caught.value) == (
        "sampler.urls: no server answers: http://127.0.0.1:9: Connection refused. "
        "`python -m grpo_envs.engine --model ... --port ...` starts one."
    )


FAULTS = {
    "die": ("die", r"Remote end closed connection without response"),
    "hang": ("hang", r"/inference/v1/generate: no answer in 5 s"),
    "break": ("break", r"/inference/v1/generate: RuntimeError: EngineCore encountered an issue\. "),
}


@pytest.mark.parametrize(("fault", "line"), FAULTS.values(), ids=FAULTS.keys())
def test_a_server_that_fails_is_one_line(
    fault: str, line: str, tiny: Policy, servers: Any, sampler: Open
) -> None:
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url], timeout=5.0)
    stand_in.fault, stand_in.after = fault, 2
    with pytest.raises(RunStopped, match=rf"^no server is left that samples: {url}.*{line}"):
        sampled(made, tiny, HOW["sampled"])


@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_servers_take_over(
    fault: str, tiny: Policy, servers: Any, sampler: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """What the lost one was asked for is sampled again, with the same seeds."""
    (one, bad), (two, good) = servers(2).items()
    made = sampler([one, two], timeout=5.0, in_flight=2)
    bad.fault, bad.after = fault, 1
    how = HOW["sampled"]
    alike(sampled(made, tiny, how), sample(tiny, prompts(tiny), SEEDS, how))
    assert len(good.salts) >= len(SEEDS) - 1
    assert made.metrics()["sampler/servers"] == 1
    assert caplog.text.count("the other servers take over") == 1
    # Tried again at the next push: it is back, unless it is gone for good.
    bad.fault = ""
    moved(tiny)
    made.sync(tiny)
    assert made.metrics()["sampler/servers"] == (1 if fault == "die" else 2)
    alike(sampled(made, tiny, how), sample(tiny, prompts(tiny), SEEDS, how))


def test_a_push_that_was_cut_off_does_not_end_the_next_one(
    tiny: Policy, servers: Any, sampler: Open
) -> None:
    """Whether it was one of this run, or of one that was killed."""
    (url, stand_in), *_ = servers(1).items()
    stand_in.updating = True
    made = sampler([url])
    assert made.metrics()["sampler/servers"] == 1
    stand_in.updating = True
    for servers_left in (0, 1):
        moved(tiny)
        made.sync(tiny)
        assert made.metrics()["sampler/servers"] == servers_left
    alike(sampled(made, tiny, HOW["greedy"]), sample(tiny, prompts(tiny), SEEDS, HOW["greedy"]))


def test_what_a_lost_server_owes_is_asked_of_the_others_at_once(
    tiny: Policy, servers: Any, sampler: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One completion fails, and the others of that server are silent for as long as they may."""
    (one, bad), (two, _) = servers(2).items()
    made = sampler([one, two], timeout=600.0)
    first = iter([True])

    def generate(body: dict[str, Any]) -> Any:
        if next(first, False):
            raise RuntimeError("EngineCore encountered an issue.")
        bad.stopping.wait()

    monkeypatch.setattr(bad, "generate", generate)
    how = HOW["sampled"]
    alike(sampled(made, tiny, how), sample(tiny, prompts(tiny), SEEDS, how))


def test_a_thread_that_connects_after_its_server_is_lost_is_broken_off(
    tiny: Policy, servers: Any, sampler: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its completion has been taken, its connection is not there yet when the others break off."""
    (one, bad), (two, _) = servers(2).items()
    made = sampler([one, two], timeout=600.0)
    connect, first, failed = Server._connect, iter([True]), threading.Event()

    def late(self: Server, *args: Any) -> None:
        if self.url == one and not next(first, False):
            assert failed.wait(20)
            time.sleep(0.3)
        connect(self, *args)

    def generate(body: dict[str, Any]) -> Any:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("EngineCore encountered an issue.")
        bad.stopping.wait()

    monkeypatch.setattr(Server, "_connect", late)
    monkeypatch.setattr(bad, "generate", generate)
    how = HOW["sampled"]
    alike(sampled(made, tiny, how), sample(tiny, prompts(tiny), SEEDS, how))


def test_threads_ask_for_nothing_after_the_end(tiny: Policy) -> None:
    """Nor does one whose answer came in that moment, so that no call of it could be broken off."""
    server = Server("http://127.0.0.1:9", 1.0)
    answered, ended = threading.Event(), threading.Event()
    asked: list[Asked] = []

    class Slow(Dialect):
        def ask(self, server: Server, asked_now: Asked) -> Written:
            asked.append(asked_now)
            if len(asked) > 1:
                answered.set()
                ended.wait(5)
            return Written((1,), (0.0,), ended=True)

    dialect = Slow(tiny.chat, Decoding(max_new_tokens=1), "", None)
    wanted = [Asked(prompt=(1,), seed=seed, most=1) for seed in range(9)]
    work = Round(dialect, wanted, in_flight=1)
    stream = work.written(lambda: [server], lambda *_: None)
    assert next(news for news in stream if news)[0] == 0
    assert answered.wait(5)
    server.abort = ended.set  # type: ignore[method-assign]
    stream.close()
    assert len(asked) == 2


def test_a_machine_that_is_silent_is_lost_long_before_a_server_is() -> None:
    """The system asks it for a sign, whatever the server does."""
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(f"http://127.0.0.1:{listening.getsockname()[1]}", 600.0)
        call = threading.Thread(target=server.ready)
        call.start()
        held.enter_context(listening.accept()[0]).recv(10)
        (connection,) = server._open
        options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        get = connection.sock.getsockopt
        idle, interval, count, unread = (
            get(socket.IPPROTO_TCP, getattr(socket, name)) for name in options
        )
        assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert idle + count * interval == 25
        assert unread == 25_000
        server.abort()
        call.join()


def test_a_server_that_keeps_its_weights_is_not_asked(
    tiny: Policy, servers: Any, sampler: Open
) -> None:
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url])
    stand_in.fault = "forget"
    moved(tiny)
    made.sync(tiny)
    assert made.metrics()["sampler/servers"] == 0, "it was asked which weights it has"
    with pytest.raises(RunStopped, match=r"it has the weights '\w+-0', not '\w+-1'"):
        sampled(made, tiny, HOW["greedy"])


def test_a_server_that_was_started_anew_is_not_asked(
    tiny: Policy, servers: Any, sampler: Open
) -> None:
    """It answers, with weights that are not the run's."""
    (url, stand_in), *_ = servers(1).items()
    made = sampler([url])
    stand_in.weights = "default"
    with pytest.raises(RunStopped, match=r"it has the weights 'default', not '\w+-0'"):
        sampled(made, tiny, HOW["greedy"])


def test_weights_that_cannot_be_written_are_one_line(
    tiny: Policy, servers: Any, sampler: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next completion, when the step before is whole and saved."""
    made = sampler(servers(1))
    before = made.transport
    assert isinstance(before, push.Store)
    shutil.rmtree(before.folder)
    before.folder.write_text("no folder")
    moved(tiny)
    made.sync(tiny)
    with pytest.raises(RunStopped, match=rf"{before.folder} cannot be written: .*Not a directory"):
        sampled(made, tiny, HOW["greedy"])
    before.folder.unlink()


# what is refused


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            ["sampler.push=shn"],
            "sampler.push=shn. Allowed: shm, folder, http, broadcast. Did you mean 'shm'?",
        ),
        (
            ["sampler.push=folder"],
            "missing: sampler.folder=... (sampler.push=folder writes to it).",
        ),
        (["sampler.timeout=0"], "sampler.timeout=0.0. Allowed: above 0."),
        (["sampler.in_flight=0"], "sampler.in_flight=0. Allowed: 1 or more."),
        (
            ["sampler.batch_tokens=100"],
            "sampler.batch_tokens=100 with sampler=vllm: its servers manage their memory "
            "themselves. Allowed: null, and sampler.flags.",
        ),
    ],
)
def test_a_mistake_is_one_line(keys: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run(["sampler=vllm", *keys])
    assert str(caught.value) == line


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:x"])
def test_what_is_no_address_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_url(url)
    assert str(caught.value) == (
        f"sampler.urls: {url}. Allowed: addresses such as http://127.0.0.1:8000."
    )


def test_a_cut_that_transformers_makes_otherwise_is_refused(
    tiny: Policy, servers: Any, sampler: Open
) -> None:
    made = sampler(servers(1))
    with pytest.raises(ConfigError, match=r"^top_p=0\.9 with min_p=0\.1 and sampler=vllm"):
        sampled(made, tiny, Decoding(max_new_tokens=8, top_p=0.9, min_p=0.1))


def test_what_the_key_of_a_run_is() -> None:
    """Where the servers are decides nothing; their arithmetic does."""
    one = compose_run(["sampler=vllm"])
    other = compose_run(["sampler=vllm", "sampler.urls=[http://a:1]", "sampler.timeout=5"])
    assert one.decisive() == other.decisive()
    assert compose_run(["sampler=vllm", "sampler.precision=bf16"]).decisive() != one.decisive()
