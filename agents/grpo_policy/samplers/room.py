"""Prompts and their answers in a context: how much room there is, and what is sampled next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from grpo_envs.errors import ConfigError
from grpo_policy.policy import Policy


def room_behind(prompt: tuple[int, ...], policy: Policy) -> int:
    """Return how many tokens the model's context has room for behind a prompt.

    Raises:
        ConfigError: none.
    """
    room = policy.context_length - len(prompt)
    if room < 1:
        raise ConfigError(
            f"a prompt has {len(prompt):,} tokens and leaves no room for an answer in the model's "
            f"context of {policy.context_length:,}."
        )
    return room


class Waiting:
    """Completions that are not sampled yet, those of the longest prompts first."""

    def __init__(
        self, policy: Policy, prompts: Sequence[tuple[int, ...]], copies: int, tokens: int
    ) -> None:
        """Queue so many completions of each prompt.

        Args:
            policy: The model.
            prompts: As tokens.
            copies: Completions of each.
            tokens: Of an answer, at most.

        Raises:
            ConfigError: a prompt leaves no room for an answer.
        """
        self.policy, self.prompts = policy, prompts
        self.limits = [min(tokens, room_behind(prompt, policy)) for prompt in prompts]
        """The most tokens of an answer to each."""
        order = sorted(range(len(prompts)), key=lambda p: -len(prompts[p]))  # little padding
        self._queue = deque((p, member) for p in order for member in range(copies))
        longest = max(map(len, prompts)) + tokens
        # Padding that cannot be cut counts in a mask which ends with the context.
        own_lengths = policy.masks_end and not policy.caching.joins
        self._apart = own_lengths and longest > policy.context_length

    def __len__(self) -> int:
        """Return how many completions are left."""
        return len(self._queue)

    @property
    def next_length(self) -> int:
        """The tokens of the prompt of the next one: none behind it is longer."""
        return len(self.prompts[self._queue[0][0]])

    def take(self, count: int) -> list[tuple[int, int]]:
        """Return the next ones, `count` at most: numbers of their prompts and in their groups."""
        length = self.next_length
        taken: list[tuple[int, int]] = []
        while self._queue and len(taken) < count:
            if self._apart and self.next_length != length:
                break
            taken.append(self._queue.popleft())
        return taken
