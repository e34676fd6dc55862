"""Groups as tensors: right-padded prompt + completion rows with explicit masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from grpo_envs.types import Completion, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B rows. L is prompt + completion + padding, T the completion's part of it.

    The completion of a conversation is all that follows its prompt, the environment's words
    between the turns included; it ends with a token of the policy.
    """

    input_ids_BL: Tensor
    """Prompt, completion, padding. Padding comes last, so causal attention needs no mask for it
    and positions count from 0."""
    prompt_lengths_B: Tensor
    token_ids_BT: Tensor
    """The completion's tokens, the end-of-turn token included."""
    mask_BT: Tensor
    """True on tokens that the policy chose: not on padding, nor on what the environment said.
    Made from lengths, never from `ids != pad`."""
    sampled_logps_BT: Tensor
    """Log-probabilities at sampling time, 0 outside the mask."""
    groups_B: Tensor
    """The number of each row's group: rows of one have one prompt."""

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each completion, those of the environment included."""
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
    """Cut a batch into parts of similar length, to be passed through the model in turn.

    Args:
        batch: B rows.
        budget: Tokens of a part, padding included. A row that is longer is a part of its own.
        packed: Whether rows of a group will share their prompt; they stay together, then.

    Returns:
        The rows of each part; every row is in exactly one.
    """
    prompts, lengths = batch.prompt_lengths_B.tolist(), batch.lengths_B.tolist()
    units: list[tuple[int, list[int]]] = []  # tokens and rows of what goes together
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
    return Batch(
        input_ids_BL=_pad([(*prompt, *c.token_ids) for prompt, c in rows], pad_id).to(device),
        prompt_lengths_B=torch.tensor([len(prompt) for prompt, _ in rows], device=device),
        token_ids_BT=_pad([c.token_ids for _, c in rows], pad_id).to(device),
        mask_BT=_pad([_mask(c) for _, c in rows], value=False).to(device),
        sampled_logps_BT=_pad([c.logprobs for _, c in rows], 0.0).to(device),
        groups_B=torch.tensor(
            [number for number, group in enumerate(groups) for _ in group.completions],
            device=device,
        ),
    )


def _pad(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def _mask(completion: Completion) -> Sequence[bool]:
    return completion.mask or [True] * len(completion.token_ids)
