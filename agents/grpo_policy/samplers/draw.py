"""Which token comes next in each row: drawn, put in, or the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from grpo_envs.config.model import DISTORTIONS
from grpo_policy.policy import Policy
from grpo_policy.samplers.protocol import Decoding

_GREEDY = 0.0
_BLOCK = 256
"""Tokens of the vocabulary that are summed before one of them is looked for."""
_SLACK = 8
"""Tokens before a stop string that are decoded with it: a character may take several."""


class Draw:
    """Draws the next token of each row, as a `Decoding` says."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[tuple[int, ...]],
        noise_BT: Tensor,
        how: Decoding,
    ) -> None:
        self.noise_BT, self.how = noise_BT.to(policy.device), how
        copies = len(noise_BT) // len(prompts)
        distorted = not {*DISTORTIONS}.isdisjoint(how.extras())
        self.distortion = Distortion(how, prompts, copies) if distorted else None
        budget = how.thinking_budget
        self.thoughts = None if budget is None else Thoughts(policy, prompts, copies, budget)

    def __call__(
        self, logits_RV: Tensor, index_R: Tensor, written_RT: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a token for each row, its log-probability, and whether it was put in.

        Args:
            logits_RV: The model's.
            index_R: Places of the rows in the batch.
            written_RT: What each has written so far.
        """
        t = written_RT.shape[1]
        noise_R = self.noise_BT[index_R, t]
        if self.distortion is None:
            tokens_R, logps_R = choose(logits_RV, noise_R, self.how.temperature)
        else:
            tokens_R, logps_R = self._choose_distorted(
                self.distortion(logits_RV, index_R, written_RT), noise_R
            )
        if self.thoughts is None or t + 1 == self.how.max_new_tokens:  # an answer would not fit
            return tokens_R, logps_R, None
        tokens_R, forced_R = self.thoughts.force(index_R, tokens_R)
        return tokens_R, logps_R.masked_fill(forced_R, 0.0), forced_R

    def _choose_distorted(self, logits_RV: Tensor, noise_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and log-probabilities under logits that are -inf where tokens were cut."""
        best_R, best_logps_R = choose(logits_RV, noise_R, _GREEDY)
        if self.how.temperature == _GREEDY:
            return best_R, best_logps_R
        tokens_R, logps_R = choose(logits_RV, noise_R, 1.0)
        cut_R = logps_R.isneginf()  # the cumulative sum was rounded past the last token
        return torch.where(cut_R, best_R, tokens_R), torch.where(cut_R, best_logps_R, logps_R)


class Distortion:
    """Makes the logits that are sampled from, with the processors of Transformers' `generate`.

    In its order: repetition penalty, temperature, top k, top p, min p.
    """

    def __init__(self, how: Decoding, prompts: Sequence[tuple[int, ...]], copies: int) -> None:
        self.processors = LogitsProcessorList()
        if how.repetition_penalty != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
        if how.temperature not in (0, 1):
            self.processors.append(TemperatureLogitsWarper(float(how.temperature)))
        if how.temperature and how.top_k:
            self.processors.append(TopKLogitsWarper(how.top_k))
        if how.temperature and how.top_p < 1:
            self.processors.append(TopPLogitsWarper(how.top_p))
        if how.temperature and how.min_p:
            self.processors.append(MinPLogitsWarper(how.min_p))
        longest = max(map(len, prompts))
        # Padded with a token of the prompt itself, which is penalised once all the same.
        padded = [[prompt[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.prompts_BL = torch.tensor(padded).repeat_interleave(copies, dim=0)

    def __call__(self, logits_RV: Tensor, index_R: Tensor, written_RT: Tensor) -> Tensor:
        """Return the logits of rows of the batch, given what they have written so far."""
        self.prompts_BL = self.prompts_BL.to(index_R.device)
        ids_RL = torch.cat([self.prompts_BL[index_R], written_RT], dim=1)
        return self.processors(ids_RL, logits_RV.float())  # type: ignore[arg-type]


class Stops:
    """Finds the token that completes a stop string."""

    def __init__(self, texts: Sequence[str], decode: Callable[[tuple[int, ...]], str]) -> None:
        self.texts, self.decode = texts, decode
        # A token is at least one byte, unless it is none at all.
        self.reach = max(len(text.encode()) for text in texts) + _SLACK

    def end(self, tokens: Sequence[int], start: int) -> int | None:
        """Return how many tokens end with the first stop string; the first `start` hold none."""
        for length in range(start + 1, len(tokens) + 1):
            tail = self.decode(tuple(tokens[max(0, length - self.reach) : length]))
            if any(text in tail for text in self.texts):
                return length
        return None


class Thoughts:
    """Puts in the token that closes a thought, where one has used up its budget."""

    def __init__(
        self, policy: Policy, prompts: Sequence[tuple[int, ...]], copies: int, budget: int
    ) -> None:
        chat = policy.chat
        self.opens, self.closes = chat.thought_tokens()
        self.budget = budget
        begun = [0 if chat.opened(prompt) else -1 for prompt in prompts for _ in range(copies)]
        self.lengths_B = torch.tensor(begun, device=policy.device)
        """Tokens of the thought so far; -1 outside of one."""

    def force(self, index_R: Tensor, tokens_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next tokens, and which of them are put in."""
        lengths_R = self.lengths_B[index_R]
        forced_R = lengths_R >= self.budget
        tokens_R = torch.where(forced_R, self.closes, tokens_R)
        grown_R = torch.where(lengths_R < 0, lengths_R, lengths_R + 1)
        grown_R = torch.where((lengths_R < 0) & (tokens_R == self.opens), 0, grown_R)
        self.lengths_B[index_R] = torch.where(tokens_R == self.closes, -1, grown_R)
        return tokens_R, forced_R


def choose(logits_RV: Tensor, noise_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a token and its log-probability for each row."""
    greedy = temperature == _GREEDY
    logits_RV = logits_RV.float() if greedy or temperature == 1 else logits_RV.float() / temperature
    weights_RV = (logits_RV - logits_RV.amax(dim=-1, keepdim=True)).exp_()
    tokens_R1 = logits_RV.argmax(dim=-1, keepdim=True) if greedy else invert(weights_RV, noise_R)
    logps_R1 = (weights_RV.gather(1, tokens_R1) / weights_RV.sum(dim=-1, keepdim=True)).log()
    return tokens_R1[:, 0], logps_R1[:, 0]


def invert(weights_RV: Tensor, noise_R: Tensor) -> Tensor:
    """Return where the cumulative sum of the weights reaches this share of it (R, 1).

    First the block, then the place in it: no cumulative sum over the vocabulary is written.
    """
    size = weights_RV.shape[1]
    whole = size - size % _BLOCK
    blocks_RK = weights_RV[:, :whole].unflatten(1, (-1, _BLOCK)).sum(dim=-1)
    if whole < size:
        rest_R1 = weights_RV[:, whole:].sum(dim=-1, keepdim=True)
        blocks_RK = torch.cat([blocks_RK, rest_R1], dim=1)
    sums_RK = blocks_RK.cumsum(dim=-1)
    point_R1 = noise_R[:, None] * sums_RK[:, -1:]
    block_R1 = torch.searchsorted(sums_RK, point_R1, right=True).clamp(max=sums_RK.shape[1] - 1)
    point_R1 = point_R1 - (sums_RK - blocks_RK).gather(1, block_R1)
    places_RW = block_R1 * _BLOCK + torch.arange(_BLOCK, device=weights_RV.device)
    within_RW = weights_RV.gather(1, places_RW.clamp(max=size - 1)).cumsum(dim=-1)
    place_R1 = torch.searchsorted(within_RW, point_R1, right=True).clamp(max=_BLOCK - 1)
    return (block_R1 * _BLOCK + place_R1).clamp(max=size - 1)


def noise(seeds: Sequence[int], length: int) -> Tensor:
    """Return one uniform number in [0, 1) for each row and token, from a generator of its own."""
    generator = torch.Generator()
    return torch.stack(
        [torch.rand(length, generator=generator.manual_seed(seed)) for seed in seeds]
    )
