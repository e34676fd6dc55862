"""Groups as tensors: right-padded prompt + completion rows with explicit masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo_envs.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B rows. L is prompt + completion + padding, T is completion + padding.

    The completion of a conversation is everything after its prompt, including the environment's
    replies between the turns; it ends with a token of the policy.
    """

    input_ids_BL: Tensor
    """Prompt, completion, padding. Padding comes last, so causal attention needs no padding mask
    and positions count from 0."""
    prompt_lengths_B: Tensor
    token_ids_BT: Tensor
    """The completion's tokens, the end-of-turn token included."""
    mask_BT: Tensor
    """True on tokens that the policy chose, False on padding and on the environment's replies.
    Computed from lengths, never from `ids != pad`."""
    sampled_logps_BT: Tensor
    """Log-probabilities at sampling time, 0 outside the mask."""
    groups_B: Tensor
    """The number of each row's group; the rows of a group have the same prompt."""

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each completion, including those of the environment."""
        places_T = torch.arange(1, self.mask_BT.shape[1] + 1, device=self.mask_BT.device)
        return (self.mask_BT * places_T).amax(dim=1)

    def rows(self, index: slice | Tensor) -> Batch:
        """Return some rows, cut to the longest of them."""
        part = {f.name: getattr(self, f.name)[index] for f in fields(self)}
        lengths_B = self.lengths_B[index]
        tokens = int(lengths_B.max())
        length = int((part["prompt_lengths_B"] + lengths_B).max())
        for name in ("token_ids_BT", "mask_BT", "sampled_logps_BT"):
            part[name] = part[name][:, :tokens]
        part["input_ids_BL"] = part["input_ids_BL"][:, :length]
        return Batch(**part)


def micro_batches(batch: Batch, budget: int, *, packed: bool = False) -> list[Tensor]:
    """Split a batch into parts of rows of similar length, which pass through the model in turn.

    Args:
        batch: B rows.
        budget: The most tokens of a part, padding included. A longer row is a part of its own.
        packed: Whether rows of a group will share their prompt; such rows stay together.

    Returns:
        The rows of each part; every row is in exactly one part.
    """
    prompts, lengths = batch.prompt_lengths_B.tolist(), batch.lengths_B.tolist()
    units: list[tuple[int, list[int]]] = []  # tokens and rows that stay together
    groups = batch.groups_B.tolist()
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        size, rows = units[-1] if units else (0, [])
        if packed and rows and groups[rows[0]] == groups[row] and size + length <= budget:
            units[-1] = (size + length, [*rows, row])
        else:
            units.append((prompt + length, [row]))
    parts: list[list[int]] = []
    count = 0
    for size, rows in sorted(units, key=lambda unit: unit[0]):  # shortest first
        if not parts or (count + 1) * size > budget:
            parts.append([])
            count = 0
        parts[-1] += rows
        count += 1
    return [torch.tensor(part, device=batch.mask_BT.device) for part in parts]


def collate(groups: Sequence[Group], pad_id: int, device: torch.device) -> Batch:
    """Put the completions of `groups` into one batch, in order."""
    rows = [(group.prompt_ids, c) for group in groups for c in group.completions]
    prompts_B = np.array([len(prompt) for prompt, _ in rows])[:, None]
    lengths_B = np.array([len(c.token_ids) for _, c in rows])[:, None]
    columns_T = np.arange(lengths_B.max())
    columns_L = np.arange((prompts_B + lengths_B).max())
    filled_BT = columns_T < lengths_B
    filled_BL = (columns_L >= prompts_B) & (columns_L < prompts_B + lengths_B)
    tokens_N = _flat((c.token_ids for _, c in rows), np.int64)
    ids_BL = _spread(columns_L < prompts_B, _flat((p for p, _ in rows), np.int64), pad_id)
    ids_BL[filled_BL] = tokens_N
    mask_BT = filled_BT.copy()
    for row, (_, completion) in enumerate(rows):
        if completion.mask:
            mask_BT[row, : len(completion.mask)] = completion.mask
    logps_BT = _spread(filled_BT, _flat((c.logprobs for _, c in rows), np.float64), 0.0)
    number = [number for number, group in enumerate(groups) for _ in group.completions]
    return Batch(
        input_ids_BL=torch.from_numpy(ids_BL).to(device),
        prompt_lengths_B=torch.from_numpy(prompts_B[:, 0]).to(device),
        token_ids_BT=torch.from_numpy(_spread(filled_BT, tokens_N, pad_id)).to(device),
        mask_BT=torch.from_numpy(mask_BT).to(device),
        sampled_logps_BT=torch.from_numpy(logps_BT).to(device, torch.get_default_dtype()),
        groups_B=torch.tensor(number, device=device),
    )


def _flat(rows: Iterable[Sequence[float]], dtype: type) -> Any:
    """Return the numbers of all rows, one after another."""
    return np.fromiter(chain.from_iterable(rows), dtype)


def _spread(filled_BT: Any, values_N: Any, pad: float) -> Any:
    """Return an array with the values where `filled_BT` is True, row by row, else `pad`."""
    spread_BT = np.full(filled_BT.shape, pad, values_N.dtype)
    spread_BT[filled_BT] = values_N
    return spread_BT
