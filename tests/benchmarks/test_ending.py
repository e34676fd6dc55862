"""Completions that end by chance, for benchmarks with ragged lengths."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler
from tests.benchmarks import bench_grpo_step
from tests.benchmarks.bench_grpo_step import How, Shape, ours
from tests.support.ending import end_by_chance


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_lengths_are_geometric(random_policy: Policy, dtype: torch.dtype | None) -> None:
    policy, how = random_policy, Decoding(max_new_tokens=40)
    end = end_by_chance(policy.model, policy.eos_ids[0], 1 / 8)
    ((_, found),) = TorchSampler(policy, dtype).sample([(5, 6, 7)], range(400), how)
    end.remove()
    lengths = [len(completion.token_ids) for completion in found]
    assert fmean(lengths) == pytest.approx(9, abs=1.2)  # three standard errors
    assert fmean(n == 2 for n in lengths) == pytest.approx(1 / 8, abs=0.05)
    assert min(lengths) == 2
    assert {c.finish_reason for c in found if len(c.token_ids) < 40} == {"stop"}


def test_scores_with_gradients_are_the_models_own(random_policy: Policy) -> None:
    ids = torch.arange(9)[None]
    before = random_policy.model(input_ids=ids).logits
    end_by_chance(random_policy.model, 3, 0.5)
    assert random_policy.model(input_ids=ids).logits.equal(before)
    with torch.no_grad():
        assert not random_policy.model(input_ids=ids).logits.equal(before)


RAGGED = Shape(model="qwen3-7m", prompts=2, group=4, tokens=32, words=5, mean=8)


@pytest.mark.slow
def test_a_ragged_step_counts_its_tokens() -> None:
    first, second = ours(RAGGED, How(steps=2))
    assert 8 * 3 < first["tokens"] < 8 * 20
    assert first["tokens"] != second["tokens"]


@pytest.mark.slow
def test_a_shape_that_does_not_end_is_no_ragged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model draws one of 49,152 words: its completions have no end of their own."""
    monkeypatch.setattr(bench_grpo_step, "end_by_chance", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"have 32 tokens, 32 at most$"):
        ours(RAGGED, How(steps=1))
