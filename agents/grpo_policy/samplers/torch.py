"""Sampling groups: prefill each prompt once, share its cache among the group, decode together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from grpo_envs.types import Completion
from grpo_policy.kv_cache import Caching
from grpo_policy.policy import Policy
from grpo_policy.samplers.draw import Draw, Stops, noise
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.room import room_behind, together

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


class _Written:
    """What was sampled so far."""

    def __init__(self, policy: Policy, limits: Sequence[int]) -> None:
        self.policy = policy
        self.limits = limits
        """The most tokens of each row."""
        device = policy.device
        rows, length = len(limits), max(limits)
        self.tokens_BT = torch.full((rows, length), policy.pad_id, device=device)
        self.logps_BT = torch.zeros((rows, length), device=device)
        self.lengths_B = torch.tensor(limits, device=device)
        self.ended_B = torch.zeros(rows, dtype=torch.bool, device=device)
        self.forced_BT: Tensor | None = None
        """Tokens that were put in, where there may be any."""
        self.eos = torch.tensor(policy.eos_ids, device=device)

    def add(self, index_R: Tensor, t: int, tokens_R: Tensor, logps_R: Tensor) -> None:
        """Take down the token `t` of these rows, none of which is at its limit yet."""
        self.tokens_BT[index_R, t], self.logps_BT[index_R, t] = tokens_R, logps_R
        ended_R = self.ended_B[index_R]
        ending_R = torch.isin(tokens_R, self.eos) & ~ended_R
        self.lengths_B[index_R] = torch.where(ending_R, t + 1, self.lengths_B[index_R])
        self.ended_B[index_R] = ended_R | ending_R

    def force(self, index_R: Tensor, t: int, forced_R: Tensor) -> None:
        """Take down which of the tokens `t` were put in."""
        if self.forced_BT is None:
            self.forced_BT = torch.zeros_like(self.tokens_BT, dtype=torch.bool)
        self.forced_BT[index_R, t] = forced_R

    def stop(self, stops: Stops, start: int, end: int) -> None:
        """End rows at the token that completes a stop string, if it is among these."""
        lengths = self.lengths_B.clamp(max=end).tolist()
        for row, length in enumerate(lengths):
            if length > start:
                found = stops.end(self.tokens_BT[row, :length].tolist(), start)
                if found is not None:
                    self.lengths_B[row], self.ended_B[row] = found, True

    def over(self, length: int) -> list[bool]:
        """Return which rows have ended, or have so many tokens as they may have."""
        ended = self.ended_B.tolist()
        return [stop or length >= most for stop, most in zip(ended, self.limits, strict=True)]

    def completions(self, rows: slice) -> list[Completion]:
        """Return these rows as completions."""
        parts = (self.tokens_BT, self.logps_BT, self.lengths_B, self.ended_B)
        found = [
            Completion(
                text=self.policy.decode(tuple(tokens[:length])),
                token_ids=tuple(tokens[:length]),
                logprobs=tuple(logps[:length]),
                finish_reason="stop" if ended else "length",
            )
            for tokens, logps, length, ended in zip(*(x[rows].tolist() for x in parts), strict=True)
        ]
        if self.forced_BT is None:
            return found
        forced = self.forced_BT[rows].tolist()
        return [_masked(c, flags) for c, flags in zip(found, forced, strict=True)]


def _masked(completion: Completion, forced: Sequence[bool]) -> Completion:
    """Return a completion with a mask of what was sampled, where anything was put in."""
    mask = tuple(not flag for flag in forced[: len(completion.token_ids)])
    if all(mask):
        return completion
    return replace(completion, mask=mask, turn_lengths=(len(mask),))


@dataclass(slots=True)
class TorchSampler:
    """Samples with the trained model itself: it needs no copy of the weights."""

    policy: Policy
    dtype: torch.dtype | None = None
    """What the weights are held in while sampling; None: as they are."""
    batch_size: int = 256
    """Completions that are sampled at once, at least the completions of one prompt."""
    version: int = field(init=False)
    """The policy's when `sync` was called last."""

    def __post_init__(self) -> None:
        """Begin with the policy's weights as they are."""
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
        """Sample the prompts in batches, prompts of similar length together; see `Sampler`."""
        copies = len(seeds) // len(prompts)
        size = max(1, self.batch_size // copies)
        with self.policy.weights_in(self.dtype) if self.dtype else nullcontext():
            for part in together(self.policy, prompts, size, how.max_new_tokens):
                noise = [seed for p in part for seed in seeds[p * copies : (p + 1) * copies]]
                asked = [prompts[p] for p in part]
                for i, found in sample_groups(self.policy, asked, noise, how, tick=tick):
                    yield part[i], found

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
    written = _Written(policy, limits)
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
    rows.logits_RV = policy.model(
        input_ids=tokens_R[:, None],
        attention_mask=rows.caching.mask(rows.mask_RL if rows.padded else None),
        position_ids=positions_R[:, None],
        use_cache=True,
        **{rows.caching.name: rows.cache},
    ).logits[:, -1]
