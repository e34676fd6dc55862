"""The arithmetic of GPUs that sample beside those that train, on numbers that can be checked."""

from dataclasses import replace

import pytest
import torch

from grpo_policy.cache_size import cache_bytes_a_token
from grpo_policy.flops import ModelFlops
from grpo_policy.footprint import Job
from grpo_policy.pace import Pace, Speed, pace
from grpo_policy.policy import Policy

JOB = Job(
    sampled_in=torch.float32,
    device="cuda",
    prompt=100,
    answer=50,
    micro_batch_tokens=1000,
    group_size=4,
    completions=12,
)
SPEED = Speed(flops=1e9, bandwidth=1e9)


def found(policy: Policy, job: Job = JOB, speed: Speed = SPEED, at_once: int = 12) -> Pace:
    made = pace(policy, job, speed, passes=2, at_once=at_once)
    assert made is not None
    return made


def test_a_token_a_row_takes_what_reads_the_weights_and_the_caches(tiny: Policy) -> None:
    weights = sum(p.numel() * 4 for p in tiny.parameters())
    cache = (100 + 25) * cache_bytes_a_token(tiny.model.config, torch.float32)
    made = found(tiny)
    assert made.tokens == 600
    assert made.rate == pytest.approx(12 * 1e9 / (weights + 12 * cache))
    assert made.sample == pytest.approx(600 / made.rate)
    assert found(tiny, at_once=1).rate == pytest.approx(1e9 / (weights + cache))
    given = found(tiny, speed=replace(SPEED, tokens=300.0))
    assert (given.rate, given.sample) == (300.0, 2.0)


def test_an_update_takes_the_operations_of_its_passes(tiny: Policy) -> None:
    """Prompts once a group."""
    flops = ModelFlops.of(tiny)
    assert flops is not None
    made = found(tiny)
    weights = 2 * 3 * (2 * flops.weights) * 3 * (100 + 4 * 50)
    assert made.flops == pytest.approx(weights, rel=0.2)
    assert made.flops > weights, "attention comes on top"
    assert made.update == made.flops / 1e9
    scored = found(tiny, replace(JOB, reference=True))
    assert scored.flops == pytest.approx(made.flops * 7 / 6, rel=0.01)


def test_how_many_sample() -> None:
    """The example of docs/scale.md."""
    made = Pace(tokens=1, rate=1, flops=1, sample=40.0, update=20.0)
    assert made.samplers == 2
    best, seconds = made.in_turn(8)
    assert best == 5
    assert seconds == pytest.approx(14.67, abs=0.01)
    assert made.in_turn(2) == (1, 60.0)
    assert replace(made, sample=41.0).samplers == 3


def test_of_experts_there_is_none(tiny: Policy) -> None:
    tiny.model.config.num_experts = 8
    assert pace(tiny, JOB, SPEED, passes=1, at_once=1) is None
