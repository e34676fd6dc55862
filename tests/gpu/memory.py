"""Does it live in the memory that there is? Recovery where that runs out, and what a step takes."""

from __future__ import annotations

import gc
import logging
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig
from grpo_envs.types import Group
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler
from tests.agents.test_budget import Allocator
from tests.agents.test_learner import small_device
from tests.gpu.proof import (
    EVERY_ROW,
    Row,
    Scale,
    accelerator_of,
    as_on_a_card,
    endless,
    make_policy,
    prompts_of,
    sampled,
)

_COPIES = 4


def sampling_recovers(scale: Scale) -> Iterator[Row]:
    """Where memory runs out while sampling, half the rows are sampled at once: the same answers."""
    policy = endless(make_policy("0.6b", scale))
    prompts = prompts_of(scale.of(16, 4), scale.of(128, 12))
    tokens = scale.of(256, 8)

    def sample(some: Sequence[tuple[int, ...]]) -> list[Group]:
        sampler = TorchSampler(policy, batch_size=len(some) * _COPIES, batch_tokens=EVERY_ROW)
        # Colder, as a trained model is: among 150,000 words alike, rounding picks another one.
        return sampled(sampler, list(some), _COPIES, tokens, temperature=0.2)

    rows = len(prompts) * _COPIES
    whole, half = peak(scale, lambda: sample(prompts)), peak(scale, lambda: sample(prompts[::2]))
    expected = sample(prompts)
    with warnings() as said:
        if scale.gpu:
            with memory_of((whole + half) / 2):
                found = sample(prompts)
        else:
            with Allocator(rows // 2):
                found = sample(prompts)
    yield Row(what="times that memory ran out", value=len(said), least=1)
    pairs = [
        one.token_ids == other.token_ids
        for mine, theirs in zip(found, expected, strict=True)
        for one, other in zip(mine.completions, theirs.completions, strict=True)
    ]
    # On a GPU another number of rows is rounded another way, and now and then a token tips over.
    least = 0.8 if scale.gpu else 1.0
    yield Row(what="share of equal completions", value=sum(pairs) / len(pairs), least=least)


def update_recovers(scale: Scale) -> Iterator[Row]:
    """Where memory runs out in an update, it is made in halved micro-batches: the same gradient."""
    policy = as_on_a_card(endless(make_policy("0.6b", scale)), scale)
    prompts = prompts_of(4, scale.of(128, 12))
    groups = sampled(TorchSampler(policy), prompts, _COPIES, scale.of(384, 8))
    tokens = scale.of(8192, 2 * _COPIES * (12 + 8))  # padded or packed, all of them are more

    def update(budget: int) -> GrpoAgent:
        agent = agent_of(policy, scale, budget)
        norms.append(agent.update(groups)[0]["optim/grad_norm"])
        return agent

    norms: list[float] = []
    whole, half = peak(scale, lambda: update(tokens)), peak(scale, lambda: update(tokens // 2))
    with warnings() as said:
        if scale.gpu:
            with memory_of((whole + half) / 2):
                agent = update(tokens)
        else:
            policy.share_prompts = False
            end = small_device(policy, tokens // 2)
            agent = update(tokens)
            end()
    yield Row(what="times that memory ran out", value=len(said), least=1, most=1)
    left = agent.learner.micro_batch_tokens / tokens
    yield Row(what="micro-batch afterwards", value=left, unit="of before", least=0.5, most=0.5)
    off = abs(norms[-1] / norms[0] - 1)
    yield Row(what="norm of the gradient off by", value=off, most=0.01)


def agent_of(policy: Policy, scale: Scale, budget: int) -> GrpoAgent:
    """Return an agent whose updates change nothing."""
    cfg = GrpoConfig(
        group_size=_COPIES, lr=0.0, micro_batch_tokens=budget, loss=LossConfig(beta=0.0)
    )
    return GrpoAgent(policy, cfg, accelerator_of(scale), Decoding(max_new_tokens=8))


def peak(scale: Scale, work: Callable[[], object]) -> float:
    """Return the bytes that PyTorch takes from a GPU for some work, at most; 0 without one."""
    if not scale.gpu:
        work()
        return 0.0
    gc.collect()  # optimisers that are done with, which refer to themselves
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return float(torch.cuda.max_memory_reserved())


@contextmanager
def memory_of(size: float) -> Iterator[None]:
    """Give this process so many bytes of a GPU."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def warnings() -> Iterator[list[str]]:
    """Collect the log's lines about memory that ran out."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("out of memory"):
                said.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger("grpo_policy")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def footprint(scale: Scale) -> Iterator[Row]:
    """Memory of sampling and of an update: what tensors take, and what is reserved for them."""
    policy = as_on_a_card(endless(make_policy("0.6b", scale)), scale)
    prompts = prompts_of(scale.of(32, 2), scale.of(128, 12))
    tokens = scale.of(512, 80)  # more than one block of the cache
    sampler = TorchSampler(policy, batch_tokens=EVERY_ROW)
    agent = agent_of(policy, scale, scale.of(8192, 256))
    rows = len(prompts) * _COPIES
    groups: list[Group] = []
    for what, work in (
        (
            f"sampling {rows} x {tokens} tokens",
            lambda: groups.extend(sampled(sampler, prompts, _COPIES, tokens)),
        ),
        ("an update on them", lambda: agent.update(groups)),
    ):
        reserved = peak(scale, work)
        if not scale.gpu:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            yield Row(what=f"{what}: peak of the process", value=used, unit="GiB")
            continue
        allocated = torch.cuda.max_memory_allocated()
        yield Row(what=f"{what}: peak allocated", value=allocated / 2**30, unit="GiB")
        yield Row(what=f"{what}: peak reserved", value=reserved / 2**30, unit="GiB")
        share = reserved / allocated
        yield Row(what=f"{what}: reserved", value=share, unit="of allocated")


PARTS = {sampling_recovers: 3, update_recovers: 3, footprint: 3}
"""Minutes that each may take."""
