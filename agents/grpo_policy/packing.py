"""Rows that share a prompt, packed into one: the prompt's tokens pass through the model once.

A pack is a prompt followed by its completions. Each completion attends to the prompt and to itself,
and its positions continue the prompt's. So its outputs and gradients are those of a row with this
completion alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from grpo_policy.batch import Batch
from grpo_policy.block_attention import attends, block_mask
from grpo_policy.row_attention import Rows, by_rows, lay_out

MASK_BYTES = 1 << 27
"""The most bytes of a mask with an entry for each pair of tokens; attention makes it floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packs:
    """K packs of at most L tokens."""

    input_ids_KL: Tensor
    position_ids_KL: Tensor
    owner_KL: Tensor
    """The owner of each token: 0 the prompt, from 1 a completion, -1 padding."""
    pack_N: Tensor
    """The pack of each token that the policy chose, in the order of `mask_BT`."""
    before_N: Tensor
    """The position in the pack of the token before, from which the token is predicted."""
    rows: Rows | None
    """The completions as rows; None on a GPU, or if attention over whole packs is cheaper."""

    def pairs(self) -> Tensor:
        """Return the attention mask with an entry for each pair of tokens (K, 1, L, L)."""
        return by_rows(_attends(self.owner_KL)[:, None], self.rows)

    def blocks(self) -> BlockMask:
        """Return the attention mask by blocks of tokens."""
        return block_mask(self.owner_KL)


def pack(batch: Batch, pad_id: int) -> Packs:
    """Pack neighbouring rows of the same group."""
    _, pack_B, rows_K = batch.groups_B.unique_consecutive(return_inverse=True, return_counts=True)
    first_K = rows_K.cumsum(0) - rows_K
    lengths_B, prompts_B = batch.lengths_B, batch.prompt_lengths_B
    sums_B = lengths_B.cumsum(0) - lengths_B
    starts_B = prompts_B + sums_B - sums_B[first_K[pack_B]]  # of each completion, in its pack
    size = int((starts_B + lengths_B).max())
    ids_KL = pack_B.new_full((len(rows_K), size), pad_id)
    positions_KL, owner_KL = torch.zeros_like(ids_KL), torch.full_like(ids_KL, -1)

    k, place = _below(prompts_B[first_K])
    ids_KL[k, place] = batch.input_ids_BL[first_K[k], place]
    positions_KL[k, place], owner_KL[k, place] = place, 0
    row, column = _below(lengths_B)
    k, place = pack_B[row], starts_B[row] + column
    ids_KL[k, place] = batch.token_ids_BT[row, column]
    positions_KL[k, place], owner_KL[k, place] = prompts_B[row] + column, row + 1

    row, column = batch.mask_BT.nonzero(as_tuple=True)
    before_N = torch.where(column == 0, prompts_B[row], starts_B[row] + column) - 1
    return Packs(
        input_ids_KL=ids_KL,
        position_ids_KL=positions_KL,
        owner_KL=owner_KL,
        pack_N=pack_B[row],
        before_N=before_N,
        rows=lay_out(starts_B, prompts_B, lengths_B, pack_B=pack_B, size=size)
        if ids_KL.is_cpu
        else None,
    )


def _below(lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of every position in rows of these lengths."""
    columns = torch.arange(int(lengths_B.max()), device=lengths_B.device)
    row, column = (columns < lengths_B[:, None]).nonzero(as_tuple=True)
    return row, column


def _attends(owner_KL: Tensor) -> Tensor:
    """Return the attention mask (K, L, L) of `attends`."""
    places_L = torch.arange(owner_KL.shape[1], device=owner_KL.device)
    packs_K11 = torch.arange(len(owner_KL), device=owner_KL.device)[:, None, None]
    return attends(owner_KL)(packs_K11, packs_K11, places_L[:, None], places_L)


def saves(batch: Batch, per_token: float, per_pair: float, *, attention: str = "pairs") -> bool:
    """Return whether packing takes fewer operations than a row for each completion.

    Args:
        batch: Rows; the rows of a group are next to each other.
        per_token: Operations of a token in the layers' matrices.
        per_pair: Operations of attention for a pair of tokens. A single row is causal and computes
            half of its pairs.
        attention: The pairs that the attention of a pack computes: all ("pairs"), those of its
            completions as rows ("rows", see `lay_out`), or those in the mask ("blocks").
    """
    prompts, lengths = batch.prompt_lengths_B.tolist(), batch.lengths_B.tolist()
    alone, packs = 0.0, dict[int, tuple[int, list[int]]]()
    for group, prompt, length in zip(batch.groups_B.tolist(), prompts, lengths, strict=True):
        alone += (prompt + length) * (per_token + per_pair * (prompt + length) / 2)
        packs.setdefault(group, (prompt, []))[1].append(length)
    tokens = sum(prompt + sum(own) for prompt, own in packs.values())
    pairs = sum(_pairs(prompt, own, attention) for prompt, own in packs.values())
    return per_token * tokens + per_pair * pairs < alone


def _pairs(prompt: int, lengths: Sequence[int], attention: str) -> float:
    """Return how many pairs of tokens the attention of a pack computes."""
    longest, whole = max(lengths), (prompt + sum(lengths)) ** 2
    match attention:
        case "blocks":
            return prompt**2 / 2 + sum(length * (prompt + length / 2) for length in lengths)
        case "rows":
            rows = prompt**2 / 2 + len(lengths) * longest * (prompt + longest)
            return min(rows, whole)
        case _:
            return whole


def mask_bytes(batch: Batch, budget: int | None = None) -> int:
    """Return the most bytes that a mask with an entry for each pair of tokens takes.

    Args:
        batch: Rows; the rows of a group are next to each other.
        budget: The tokens of a part, if the batch passes through the model in parts
            (`micro_batches`); None if it passes as a whole.
    """
    packs = dict[int, int]()
    prompts, lengths = batch.prompt_lengths_B.tolist(), batch.lengths_B.tolist()
    for group, prompt, length in zip(batch.groups_B.tolist(), prompts, lengths, strict=True):
        packs[group] = packs.get(group, prompt) + length
    longest = max(packs.values())
    if budget is None:
        return len(packs) * longest * longest
    return min(len(packs) * longest, budget) * min(longest, budget)
