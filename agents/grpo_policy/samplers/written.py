"""The tokens that a sampler has written so far, of all rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers.draw import Stops


class Written:
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
