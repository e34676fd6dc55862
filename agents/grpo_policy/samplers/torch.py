"""Sampling groups: prefill each prompt once, share its cache among the group, decode together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grpo_envs.runtime.memory import ran_out
from grpo_envs.types import Completion
from grpo_policy.kv_cache import Caching
from grpo_policy.policy import Policy
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.draw import Draw, Stops, noise
from grpo_policy.samplers.masks import taken_as_given
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.room import room_behind, together
from grpo_policy.samplers.written import Written

_LOOK_EVERY = {"cuda": 8}
"""Tokens after which it is looked at which rows have ended: a GPU has to be waited for, then."""


@dataclass(slots=True)
class _Rows:
    """The rows that still run."""

    index_R: Tensor
    """Their places in the output."""
    logits_RV: Tensor
    mask_RL: Tensor
    """Attention mask of everything in the cache: 0 on left padding."""
    padded: bool
    """Whether there is any; attention is faster without a mask."""
    cache: Any
    """The model's."""
    caching: Caching
    places: list[int]
    """`index_R`, without a look at the device."""

    def drop(self, over: Sequence[bool], tokens_R: Tensor, *, full: bool) -> Tensor:
        """Let rows that are over go once they are half of all: a copy of the cache each time.

        At once where some are `full`: the model has no position for another token of them.
        """
        kept = [row for row, place in enumerate(self.places) if not over[place]]
        if len(kept) > len(self.places) // 2 and not full:
            return tokens_R
        kept_R = torch.tensor(kept, device=tokens_R.device)
        self.caching.take(self.cache, kept_R)
        self.index_R, self.mask_RL = self.index_R[kept_R], self.mask_RL[kept_R]
        self.places = [self.places[row] for row in kept]
        return tokens_R[kept_R]


@dataclass(slots=True)
class TorchSampler:
    """Samples with the trained model itself: it needs no copy of the weights."""

    policy: Policy
    dtype: torch.dtype | None = None
    """What the weights are held in while sampling; None: as they are."""
    batch_size: int = 256
    """Completions that are sampled at once, at least the completions of one prompt."""
    batch_tokens: int | None = None
    """Tokens in the cache at once, at most; None: as many as the free memory holds."""
    budget: Budget = field(init=False)
    version: int = field(init=False)
    """The policy's when `sync` was called last."""

    def __post_init__(self) -> None:
        """Begin with the policy's weights as they are."""
        self.budget = Budget(self.batch_size, self.batch_tokens)
        self.sync(self.policy)

    def sync(self, policy: Policy) -> None:
        """Sample with this policy from now on. Nothing is copied."""
        self.policy, self.version = policy, policy.version

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample the prompts in batches, prompts of similar length together; see `Sampler`.

        Where memory runs out, what is not sampled yet is sampled in smaller batches, with the same
        seeds: the same completions.

        Raises:
            MemoryExhausted: it does with one completion, too.
        """
        left = list(range(len(prompts)))
        self.budget.measure(self.policy, self.dtype or self.policy.model.dtype)
        with self.policy.weights_in(self.dtype) if self.dtype else nullcontext():
            while left:
                try:
                    for p, found in self._sample(left, prompts, seeds, how, tick=tick):
                        left.remove(p)
                        yield p, found
                except RuntimeError as error:
                    if not ran_out(error):
                        raise
                    self.budget.halve()
                if left and self.policy.device.type == "cuda":
                    torch.cuda.empty_cache()  # out here the error is gone, and what it held

    def _sample(
        self,
        numbers: Sequence[int],
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None],
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample these of the prompts, a batch after another."""
        numbers, copies = list(numbers), len(seeds) // len(prompts)
        own = {p: seeds[p * copies : (p + 1) * copies] for p in numbers}
        asked, tokens = [prompts[p] for p in numbers], how.max_new_tokens

        def groups(length: int) -> int:
            return self.budget.at_once(length, copies) // copies

        for part in together(self.policy, asked, tokens, groups):
            given = [asked[i] for i in part]
            rows = self.budget.at_once(len(given[-1]) + tokens, copies)
            self.budget.tried = min(rows, len(part) * copies)
            if rows >= copies:
                noise = [seed for i in part for seed in own[numbers[i]]]
                for i, found in sample_groups(self.policy, given, noise, how, tick=tick):
                    yield numbers[part[i]], found
                continue
            (p,), whole = [numbers[i] for i in part], list[Completion]()
            for start in range(0, copies, rows):  # of one prompt whose group is too large
                noise = list(own[p][start : start + rows])
                ((_, found),) = sample_groups(self.policy, given, noise, how, tick=tick)
                whole += found
            yield p, whole

    def metrics(self) -> dict[str, float]:
        """Return nothing: the run measures the time of sampling itself."""
        return {}

    def close(self) -> None:
        """Do nothing: the model is the run's."""


def sample(
    policy: Policy, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], how: Decoding
) -> list[Completion]:
    """Sample `len(seeds) / len(prompts)` completions of each prompt, those of one prompt in a row.

    Args:
        policy: Model and tokenizer.
        prompts: P prompts as tokens.
        seeds: B seeds, one a completion: what is sampled depends on the seed, the prompt and the
            model, not on the batch around it. Unused when greedy.
        how: Temperature and length.

    Returns:
        B completions with the log-probability of each token at sampling time.
    """
    done = dict(sample_groups(policy, prompts, seeds, how))
    return [completion for p in range(len(prompts)) for completion in done[p]]


@torch.inference_mode()
def sample_groups(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    how: Decoding,
    *,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, list[Completion]]]:
    """Sample as `sample` does; yield the number of a prompt and its completions once all ended.

    `tick` is called before each token; what it raises ends the sampling.
    """
    copies = len(seeds) // len(prompts)
    most = [min(how.max_new_tokens, room_behind(prompt, policy)) for prompt in prompts]
    limits = [tokens for tokens in most for _ in range(copies)]
    draw = Draw(policy, prompts, noise(seeds, how.max_new_tokens), how)
    written = Written(policy, limits)
    stops = Stops(how.stop, policy.decode) if how.stop else None
    rows = _prefill(policy, prompts, copies)
    unfinished = set(range(len(prompts)))
    every = _LOOK_EVERY.get(policy.device.type, 1)
    for t in range(max(limits)):
        tick()
        i = rows.index_R
        tokens_R, logps_R, forced_R = draw(rows.logits_RV, i, written.tokens_BT[i, :t])
        written.add(i, t, tokens_R, logps_R)
        if forced_R is not None:
            written.force(i, t, forced_R)
        full = any(limits[place] == t + 1 for place in rows.places)
        if full or (t + 1) % every == 0:
            if stops:
                written.stop(stops, t // every * every, t + 1)
            over = written.over(t + 1)
            for p in sorted(unfinished):
                part = slice(p * copies, (p + 1) * copies)
                if all(over[part]):
                    unfinished.remove(p)
                    yield p, written.completions(part)
            if not unfinished:
                return
            tokens_R = rows.drop(over, tokens_R, full=full)
        _advance(policy, rows, tokens_R)


def _prefill(policy: Policy, prompts: Sequence[tuple[int, ...]], copies: int) -> _Rows:
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    ids_PL = [[policy.pad_id] * pad + list(ids) for pad, ids in zip(pads, prompts, strict=True)]
    pads_P = torch.tensor(pads, device=policy.device)
    mask_PL = (torch.arange(longest, device=policy.device) >= pads_P[:, None]).long()
    with taken_as_given():
        cache, logits_P1V = policy.caching.prefill(
            policy.model,
            input_ids=torch.tensor(ids_PL, device=policy.device),
            attention_mask=mask_PL if any(pads) else None,
            position_ids=(mask_PL.cumsum(dim=1) - 1).clamp(min=0),
            **policy.last_logits,
        )
    index_R = torch.arange(len(prompts) * copies, device=policy.device)
    policy.caching.take(cache, index_R // copies)
    return _Rows(
        index_R=index_R,
        places=list(range(len(prompts) * copies)),
        logits_RV=logits_P1V[:, -1].repeat_interleave(copies, dim=0),
        mask_RL=mask_PL.repeat_interleave(copies, dim=0),
        padded=any(pads),
        cache=cache,
        caching=policy.caching,
    )


def _advance(policy: Policy, rows: _Rows, tokens_R: Tensor) -> None:
    """Feed each row its token; its next logits replace the old ones."""
    positions_R = rows.mask_RL.sum(dim=1)
    rows.mask_RL = torch.cat([rows.mask_RL, rows.mask_RL.new_ones(len(tokens_R), 1)], dim=1)
    with taken_as_given():
        rows.logits_RV = policy.model(
            input_ids=tokens_R[:, None],
            attention_mask=rows.caching.mask(rows.mask_RL if rows.padded else None),
            position_ids=positions_R[:, None],
            use_cache=True,
            **{rows.caching.name: rows.cache},
        ).logits[:, -1]
