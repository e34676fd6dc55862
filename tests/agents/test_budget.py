"""Sampling in the memory that there is: fewer rows at once give the same completions."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_envs.runtime.memory import MemoryExhausted
from grpo_envs.types import Completion
from grpo_policy.cache_size import cache_bytes_a_token
from grpo_policy.kv_cache import Caching
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers import budget as module
from grpo_policy.samplers.budget import Budget, tokens_in_memory
from grpo_policy.samplers.torch import TorchSampler

HOW = Decoding(max_new_tokens=12)
COPIES = 4


class Allocator(TorchDispatchMode):
    """A device that has room for caches of so many rows, and raises as CUDA's does for more."""

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.failures, self.most = rows, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 4:  # (B, H, L, D)
                if len(tensor) > self.rows:
                    self.failures += 1
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                self.most = max(self.most, len(tensor))
        return out


@pytest.fixture
def asked(tiny: Policy) -> list[tuple[int, ...]]:
    return [tiny.render(text) for text in ("What is 48+12+44+7?", "Why?", "What is 1+2?", "No?")]


def sampled(sampler: TorchSampler, asked: list[tuple[int, ...]]) -> dict[int, list[Completion]]:
    found = list(sampler.sample(asked, range(len(asked) * COPIES), HOW))
    assert len(found) == len(asked)  # none of them twice
    return dict(found)


def same(one: dict[int, list[Completion]], other: dict[int, list[Completion]]) -> bool:
    assert one.keys() == other.keys()
    pairs = [pair for p in one for pair in zip(one[p], other[p], strict=True)]
    for a, b in pairs:
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    return all(a.token_ids == b.token_ids for a, b in pairs)


@pytest.mark.parametrize("rows", [8, 5, 3, 1])
def test_out_of_memory_halves_the_rows_and_samples_the_same(
    tiny: Policy, asked: list[tuple[int, ...]], rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = sampled(TorchSampler(tiny), asked)
    sampler = TorchSampler(tiny)
    with Allocator(rows) as allocator:
        found = sampled(sampler, asked)
        assert same(found, expected)
        failures = allocator.failures
        assert failures == len(caplog.records) == {8: 1, 5: 2, 3: 3, 1: 4}[rows]
        assert allocator.most <= rows
        sampled(sampler, asked)
        assert allocator.failures == failures  # from now on
    assert "sampler.batch_tokens" in caplog.records[0].message
    assert caplog.records[0].levelno == logging.WARNING


def test_memory_for_no_completion_is_one_line(tiny: Policy, asked: list[tuple[int, ...]]) -> None:
    with Allocator(0), pytest.raises(MemoryExhausted, match=r"^out of memory while one completion"):
        sampled(TorchSampler(tiny), asked)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_tokens_bound_the_rows_and_change_nothing(
    tiny: Policy, asked: list[tuple[int, ...]], tokens: int
) -> None:
    with Allocator(100) as allocator:
        found = sampled(TorchSampler(tiny, batch_tokens=tokens), asked)
    assert same(found, sampled(TorchSampler(tiny), asked))
    shortest = min(map(len, asked)) + HOW.max_new_tokens
    assert allocator.most <= max(1, tokens // shortest)
    assert (allocator.most == 16) == (tokens == 10_000)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "memory_metrics", lambda: {"memory/left": 3.0})


def test_half_of_the_free_memory_is_for_the_cache(tiny: Policy, free: None) -> None:
    size = cache_bytes_a_token(tiny.model.config, torch.float32)
    assert tokens_in_memory(tiny, torch.float32) == 3 * 2**20 // 2 // size
    assert tokens_in_memory(tiny, torch.bfloat16) == 3 * 2**20 // size
    budget = Budget(256)
    budget.measure(tiny, torch.float32)
    assert budget.at_once(100, 4) == 3 * 2**20 // 2 // size // 100
    given = Budget(256, tokens=700)
    given.measure(tiny, torch.float32)
    assert given.at_once(100, 4) == 7


def test_a_cache_that_keeps_more_than_the_window_is_counted_whole(
    tiny: Policy, free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration names a window that the model does not have."""
    size = cache_bytes_a_token(tiny.model.config, torch.float32)
    monkeypatch.setattr(tiny.model.config, "sliding_window", 8, raising=False)
    monkeypatch.setattr(tiny.model.config, "layer_types", None)
    monkeypatch.setattr(tiny, "caching", Caching())
    assert tokens_in_memory(tiny, torch.float32) == 3 * 2**20 // 2 // (8 * size)
    tiny.caching = Caching(whole=True)
    assert tokens_in_memory(tiny, torch.float32) == 3 * 2**20 // 2 // size


def test_without_a_number_of_free_bytes_the_rows_alone_count(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "memory_metrics", dict)
    budget = Budget(6)
    budget.measure(tiny, torch.float32)
    assert (budget.at_once(10, 4), budget.at_once(10, 8)) == (6, 8)
