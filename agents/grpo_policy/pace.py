"""How many GPUs that sample keep one busy that trains: the seconds of a step, from a model's sizes.

Decoding reads all weights and the cache of each row for a token a row; that, not arithmetic, takes
its time (Pope et al. 2022, arXiv 2211.05102, section 2). An update is arithmetic: `flops`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grpo_envs.types import Completion, Group
from grpo_policy.cache_size import cache_bytes_a_token
from grpo_policy.flops import ModelFlops
from grpo_policy.footprint import Job
from grpo_policy.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a GPU reaches in a long run, which is less than its data sheet says."""

    flops: float
    """Operations of an update a second [FLOP/s]."""
    bandwidth: float
    """Bytes that decoding reads a second [B/s]."""
    tokens: float | None = None
    """Tokens that are sampled a second [1/s]; None: as `bandwidth` allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A step on one GPU that samples and on one that trains."""

    tokens: int
    """That are sampled."""
    rate: float
    """Tokens that are sampled a second [1/s]."""
    flops: float
    """Operations of the update."""
    sample: float
    """Seconds [s] of sampling."""
    update: float
    """Seconds [s] of the update."""

    @property
    def samplers(self) -> int:
        """How many GPUs sample while one trains, so that it does not wait (`trainer.lag=1`)."""
        return math.ceil(self.sample / self.update)

    def in_turn(self, gpus: int) -> tuple[int, float]:
        """Return how many of so many GPUs had best sample, and the seconds [s] of a step.

        One phase after the other: S/s + U/t for s that sample and t that train.

        Args:
            gpus: 2 or more.
        """
        steps = {s: self.sample / s + self.update / (gpus - s) for s in range(1, gpus)}
        best = min(steps, key=lambda s: steps[s])
        return best, steps[best]


def pace(policy: Policy, job: Job, speed: Speed, *, passes: int, at_once: int) -> Pace | None:
    """Return the pace of a run's steps; None of a mixture of experts, where tokens differ.

    Args:
        policy: May be a fake one.
        job: Its `answer` is the mean here.
        speed: Of each GPU.
        passes: Of an update over what is learnt from.
        at_once: Completions that a GPU samples at once.
    """
    model = ModelFlops.of(policy)
    if model is None:
        return None
    answers = (Completion(text="", token_ids=(0,) * job.answer),) * job.group_size
    prompt = (0,) * job.prompt
    group = Group(key=0, prompt="", prompt_ids=prompt, completions=answers, rewards=())
    groups = job.completions // job.group_size
    flops = groups * model.update([group], passes, reference=job.reference)
    tokens = job.completions * job.answer
    rate = speed.tokens or _rate(policy, job, speed.bandwidth, min(at_once, job.completions))
    return Pace(
        tokens=tokens, rate=rate, flops=flops, sample=tokens / rate, update=flops / speed.flops
    )


def _rate(policy: Policy, job: Job, bandwidth: float, rows: int) -> float:
    """Return the tokens a second that so many rows get, half of whose answers is written."""
    cached = cache_bytes_a_token(policy.model.config, job.sampled_in)
    read = policy.size * job.sampled_in.itemsize + rows * (job.prompt + job.answer / 2) * cached
    return rows * bandwidth / read
