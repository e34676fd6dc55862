"""The rows that are being sampled: their cache, their padding, and the next step of the model.

The last tokens of all rows stand in one column of the cache, the shorter rows behind padding: a
token is written into one column, whatever the rows' lengths. Rows leave and others join in one
pass over the cache, which also cuts the columns that no row needs any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from grpo_policy.kv_cache import Part
from grpo_policy.policy import Policy
from grpo_policy.samplers.masks import taken_as_given

_PAIRS = 1 << 26
"""Pairs of tokens, at most, in the mask of prompts of unequal length that pass together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A completion that is being sampled."""

    group: int
    """The number of its prompt."""
    member: int
    """Its number in the group."""
    prompt: tuple[int, ...]
    limit: int
    """The most tokens that it may have."""
    slot: int
    """Where its tokens are written down."""
    begun: int
    """The tick before its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """Rows whose prompts have passed through the model."""

    rows: Sequence[Row]
    parts: list[Part]
    """Caches of the prompts, and which of them each row takes."""
    tokens_R: Tensor
    """The first token of each row."""


@dataclass(slots=True)
class Rows:
    """The rows that run, in the order of their cache."""

    policy: Policy
    rows: list[Row] = field(default_factory=list)
    tick: int = 0
    """Counts the tokens of every row."""
    slots_R: Tensor = field(init=False)
    _tokens_R: Tensor = field(init=False)
    """The last token of each row, which is not in the cache yet."""
    _cache: Any = None
    _width: int = 0
    """Columns of the cache that are filled."""
    _lengths_R: Tensor = field(init=False)
    """Tokens of each row in the cache, without padding."""
    _mask_RL: Tensor | None = None
    """Attention mask of all columns that there is room for; None: no row has padding."""

    def __post_init__(self) -> None:
        """Begin without any row."""
        none = torch.zeros(0, dtype=torch.long, device=self.policy.device)
        self.slots_R = self._tokens_R = self._lengths_R = none

    def written(self, row: Row) -> int:
        """Return how many tokens a row has written."""
        return self.tick - row.begun

    def full(self) -> bool:
        """Return whether some row has so many tokens as it may have: it cannot take a step."""
        return any(self.written(row) >= row.limit for row in self.rows)

    def change(self, kept: Sequence[int], new: Joining | None, room: int) -> None:
        """Go on with these of the rows, and with new ones.

        Args:
            kept: Numbers of the rows that stay.
            new: Those that join; only where no row stays, if the model's caches cannot be joined.
            room: Tokens of the longest prompt and its answer.
        """
        device = self.policy.device
        kept_R = torch.tensor(kept, dtype=torch.long, device=device)
        parts = [(self._cache, kept_R)] if kept else []
        self.rows, self._cache = [self.rows[number] for number in kept], None
        self._tokens_R = self._tokens_R[kept_R]
        if new:
            parts += new.parts
            self.rows += new.rows
            self._tokens_R = torch.cat([self._tokens_R, new.tokens_R])
        lengths = [len(row.prompt) + self.written(row) - 1 for row in self.rows]
        if new or self.policy.caching.joins:
            self._width = max(lengths, default=0)
        if self.rows:
            self._cache = self.policy.caching.gather(parts, self._width, room)
        self.slots_R = torch.tensor([row.slot for row in self.rows], device=device)
        self._lengths_R = torch.tensor(lengths, device=device)
        self._mask_RL = None
        if any(length < self._width for length in lengths):
            columns_L = torch.arange(max(room, self._width), device=device)
            self._mask_RL = (columns_L >= self._width - self._lengths_R[:, None]).long()

    def logits(self) -> Tensor:
        """Pass the last token of each row through the model; return the logits of the next."""
        self._width += 1
        logits_RV = decode(
            self.policy,
            self._cache,
            self._tokens_R,
            self._lengths_R,
            mask_RL=None if self._mask_RL is None else self._mask_RL[:, : self._width],
        )
        self._lengths_R = self._lengths_R + 1
        return logits_RV

    def feed(self, tokens_R: Tensor) -> None:
        """Give each row its next token."""
        self._tokens_R, self.tick = tokens_R, self.tick + 1


def decode(
    policy: Policy, cache: Any, tokens_R: Tensor, positions_R: Tensor, *, mask_RL: Tensor | None
) -> Tensor:
    """Return the logits (R, V) after one more token of each row, which goes into the cache.

    Args:
        policy: The model.
        cache: Of the tokens before.
        tokens_R: The tokens.
        positions_R: Their positions.
        mask_RL: 0 where a column of the cache is padding; None: nowhere.
    """
    with taken_as_given():
        output = policy.model(
            input_ids=tokens_R[:, None],
            attention_mask=policy.caching.mask(mask_RL),
            position_ids=positions_R[:, None],
            use_cache=True,
            **{policy.caching.name: cache},
        )
    logits_R1V: Tensor = output.logits
    return logits_R1V[:, -1]


def prefill(policy: Policy, rows: Sequence[Row]) -> tuple[list[Part], Tensor]:
    """Pass the prompts of rows through the model, that of adjacent rows of a group once.

    Returns:
        Caches of prompts with the number of its prompt for each row, and the rows' next logits.
    """
    parts, logits = [], []
    groups = [list(own) for _, own in groupby(rows, key=lambda row: row.group)]
    for some in _passes(policy, groups):
        cache, logits_PV = _pass(policy, [own[0].prompt for own in some])
        numbers = [number for number, own in enumerate(some) for _ in own]
        which_R = torch.tensor(numbers, device=policy.device)
        parts.append((cache, which_R))
        logits.append(logits_PV[which_R])
    return parts, torch.cat(logits)


def _passes(policy: Policy, groups: Sequence[list[Row]]) -> Iterator[Sequence[list[Row]]]:
    """Yield the groups that pass together, so that no mask of their padding gets large."""
    start = 0
    for end in range(1, len(groups) + 1):
        some = groups[start : end + 1]
        lengths = [len(own[0].prompt) for own in some]
        large = len(some) * max(lengths) ** 2 > _PAIRS and len({*lengths}) > 1
        if end == len(groups) or (large and policy.caching.joins):
            yield groups[start:end]
            start = end


def _pass(policy: Policy, prompts: Sequence[tuple[int, ...]]) -> tuple[Any, Tensor]:
    """Return the cache of some prompts, padded on the left, and the logits after them (P, V)."""
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
    return cache, logits_P1V[:, -1]
