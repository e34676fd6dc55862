"""Caches of completions whose conversations may go on: the next turn passes its new tokens alone.

Which prompt goes on behind which completion is found by the tokens: the prompt begins with exactly
those that the cache is of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Past:
    """A completion behind its prompt, and the model's cache of both."""

    tokens: tuple[int, ...]
    """Those that are in the cache: all but the completion's last, which the model was not given."""
    cache: Any
    """Of one row, without padding."""
    prompt: int | None = None
    """The number of the prompt that goes on behind it; None: the next call will tell."""

    def begins(self, prompt: tuple[int, ...]) -> bool:
        """Return whether a prompt begins with these tokens, and has more."""
        length = len(self.tokens)
        if length >= len(prompt) or prompt[length - 1] != self.tokens[-1]:  # most end here
            return False
        return prompt[:length] == self.tokens


@dataclass(slots=True)
class Conversations:
    """Keeps caches from one call of a sampler to the next, as far as the memory goes."""

    keep: bool = False
    """Whether the completions of this call are kept for the next."""
    _pasts: list[Past] = field(default_factory=list)
    _version: int = -1
    """The policy's, whose caches these are."""
    _held: bool = False
    """Whether any cache was held during this call."""
    _too_large: bool = False
    """Whether memory ran out beside them: none is kept from then on."""

    @property
    def tokens(self) -> int:
        """Tokens in the caches that are kept."""
        return sum(len(past.tokens) for past in self._pasts)

    def turn(self, prompts: Sequence[tuple[int, ...]], version: int, *, keep: bool) -> None:
        """Begin a call: find out which prompts go on; drop the caches that none of them needs.

        Args:
            prompts: All of the call.
            version: The policy's: caches of another one are dropped.
            keep: Whether the completions of this call may go on in the next.
        """
        if version != self._version:
            self.drop()
        left = dict(enumerate(prompts))
        self._pasts.sort(key=lambda past: -len(past.tokens))  # of two that fit, the longer one
        for past in self._pasts:
            past.prompt = next((n for n, prompt in left.items() if past.begins(prompt)), None)
            if past.prompt is not None:
                del left[past.prompt]
        self._pasts = [past for past in self._pasts if past.prompt is not None]
        self.keep, self._version = keep and not self._too_large, version
        self._held = bool(self._pasts)

    def take(self, prompts: Iterable[int]) -> dict[int, Past]:
        """Hand over what there is of these prompts, by their numbers."""
        wanted = {*prompts}
        taken = {p.prompt: p for p in self._pasts if p.prompt is not None and p.prompt in wanted}
        self._pasts = [past for past in self._pasts if past.prompt not in taken]
        return taken

    def add(self, past: Past) -> None:
        """Keep this for the next call."""
        self._pasts.append(past)
        self._held = True

    def fit(self, tokens: float) -> None:
        """Drop caches until those that are left hold so many tokens at most.

        The shortest first: they are the cheapest to make again.
        """
        self._pasts.sort(key=lambda past: -len(past.tokens))
        while self._pasts and self.tokens > tokens:
            self._pasts.pop()

    def drop(self) -> None:
        """Drop all: the conversations are over, or the weights have changed."""
        self._pasts.clear()

    def give_way(self) -> bool:
        """Drop all and keep nothing any more, as memory has run out; return whether that helps."""
        held, self._held = self._held, False
        self.drop()
        if held:
            self.keep, self._too_large = False, True
            log.warning(
                "out of memory while conversations keep their caches: from now on each turn passes "
                "its whole context through the model (sampler.batch_tokens bounds the caches)."
            )
        return held
