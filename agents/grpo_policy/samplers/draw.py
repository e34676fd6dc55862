"""The next token of each row: drawn or forced; and where an answer ends."""

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
"""Tokens of the vocabulary in a block: the search finds the block first, then the token in it."""
_SLACK = 8
"""Tokens that are decoded together with a stop string: a character may take several tokens."""


class Draw:
    """Draws the next token of each row by the settings of a `Decoding`; each row has a slot."""

    def __init__(self, policy: Policy, how: Decoding, slots: int, longest: int) -> None:
        """Allocate memory for the rows that are sampled at once.

        Args:
            policy: The model.
            how: Temperature and the other settings.
            slots: The most rows at once.
            longest: Tokens of the longest prompt.
        """
        self.how, self.device = how, policy.device
        self.noise_ST = torch.zeros(slots, how.max_new_tokens, device=self.device)
        distorted = not {*DISTORTIONS}.isdisjoint(how.extras())
        self.distortion = Distortion(how) if distorted else None
        self.context = Context(how, slots, longest, self.device) if distorted else None
        budget = how.thinking_budget
        self.thoughts = None if budget is None else Thoughts(policy, slots, budget)

    def begin(
        self, slots_R: Tensor, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int]
    ) -> None:
        """Assign these slots to new rows."""
        self.noise_ST[slots_R] = noise(seeds, self.how.max_new_tokens).to(self.device)
        if self.context:
            self.context.begin(slots_R, prompts)
        if self.thoughts:
            self.thoughts.begin(slots_R, prompts)

    def __call__(
        self, logits_RV: Tensor, slots_R: Tensor, t_R: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a token for each row, its log-probability, and whether it was forced, all (R).

        Args:
            logits_RV: The logits of the model.
            slots_R: The slots of the rows.
            t_R: Tokens that each row has written so far.
        """
        noise_R = self.noise_ST[slots_R, t_R]
        if self.distortion is None or self.context is None:
            tokens_R, logps_R = choose(logits_RV, noise_R, self.how.temperature)
        else:
            logits_RV = self.distortion(logits_RV, self.context.ids_SL[slots_R])
            tokens_R, logps_R = self._choose_distorted(logits_RV, noise_R)
        forced_R = None
        if self.thoughts is not None:
            last_R = t_R + 1 == self.how.max_new_tokens  # no room for an answer after the thought
            tokens_R, forced_R = self.thoughts.force(slots_R, tokens_R, last_R)
            logps_R = logps_R.masked_fill(forced_R, 0.0)
        if self.context:
            self.context.add(slots_R, t_R, tokens_R)
        return tokens_R, logps_R, forced_R

    def _choose_distorted(self, logits_RV: Tensor, noise_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and log-probabilities (R) under logits that are -inf at removed tokens."""
        best_R, best_logps_R = choose(logits_RV, noise_R, _GREEDY)
        if self.how.temperature == _GREEDY:
            return best_R, best_logps_R
        tokens_R, logps_R = choose(logits_RV, noise_R, 1.0)
        cut_R = logps_R.isneginf()  # the cumulative sum was rounded past the last token
        return torch.where(cut_R, best_R, tokens_R), torch.where(cut_R, best_logps_R, logps_R)


class Distortion:
    """Changes the logits with the processors of Transformers' `generate`, in the same order.

    The order is repetition penalty, temperature, top k, top p, min p.
    """

    def __init__(self, how: Decoding) -> None:
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

    def __call__(self, logits_RV: Tensor, ids_RL: Tensor) -> Tensor:
        """Return the changed logits (R, V), given the contexts' tokens (R, L) in any order."""
        return self.processors(ids_RL, logits_RV.float())  # type: ignore[arg-type]


class Context:
    """The tokens in the contexts of rows: their prompts and the tokens written so far."""

    def __init__(self, how: Decoding, slots: int, longest: int, device: torch.device) -> None:
        self.longest = longest
        length = longest + how.max_new_tokens
        self.ids_SL = torch.zeros(slots, length, dtype=torch.long, device=device)

    def begin(self, slots_R: Tensor, prompts: Sequence[tuple[int, ...]]) -> None:
        """Assign these slots to rows with these prompts."""
        length = self.ids_SL.shape[1]
        # Filled up with a token of the prompt: repeated tokens are penalised only once.
        filled = [list(prompt) + [prompt[0]] * (length - len(prompt)) for prompt in prompts]
        self.ids_SL[slots_R] = torch.tensor(filled, device=self.ids_SL.device)

    def add(self, slots_R: Tensor, t_R: Tensor, tokens_R: Tensor) -> None:
        """Record token number `t_R` of each of these rows."""
        self.ids_SL[slots_R, self.longest + t_R] = tokens_R


class Stops:
    """Finds the token that completes a stop string."""

    def __init__(self, texts: Sequence[str], decode: Callable[[tuple[int, ...]], str]) -> None:
        self.texts, self.decode = texts, decode
        # A token has at least one byte, unless it is empty.
        self.reach = max(len(text.encode()) for text in texts) + _SLACK

    def end(self, tokens: Sequence[int], start: int) -> int | None:
        """Return the number of tokens up to the end of the first stop string; None without one.

        The first `start` tokens are known to have none.
        """
        for length in range(start + 1, len(tokens) + 1):
            tail = self.decode(tuple(tokens[max(0, length - self.reach) : length]))
            if any(text in tail for text in self.texts):
                return length
        return None


class Thoughts:
    """Forces the token that closes a thought when the thought has used up its budget."""

    def __init__(self, policy: Policy, slots: int, budget: int) -> None:
        self.chat, self.budget = policy.chat, budget
        self.opens, self.closes = self.chat.thought_tokens()
        self.lengths_S = torch.full((slots,), -1, device=policy.device)
        """Tokens of the thought so far; -1 outside a thought."""

    def begin(self, slots_R: Tensor, prompts: Sequence[tuple[int, ...]]) -> None:
        """Assign these slots to rows with these prompts, which may have opened a thought."""
        begun = {prompt: 0 if self.chat.opened(prompt) else -1 for prompt in {*prompts}}
        lengths = [begun[prompt] for prompt in prompts]
        self.lengths_S[slots_R] = torch.tensor(lengths, device=self.lengths_S.device)

    def force(self, slots_R: Tensor, tokens_R: Tensor, last_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next tokens, and which of them are forced; no last token is forced."""
        lengths_R = self.lengths_S[slots_R]
        forced_R = (lengths_R >= self.budget) & ~last_R
        tokens_R = torch.where(forced_R, self.closes, tokens_R)
        grown_R = torch.where(lengths_R < 0, lengths_R, lengths_R + 1)
        grown_R = torch.where((lengths_R < 0) & (tokens_R == self.opens), 0, grown_R)
        self.lengths_S[slots_R] = torch.where(tokens_R == self.closes, -1, grown_R)
        return tokens_R, forced_R


def choose(logits_RV: Tensor, noise_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a token and its log-probability (R) for each row."""
    greedy = temperature == _GREEDY
    logits_RV = logits_RV.float() if greedy or temperature == 1 else logits_RV.float() / temperature
    probs_RV = logits_RV.softmax(dim=-1)
    tokens_R1 = logits_RV.argmax(dim=-1, keepdim=True) if greedy else invert(probs_RV, noise_R)
    return tokens_R1[:, 0], probs_RV.gather(1, tokens_R1)[:, 0].log()


def invert(weights_RV: Tensor, noise_R: Tensor) -> Tensor:
    """Return the index (R, 1) where the cumulative sum of the weights reaches the share `noise_R`.

    The search finds the block first, then the index in it, so no cumulative sum over the whole
    vocabulary is needed.
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
    """Return a uniform number in [0, 1) for each row and token (R, T), seeded for each row."""
    generator = torch.Generator()
    return torch.stack(
        [torch.rand(length, generator=generator.manual_seed(seed)) for seed in seeds]
    )
