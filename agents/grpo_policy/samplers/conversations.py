"""Caches of completions whose conversations may go on: the next turn passes only its new tokens.

A prompt continues a completion if it begins with exactly the tokens of the completion's cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Past:
    """A prompt with its completion, and the model's cache of both."""

    tokens: tuple[int, ...]
    """The tokens in the cache: all but the completion's last, which did not enter the model."""
    cache: Any
    """A cache of one row, without padding."""
    prompt: int | None = None
    """The number of the prompt that continues the completion; None until the next call."""

    def begins(self, prompt: tuple[int, ...]) -> bool:
        """Return whether a prompt begins with these tokens, and has more."""
        length = len(self.tokens)
        if length >= len(prompt) or prompt[length - 1] != self.tokens[-1]:  # the usual case
            return False
        return prompt[:length] == self.tokens


@dataclass(slots=True)
class Conversations:
    """Keeps caches from one call of a sampler to the next, as far as the memory allows."""

    keep: bool = False
    """Whether the completions of this call are kept for the next."""
    _pasts: list[Past] = field(default_factory=list)
    _version: int = -1
    """The version of the policy that made the caches."""
    _held: bool = False
    """Whether any cache was held during this call."""
    _too_large: bool = False
    """Whether memory ran out while caches were held; from then on none is kept."""

    @property
    def tokens(self) -> int:
        """Tokens in the caches that are kept."""
        return sum(len(past.tokens) for past in self._pasts)

    def turn(self, prompts: Sequence[tuple[int, ...]], version: int, *, keep: bool) -> None:
        """Begin a call: match prompts with caches, and drop the caches that no prompt continues.

        Args:
            prompts: All prompts of the call.
            version: The version of the policy: caches of another version are dropped.
            keep: Whether the completions of this call may go on in the next.
        """
        if version != self._version:
            self.drop()
        left = dict(enumerate(prompts))
        self._pasts.sort(key=lambda past: -len(past.tokens))  # prefer the longest match
        for past in self._pasts:
            past.prompt = next((n for n, prompt in left.items() if past.begins(prompt)), None)
            if past.prompt is not None:
                del left[past.prompt]
        self._pasts = [past for past in self._pasts if past.prompt is not None]
        self.keep, self._version = keep and not self._too_large, version
        self._held = bool(self._pasts)

    def take(self, prompts: Iterable[int]) -> dict[int, Past]:
        """Return the caches of these prompts, by prompt number, and forget them here."""
        wanted = {*prompts}
        taken = {p.prompt: p for p in self._pasts if p.prompt is not None and p.prompt in wanted}
        self._pasts = [past for past in self._pasts if past.prompt not in taken]
        return taken

    def add(self, past: Past) -> None:
        """Keep a cache for the next call."""
        self._pasts.append(past)
        self._held = True

    def fit(self, tokens: float) -> None:
        """Drop caches until the others hold at most `tokens` tokens.

        The shortest are dropped first: they are the cheapest to compute again.
        """
        self._pasts.sort(key=lambda past: -len(past.tokens))
        while self._pasts and self.tokens > tokens:
            self._pasts.pop()

    def drop(self) -> None:
        """Drop all caches: the conversations are over, or the weights have changed."""
        self._pasts.clear()

    def give_way(self) -> bool:
        """Drop all caches and keep none from now on, after memory ran out; return if any was held.

        A retry makes sense only if a cache was held.
        """
        held, self._held = self._held, False
        self.drop()
        if held:
            self.keep, self._too_large = False, True
            log.warning(
                "out of memory while conversations keep their caches: from now on each turn passes "
                "its whole context through the model (sampler.batch_tokens bounds the caches)."
            )
        return held
