"""Sampling groups: prefill each prompt once, share its cache among the group, decode together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from grpo_envs.runtime.memory import ran_out
from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.conversations import Conversations
from grpo_policy.samplers.fixed import Fixing
from grpo_policy.samplers.places import Places
from grpo_policy.samplers.prepacked import prepacked
from grpo_policy.samplers.protocol import Decoding

_LOOK_EVERY = {"cuda": 8}
"""Tokens between two checks for finished rows; each check makes the host wait for the GPU."""


@dataclass(slots=True)
class TorchSampler:
    """Samples with the trained model itself: it needs no copy of the weights."""

    policy: Policy
    dtype: torch.dtype | None = None
    """The dtype of the weights while sampling; None: their own."""
    batch_size: int = 256
    """The most completions that are sampled at once; if a prompt has more, their number."""
    batch_tokens: int | None = None
    """The most tokens in the cache; None: as many as the free memory allows."""
    fixing: Fixing | None = None
    """Whether steps are captured as CUDA graphs; None: on a GPU."""
    budget: Budget = field(init=False)
    conversations: Conversations = field(init=False, default_factory=Conversations)
    version: int = field(init=False)
    """The version of the policy at the last call of `sync`."""

    def __post_init__(self) -> None:
        """Start with the policy's current weights."""
        self.budget = Budget(self.batch_size, self.batch_tokens)
        self.sync(self.policy)

    def sync(self, policy: Policy) -> None:
        """Sample with this policy from now on. Nothing is copied."""
        self.conversations.drop()
        self.policy, self.version = policy, policy.version

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample the prompts, those of similar length together; see `Sampler`.

        New rows take the places of finished ones, within the budget. If memory runs out, the caches
        of conversations are dropped first. After that the remaining completions are sampled in
        smaller batches with the same seeds, so the completions are the same.

        Raises:
            MemoryExhausted: memory ran out with a single completion.
        """
        left, copies = list(range(len(prompts))), len(seeds) // len(prompts)
        conversations = self.conversations
        keep = keep and self.policy.caching.keeps
        if self.fixing is None:
            gpu = self.policy.device.type == "cuda"
            self.fixing = Fixing(fix=gpu, capture=gpu)
        conversations.turn(prompts, self.policy.version, keep=keep)
        with self.policy.sampled_in(self.dtype), prepacked(self.policy.model):
            self.budget.measure(self.policy, self.policy.model.dtype, conversations.tokens)
            while left:
                numbers = list(left)
                asked = [prompts[p] for p in numbers]
                noise = [seeds[p * copies + i] for p in numbers for i in range(copies)]
                groups = sample_groups(
                    *(self.policy, asked, noise, how),
                    budget=self.budget,
                    tick=tick,
                    conversations=conversations,
                    fixing=self.fixing,
                )
                try:
                    for i, found in groups:
                        left.remove(numbers[i])
                        yield numbers[i], found
                except RuntimeError as error:
                    if not ran_out(error):
                        raise
                    if not conversations.give_way():
                        self.budget.halve()
                if left and self.policy.device.type == "cuda":
                    torch.cuda.empty_cache()  # here the error is freed, with its frames' tensors

    def release(self) -> None:
        """Drop the caches of conversations: they are over."""
        self.conversations.drop()

    def metrics(self) -> dict[str, float]:
        """Return nothing: the run measures the time of sampling itself."""
        return {}

    def close(self) -> None:
        """Do nothing: the model belongs to the run."""


def sample(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    how: Decoding,
    *,
    budget: Budget | None = None,
    conversations: Conversations | None = None,
    fixing: Fixing | None = None,
) -> list[Completion]:
    """Sample `len(seeds) / len(prompts)` completions of each prompt; return them in prompt order.

    Args:
        policy: Model and tokenizer.
        prompts: P prompts as tokens.
        seeds: B seeds, one per completion. A completion depends on its seed, its prompt and the
            model, not on the rest of the batch. Unused for greedy decoding.
        how: Temperature and length.
        budget: How many rows are sampled at once; None: all.
        conversations: Caches that prompts may continue; None: there are none.
        fixing: Whether steps are captured as CUDA graphs; None: they are not.

    Returns:
        B completions with the log-probability of each token at sampling time.
    """
    groups = sample_groups(
        *(policy, prompts, seeds, how), budget=budget, conversations=conversations, fixing=fixing
    )
    done = dict(groups)
    return [completion for p in range(len(prompts)) for completion in done[p]]


@torch.inference_mode()
def sample_groups(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    how: Decoding,
    *,
    budget: Budget | None = None,
    tick: Callable[[], None] = lambda: None,
    conversations: Conversations | None = None,
    fixing: Fixing | None = None,
) -> Iterator[tuple[int, list[Completion]]]:
    """Sample as `sample` does; yield the number of a prompt and its completions once all ended.

    Args:
        policy: Model and tokenizer.
        prompts: P prompts as tokens.
        seeds: B seeds, one per completion.
        how: Temperature and length.
        budget: How many rows are sampled at once; None: all.
        tick: Called before each token; its exceptions end the sampling.
        conversations: Caches that prompts may continue; None: there are none.
        fixing: Whether steps are captured as CUDA graphs; None: they are not.
    """
    budget, conversations = budget or Budget(len(seeds)), conversations or Conversations()
    places = Places(
        *(policy, prompts, seeds, how),
        budget=budget,
        conversations=conversations,
        fixing=fixing or Fixing(),
    )
    every = _LOOK_EVERY.get(policy.device.type, 1)
    unseen = every
    while places.rows.rows or places.waiting:
        tick()
        if unseen >= every or places.rows.full():
            yield from places.look()
            unseen = 0
        else:
            places.step()
            unseen += 1
