"""Rows that end leave their places to others: the same samples, in fewer steps of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoTokenizer

from grpo_envs.types import Completion
from grpo_policy.kv_cache import Caching
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers import rows as module
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.torch import TorchSampler, sample, sample_groups
from grpo_policy.selftest import settle
from tests.agents.test_selftest import LINEAR, model_of

LENGTHS = (3, 11, 4, 16, 5, 9)
COPIES = 2
HOW = Decoding(max_new_tokens=18)


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows joined others on their way, each time."""
    usual, found = Caching.gather, list[int]()

    def noted(self: Caching, parts: Sequence[Any], length: int, room: int) -> Any:
        if len(parts) > 1:
            found.append(len(parts[1][1]))
        return usual(self, parts, length, room)

    monkeypatch.setattr(Caching, "gather", noted)
    return found


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each step of the model."""
    usual, found = module.decode, list[int]()

    def noted(policy: Policy, cache: Any, tokens_R: Any, positions_R: Any, **mask: Any) -> Any:
        found.append(len(tokens_R))
        return usual(policy, cache, tokens_R, positions_R, **mask)

    monkeypatch.setattr(module, "decode", noted)
    return found


def policy_of(kind: str, **keys: Any) -> Policy:
    """A policy one in twelve of whose tokens ends an answer."""
    keys = {"initializer_range": 0.05, "max_position_embeddings": 256, **keys}
    policy = Policy(model_of(kind, **keys), AutoTokenizer.from_pretrained(TINY))
    settle(policy, kind)
    policy.eos_ids = tuple(range(0, 545, 12))
    return policy


def prompts() -> list[tuple[int, ...]]:
    return [tuple(range(20 * n + 1, 20 * n + 1 + length)) for n, length in enumerate(LENGTHS)]


def same(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    for mine, own in zip(found, expected, strict=True):
        assert mine.token_ids == own.token_ids
        assert (mine.text, mine.finish_reason, mine.mask) == (own.text, own.finish_reason, own.mask)
        assert mine.logprobs == pytest.approx(own.logprobs, abs=1e-4)


def alone(policy: Policy, asked: Sequence[tuple[int, ...]], how: Decoding) -> list[Completion]:
    """Each prompt sampled by itself."""
    return [
        completion
        for p, prompt in enumerate(asked)
        for completion in sample(policy, [prompt], range(p * COPIES, (p + 1) * COPIES), how)
    ]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        pytest.param("qwen3", {}, id="attention"),
        pytest.param("gemma3_text", {"head_dim": 8, "sliding_window": 6}, id="sliding"),
        pytest.param("qwen3_5_text", LINEAR, id="recurrent and attention"),
        pytest.param("gpt2", {}, id="learned positions"),
        pytest.param("bloom", {}, id="ALiBi"),
        pytest.param("mamba", {}, id="recurrent"),
    ],
)
def test_a_row_that_joins_is_sampled_as_it_is_alone(
    kind: str, keys: dict[str, Any], joins: list[int]
) -> None:
    policy, asked = policy_of(kind, **keys), prompts()
    expected = alone(policy, asked, HOW)
    for rows in (6, 3, 1):  # three groups, one and a half, and half of one
        joins.clear()
        found = sample(policy, asked, range(len(asked) * COPIES), HOW, budget=_Rows(rows))
        same(found, expected)
        assert bool(joins) == (rows > 1)
    assert len({len(c.token_ids) for c in expected}) > 4


class _Rows(Budget):
    """So many rows, also where a group has more."""

    def at_once(self, length: int, copies: int) -> int:
        return self.rows


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(replace(HOW, top_p=0.9, repetition_penalty=1.3), id="distorted"),
        pytest.param(replace(HOW, stop=("1", "=")), id="stop strings"),
        pytest.param(replace(HOW, thinking_budget=2), id="thoughts"),
        pytest.param(replace(HOW, max_new_tokens=1), id="one token"),
    ],
)
@pytest.mark.parametrize("every", [1, 5])
def test_it_keeps_to_how_it_is_decoded(
    tiny: Policy, how: Decoding, every: int, monkeypatch: pytest.MonkeyPatch, joins: list[int]
) -> None:
    texts = ["What is 1+2?", "Why?", "What is 48+12+44+7?", "No!", "What is 12*11?", "1+1=?"]
    asked = [tiny.render(text) for text in texts]
    if how.thinking_budget is not None:
        opens, _ = tiny.chat.thought_tokens()
        asked = [(*prompt, opens) if p % 2 else prompt for p, prompt in enumerate(asked)]
    expected = alone(tiny, asked, how)
    joins.clear()
    monkeypatch.setattr("grpo_policy.samplers.torch._LOOK_EVERY", {"cpu": every})
    same(sample(tiny, asked, range(12), how, budget=Budget(4)), expected)
    assert bool(joins) == (how.max_new_tokens > 1)


def test_fewer_steps_and_no_group_twice(steps: list[int]) -> None:
    policy, asked = policy_of("qwen3"), prompts() * 3
    steps.clear()
    seeds = range(len(asked) * COPIES)
    found = list(sample_groups(policy, asked, seeds, HOW, budget=Budget(8)))
    refilled, rows = len(steps), sum(steps)
    assert sorted(p for p, _ in found) == list(range(len(asked)))
    assert max(steps) == 8
    policy.caching = replace(policy.caching, joins=False)
    steps.clear()
    batches = list(sample_groups(policy, asked, seeds, HOW, budget=Budget(8)))
    same(*([c for _, group in sorted(pairs) for c in group] for pairs in (found, batches)))
    assert refilled < 0.7 * len(steps)
    assert rows < sum(steps)


def test_tokens_at_once_bound_the_rows_whoever_joins(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short prompts leave room for more rows than long ones, and never for too many."""
    asked = [tiny.render("1+1=?" + " and 2?" * (10 - n)) for n in range(10)]
    sampler = TorchSampler(tiny, batch_tokens=500)
    rooms: list[tuple[int, int]] = []
    usual = Caching.gather

    def noted(self: Caching, parts: Sequence[Any], length: int, room: int) -> Any:
        rooms.append((sum(len(rows) for _, rows in parts), room))
        return usual(self, parts, length, room)

    monkeypatch.setattr(Caching, "gather", noted)
    found = dict(sampler.sample(asked, range(40), Decoding(max_new_tokens=40)))
    assert sorted(found) == list(range(10))
    assert all(rows * room <= 500 for rows, room in rooms)
    assert len({rows for rows, _ in rooms}) > 1
    assert {rows for rows, _ in rooms} >= {4}
