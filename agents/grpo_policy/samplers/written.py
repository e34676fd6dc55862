"""The tokens sampled so far, for the rows that are sampled at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers.draw import Stops


class Written:
    """The tokens sampled so far: each row has a slot, which a later row reuses."""

    def __init__(self, policy: Policy, slots: int, length: int) -> None:
        self.policy = policy
        device = policy.device
        self.tokens_ST = torch.full((slots, length), policy.pad_id, device=device)
        self.logps_ST = torch.zeros((slots, length), device=device)
        self.counts_S = torch.zeros(slots, dtype=torch.long, device=device)
        """Tokens of each row so far, including tokens after its end."""
        self.lengths_S = torch.zeros(slots, dtype=torch.long, device=device)
        """Tokens of each row until its end."""
        self.ended_S = torch.zeros(slots, dtype=torch.bool, device=device)
        self.forced_ST: Tensor | None = None
        """True at forced tokens; None if no token can be forced."""
        self.eos = torch.tensor(policy.eos_ids, device=device)

    def begin(self, slots_R: Tensor) -> None:
        """Assign these slots to new rows."""
        self.counts_S[slots_R], self.lengths_S[slots_R], self.ended_S[slots_R] = 0, 0, False

    def add(
        self,
        places: tuple[Tensor, Tensor],
        tokens_R: Tensor,
        logps_R: Tensor,
        forced_R: Tensor | None,
    ) -> None:
        """Record the next token of these rows, none of which is at its limit.

        Args:
            places: The slot of each row (R), and how many tokens it has so far (R).
            tokens_R: The tokens.
            logps_R: Their log-probabilities.
            forced_R: Which tokens were forced; None: none can be.
        """
        slots_R, t_R = places
        self.tokens_ST[slots_R, t_R], self.logps_ST[slots_R, t_R] = tokens_R, logps_R
        ended_R = self.ended_S[slots_R]
        self.lengths_S[slots_R] += ~ended_R
        self.ended_S[slots_R] = ended_R | torch.isin(tokens_R, self.eos)
        self.counts_S[slots_R] = t_R + 1
        if forced_R is not None:
            if self.forced_ST is None:
                self.forced_ST = torch.zeros_like(self.tokens_ST, dtype=torch.bool)
            self.forced_ST[slots_R, t_R] = forced_R

    def stop(self, stops: Stops, slots: Sequence[int], since: Sequence[tuple[int, int]]) -> None:
        """End rows at the token that completes a stop string, if there is one in the new tokens.

        Args:
            stops: The strings.
            slots: The slots of the rows.
            since: For each row, the number of tokens that were searched before, and of all tokens.
        """
        slots_R = torch.tensor(slots, device=self.eos.device)
        lengths = self.lengths_S[slots_R].tolist()
        tokens = self.tokens_ST[slots_R, : max(end for _, end in since)].tolist()
        for slot, row, length, (start, end) in zip(slots, tokens, lengths, since, strict=True):
            found = stops.end(row[: min(length, end)], start)
            if found is not None:
                self.lengths_S[slot], self.ended_S[slot] = found, True

    def ended(self, slots_R: Tensor) -> list[bool]:
        """Return which of these rows have ended."""
        return list(self.ended_S[slots_R].tolist())

    def completions(self, slots: Sequence[int]) -> list[Completion]:
        """Return these rows as completions."""
        slots_R = torch.tensor(slots, device=self.eos.device)
        parts = (self.tokens_ST, self.logps_ST, self.lengths_S, self.ended_S)
        lists = (x[slots_R].tolist() for x in parts)
        found = [
            Completion(
                text=self.policy.decode(tuple(tokens[:length])),
                token_ids=tuple(tokens[:length]),
                logprobs=tuple(logps[:length]),
                finish_reason="stop" if ended else "length",
            )
            for tokens, logps, length, ended in zip(*lists, strict=True)
        ]
        if self.forced_ST is None:
            return found
        forced = self.forced_ST[slots_R].tolist()
        return [_masked(c, flags) for c, flags in zip(found, forced, strict=True)]


def _masked(completion: Completion, forced: Sequence[bool]) -> Completion:
    """Return a completion with a mask of its sampled tokens, if any token was forced."""
    mask = tuple(not flag for flag in forced[: len(completion.token_ids)])
    if all(mask):
        return completion
    return replace(completion, mask=mask, turn_lengths=(len(mask),))
