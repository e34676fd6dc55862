"""The rows that are being sampled: their cache, their padding, and the next step of the model.

The cache is right-aligned: the last tokens of all rows are in the same column, and shorter rows
have padding on the left. So a new token of each row is written to one column, whatever the rows'
lengths. Rows leave and join in one pass over the cache, which also removes the columns that no row
needs any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from grpo_policy.kv_cache import Part, cut, row_of
from grpo_policy.policy import Policy
from grpo_policy.samplers.conversations import Past
from grpo_policy.samplers.masks import taken_as_given

_PAIRS = 1 << 26
"""The most pairs of tokens in the mask of prompts of unequal length that pass together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A completion that is being sampled."""

    group: int
    """The number of its prompt."""
    member: int
    """Its number in the group."""
    prompt: tuple[int, ...]
    limit: int
    """The most tokens of the completion."""
    slot: int
    """The slot in which its tokens are recorded."""
    begun: int
    """The tick before its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """Rows whose prompts have passed through the model."""

    rows: Sequence[Row]
    parts: list[Part]
    """Caches of the prompts, and the number of its prompt for each row."""
    tokens_R: Tensor
    """The first token of each row."""


@dataclass(slots=True)
class Rows:
    """The running rows, in the order of their cache."""

    policy: Policy
    rows: list[Row] = field(default_factory=list)
    tick: int = 0
    """The number of steps so far: each adds a token to every row."""
    slots_R: Tensor = field(init=False)
    _tokens_R: Tensor = field(init=False)
    """The last token of each row, which is not in the cache yet."""
    _cache: Any = None
    _width: int = 0
    """Filled columns of the cache."""
    _lengths_R: Tensor = field(init=False)
    """Tokens of each row in the cache, without padding."""
    _mask_RL: Tensor | None = None
    """Attention mask of all allocated columns; None if no row has padding."""

    def __post_init__(self) -> None:
        """Start without rows."""
        none = torch.zeros(0, dtype=torch.long, device=self.policy.device)
        self.slots_R = self._tokens_R = self._lengths_R = none

    def written(self, row: Row) -> int:
        """Return how many tokens a row has written."""
        return self.tick - row.begun

    def full(self) -> bool:
        """Return whether some row has as many tokens as it may have and cannot take a step."""
        return any(self.written(row) >= row.limit for row in self.rows)

    def past(self, number: int, tokens: tuple[int, ...]) -> Past:
        """Return the first tokens of a row's context together with their cache."""
        row = self.rows[number]
        start = self._width - (len(row.prompt) + self.written(row) - 1)
        return Past(tokens, row_of(self._cache, number, slice(start, start + len(tokens))))

    def change(self, kept: Sequence[int], new: Joining | None, room: int) -> None:
        """Drop the other rows, and add new ones.

        Args:
            kept: Numbers of the rows that stay.
            new: The rows that join. If the model's caches cannot be joined, no row may stay.
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
        """Pass the last token of each row through the model; return the next logits (R, V)."""
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

    def held(self) -> tuple[Any, int, Tensor, Tensor]:
        """Return the state of a step: cache, filled columns, last tokens (R) and lengths (R)."""
        return self._cache, self._width, self._tokens_R, self._lengths_R

    def stepped(self) -> None:
        """Count a token of each row, after a step changed in place what `held` returned."""
        self._width, self.tick = self._width + 1, self.tick + 1

    def feed(self, tokens_R: Tensor) -> None:
        """Give each row its next token."""
        self._tokens_R, self.tick = tokens_R, self.tick + 1


def decode(
    policy: Policy, cache: Any, tokens_R: Tensor, positions_R: Tensor, *, mask_RL: Tensor | None
) -> Tensor:
    """Return the logits (R, V) after one more token of each row; the cache takes the token.

    Args:
        policy: The model.
        cache: The cache of the earlier tokens.
        tokens_R: The tokens.
        positions_R: Their positions.
        mask_RL: 0 where a column of the cache is padding; None: there is no padding.
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


def prefill(
    policy: Policy, rows: Sequence[Row], pasts: Mapping[int, Past]
) -> tuple[list[Part], Tensor]:
    """Pass the prompts of rows through the model; adjacent rows of a group share a pass.

    Args:
        policy: The model.
        rows: The rows. Rows whose prompts continue a past come first, in order of decreasing
            numbers of new tokens.
        pasts: Pasts by the number of the prompt; their caches cannot be used afterwards.

    Returns:
        Caches of prompts with the number of its prompt for each row, and the rows' next logits
        (R, V).
    """
    parts, logits = [], []
    groups = [list(own) for _, own in groupby(rows, key=lambda row: row.group)]
    begun = [_Prompt(own[0].prompt, len(own), pasts.get(own[0].group)) for own in groups]
    for some in _passes(policy, begun):
        cache, logits_PV = _pass(policy, some)
        numbers = [number for number, each in enumerate(some) for _ in range(each.rows)]
        which_R = torch.tensor(numbers, device=policy.device)
        parts.append((cache, which_R))
        logits.append(logits_PV[which_R])
    return parts, torch.cat(logits)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt that passes through the model."""

    tokens: tuple[int, ...]
    rows: int
    """Number of rows that begin with this prompt."""
    past: Past | None
    """The cache of its first tokens, if there is one."""

    @property
    def new(self) -> int:
        """Tokens that are not in the cache."""
        return len(self.tokens) - (len(self.past.tokens) if self.past else 0)


def _passes(policy: Policy, begun: Sequence[_Prompt]) -> Iterator[Sequence[_Prompt]]:
    """Yield the prompts of each pass through the model."""
    start = 0
    for end in range(1, len(begun) + 1):
        if end == len(begun) or _apart(policy, begun[start : end + 1]):
            yield begun[start:end]
            start = end


def _apart(policy: Policy, some: Sequence[_Prompt]) -> bool:
    """Return whether the last of these prompts needs another pass than the others.

    It does if only some of them have a past, if it would pass at least twice its new tokens, or if
    the mask of the padding would be too large.
    """
    if (some[0].past is None) != (some[-1].past is None):
        return True
    if some[0].past and 2 * some[-1].new <= some[0].new:
        return True
    lengths = [len(each.tokens) for each in some]
    large = len(some) * max(lengths) * some[0].new > _PAIRS and len({*lengths}) > 1
    return large and policy.caching.joins


def _pass(policy: Policy, some: Sequence[_Prompt]) -> tuple[Any, Tensor]:
    """Return the cache of some prompts, padded on the left, and the logits after them (P, V).

    All prompts end in the last column. The number of columns that pass is the largest number of new
    tokens of a prompt. A prompt with fewer new tokens passes some tokens of its past again, so that
    there is no padding within it.
    """
    longest, new = max(len(each.tokens) for each in some), max(each.new for each in some)
    pads = [longest - len(each.tokens) for each in some]
    ids_PL = [
        [policy.pad_id] * pad + list(each.tokens) for pad, each in zip(pads, some, strict=True)
    ]
    pads_P = torch.tensor(pads, device=policy.device)
    mask_PL = (torch.arange(longest, device=policy.device) >= pads_P[:, None]).long()
    with taken_as_given():
        cache, logits_P1V = policy.caching.prefill(
            policy.model,
            _before(policy, some, longest, new),
            input_ids=torch.tensor([ids[-new:] for ids in ids_PL], device=policy.device),
            attention_mask=mask_PL if any(pads) else None,
            position_ids=(mask_PL.cumsum(dim=1) - 1).clamp(min=0)[:, -new:],
            **policy.last_logits,
        )
    return cache, logits_P1V[:, -1]


def _before(policy: Policy, some: Sequence[_Prompt], longest: int, new: int) -> Any:
    """Return the cache of the columns before the last `new`; None if there are none."""
    if new == longest:
        return None
    first = torch.zeros(1, dtype=torch.long, device=policy.device)
    parts = []
    for each in some:
        assert each.past is not None
        cut(each.past.cache, max(0, len(each.tokens) - new))
        parts.append((each.past.cache, first))
    return policy.caching.gather(parts, longest - new, longest)
