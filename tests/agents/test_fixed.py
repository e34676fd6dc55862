"""A step that a CUDA graph could repeat: the same operations on the same memory, token by token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoTokenizer

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.types import Completion
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, fixed
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.conversations import Conversations
from grpo_policy.samplers.fixed import FixedStep, Fixing, fits
from grpo_policy.samplers.places import Places
from grpo_policy.samplers.torch import TorchSampler
from grpo_policy.selftest import settle
from tests.agents.test_selftest import model_of
from tests.support.counters import HostReads

QUESTIONS = ("What is 3 + 4?", "What is 12 + 30 - 5?", "Hi", "What is 5 * 6 + 7 - 8?")


def sampled(
    policy: Policy,
    fixing: Fixing,
    how: Decoding,
    prompts: Sequence[tuple[int, ...]] = (),
    **sampler: Any,
) -> list[Completion]:
    """Three completions of each prompt, four rows at once."""
    prompts = prompts or [policy.render(question) for question in QUESTIONS]
    made = TorchSampler(policy, batch_size=4, fixing=fixing, **sampler)
    found = dict(made.sample(prompts, range(3 * len(prompts)), how))
    return [completion for p in range(len(prompts)) for completion in found[p]]


def same(one: Sequence[Completion], other: Sequence[Completion]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.token_ids, a.finish_reason, a.mask) == (b.token_ids, b.finish_reason, b.mask)
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-5)


@pytest.mark.parametrize("columns", [8, 256], ids=["few columns at once", "many"])
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(Decoding(max_new_tokens=20), id="sampled"),
        pytest.param(Decoding(max_new_tokens=20, temperature=0.0, stop=("1",)), id="greedy, ended"),
        pytest.param(Decoding(max_new_tokens=20, top_k=5, repetition_penalty=1.2), id="distorted"),
    ],
)
def test_a_fixed_step_samples_what_an_ordinary_one_does(
    tiny: Policy, how: Decoding, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts differ in length, and rows leave and join."""
    monkeypatch.setattr(fixed, "_COLUMNS", columns)
    same(sampled(tiny, Fixing(fix=True), how), sampled(tiny, Fixing(), how))


def test_a_conversation_goes_on_behind_columns_of_fixed_steps(tiny: Policy) -> None:
    found = []
    prompts = [tiny.render(question) for question in QUESTIONS]
    for fixing in (Fixing(), Fixing(fix=True)):
        sampler, how = TorchSampler(tiny, fixing=fixing), Decoding(max_new_tokens=9)
        first = dict(sampler.sample(prompts, range(4), how, keep=True))
        contexts = [(*p, *first[i][0].token_ids, 5, 6) for i, p in enumerate(prompts)]
        assert sampler.conversations.tokens > 0
        second = dict(sampler.sample(contexts, range(4), how, keep=True))
        found.append([c for turn in (first, second) for i in range(4) for c in turn[i]])
    same(*found)


class Trace(TorchDispatchMode):
    """Each operation, with the shapes of its tensors and the values of its other arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        self.calls.append((str(func), [_described(x) for x in given]))
        return func(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.storage_offset(), value.dtype
    return repr(value)


def begun(policy: Policy, fixing: Fixing, how: Decoding) -> Places:
    """Rows of two padded prompts without an end, on their way."""
    policy.eos_ids = (len(policy.model.get_input_embeddings().weight),)
    prompts = [policy.render(question) for question in QUESTIONS[:2]]
    places = Places(
        *(policy, prompts, range(4), how),
        budget=Budget(4),
        conversations=Conversations(),
        fixing=fixing,
    )
    list(places.look())
    places.step()
    return places


def traced(places: Places) -> list[tuple[str, list[Any]]]:
    trace = Trace()
    with trace:
        places.step()
    return trace.calls


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(Decoding(max_new_tokens=20), id="sampled"),
        pytest.param(Decoding(max_new_tokens=20, top_p=0.9, min_p=0.1), id="distorted"),
    ],
)
@torch.inference_mode()
def test_from_token_to_token_only_values_change(tiny: Policy, how: Decoding) -> None:
    """What a graph repeats: operations, shapes, numbers and addresses; and nobody reads a value."""
    places = begun(tiny, Fixing(fix=True), how)
    step = places.fixed
    assert isinstance(step, FixedStep)
    addresses = [t.data_ptr() for t in held(places, step)]
    with HostReads() as reads:
        first, second = traced(places), traced(places)
    assert reads.total == 0
    assert len(first) > 250
    assert first == second
    assert places.fixed is step
    assert [t.data_ptr() for t in held(places, step)] == addresses
    ordinary = begun(tiny, Fixing(), how)
    assert traced(ordinary) != traced(ordinary)


def held(places: Places, step: FixedStep) -> list[Tensor]:
    """All that a step reads and writes beside what it makes itself."""
    written, layers = places.written, step.cache.layers
    return [
        *(step.tokens_R, step.lengths_R, step.column_1, step.mask_R11L, places.rows.slots_R),
        *(t for layer in layers for t in (layer.keys, layer.values)),
        *(written.tokens_ST, written.logps_ST, written.counts_S, written.lengths_S),
        *(written.ended_S, places.draw.noise_ST, *places.policy.model.parameters()),
    ]


def test_where_a_step_cannot_be_captured_it_is_taken_without_a_graph(
    tiny: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    """Here there is no CUDA device."""
    how, fixing = Decoding(max_new_tokens=40), Fixing(fix=True, capture=True)
    with caplog.at_level(logging.WARNING):
        found = sampled(tiny, fixing, how)
    (record,) = caplog.records
    assert record.message.startswith("sampling without a CUDA graph, as sampler.capture=off does: ")
    assert fixing == Fixing()
    same(found, sampled(tiny, Fixing(), how))


def test_a_model_whose_layers_slide_takes_ordinary_steps() -> None:
    model = model_of("gemma3_text", head_dim=8, sliding_window=6)
    policy = Policy(model, AutoTokenizer.from_pretrained(TINY))
    places = begun(policy, Fixing(fix=True), Decoding(max_new_tokens=9))
    assert places.fixed is None
    assert not fits(places.rows)


def test_a_model_that_asks_its_cache_how_long_a_text_is_takes_ordinary_steps(tiny: Policy) -> None:
    """The trial at load finds it: on fixed memory a text seems to be as long as its room."""
    settle(tiny, "tiny")
    assert tiny.fixes

    def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        past = kwargs.get("past_key_values")
        if past is not None and past.get_seq_length() > 14:  # the trial's texts are shorter
            output.last_hidden_state.mul_(0.5)

    tiny.model.model.register_forward_hook(count, with_kwargs=True)
    settle(tiny, "tiny")
    assert not tiny.fixes
    assert tiny.caching.joins
    places = begun(tiny, Fixing(fix=True), Decoding(max_new_tokens=9))
    assert not fits(places.rows)


def test_capture_is_auto_or_off() -> None:
    with pytest.raises(ConfigError, match=r"^sampler\.capture=on\. Allowed: auto, off\."):
        compose_run(["sampler.capture=on"])
