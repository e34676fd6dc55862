"""The number of sampling GPUs that keep a training GPU busy, and the seconds of a step.

To sample one token of each row, decoding reads all weights and the cache of each row. These reads
take the time, not the arithmetic (Pope et al. 2022, arXiv 2211.05102, section 2). The time of an
update is that of its arithmetic, see `flops`.
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
    """The sustained speed of a GPU, which is below the data sheet's."""

    flops: float
    """Operations of an update per second [FLOP/s]."""
    bandwidth: float
    """Bytes that decoding reads per second [B/s]."""
    tokens: float | None = None
    """Tokens sampled per second [1/s]; None: estimated from `bandwidth`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The duration of a step with one sampling GPU and one training GPU."""

    tokens: int
    """Sampled tokens of a step."""
    rate: float
    """Tokens sampled per second [1/s]."""
    flops: float
    """Operations of the update."""
    sample: float
    """Seconds [s] of sampling."""
    update: float
    """Seconds [s] of the update."""

    @property
    def samplers(self) -> int:
        """The number of sampling GPUs with which one training GPU never waits (`trainer.lag=1`)."""
        return math.ceil(self.sample / self.update)

    def in_turn(self, gpus: int) -> tuple[int, float]:
        """Return the best number of sampling GPUs out of `gpus`, and the seconds [s] of a step.

        The phases run one after the other: S/s + U/t for s sampling and t training GPUs.

        Args:
            gpus: Number of GPUs, 2 or more.
        """
        steps = {s: self.sample / s + self.update / (gpus - s) for s in range(1, gpus)}
        best = min(steps, key=lambda s: steps[s])
        return best, steps[best]


def pace(policy: Policy, job: Job, speed: Speed, *, passes: int, at_once: int) -> Pace | None:
    """Return the pace of a run's steps; None for a mixture of experts, where tokens differ.

    Args:
        policy: The model; fake tensors suffice.
        job: The numbers of the run; `answer` is the mean length here.
        speed: The speed of each GPU.
        passes: Passes of an update over the completions of a step.
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
    """Return the tokens per second [1/s] of `rows` rows whose answers are half written."""
    cached = cache_bytes_a_token(policy.model.config, job.sampled_in)
    read = policy.size * job.sampled_in.itemsize + rows * (job.prompt + job.answer / 2) * cached
    return rows * bandwidth / read
