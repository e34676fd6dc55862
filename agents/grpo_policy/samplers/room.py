"""The room for answers in the context, and the queue of completions to sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from grpo_envs.errors import ConfigError
from grpo_policy.context import masks_end
from grpo_policy.policy import Policy


def room_behind(prompt: tuple[int, ...], policy: Policy) -> int:
    """Return how many tokens fit into the model's context after a prompt.

    Raises:
        ConfigError: no token fits.
    """
    room = policy.context_length - len(prompt)
    if room < 1:
        raise ConfigError(
            f"a prompt has {len(prompt):,} tokens and leaves no room for an answer in the model's "
            f"context of {policy.context_length:,}."
        )
    return room


class Waiting:
    """The queue of completions that are not sampled yet, longest prompts first."""

    def __init__(
        self, policy: Policy, prompts: Sequence[tuple[int, ...]], copies: int, tokens: int
    ) -> None:
        """Queue `copies` completions of each prompt.

        Args:
            policy: The model.
            prompts: Prompts as tokens.
            copies: Completions of each prompt.
            tokens: The most tokens of an answer.

        Raises:
            ConfigError: a prompt leaves no room for an answer.
        """
        self.policy, self.prompts = policy, prompts
        self.limits = [min(tokens, room_behind(prompt, policy)) for prompt in prompts]
        """The most tokens of an answer to each prompt."""
        order = sorted(range(len(prompts)), key=lambda p: -len(prompts[p]))  # for little padding
        self._queue = deque((p, member) for p in order for member in range(copies))
        longest = max(map(len, prompts)) + tokens
        # Padding that cannot be cut takes columns, and the context ends with a column.
        ends = masks_end(policy.model) or policy.reach is not None
        own_lengths = ends and not policy.caching.joins
        self._apart = own_lengths and longest > policy.context_length

    def __len__(self) -> int:
        """Return how many completions are left."""
        return len(self._queue)

    @property
    def next_length(self) -> int:
        """Tokens of the prompt of the next completion; no later prompt is longer."""
        return len(self.prompts[self._queue[0][0]])

    def take(self, count: int) -> list[tuple[int, int]]:
        """Return the next completions, `count` at most, as (prompt number, member number)."""
        length = self.next_length
        taken: list[tuple[int, int]] = []
        while self._queue and len(taken) < count:
            if self._apart and self.next_length != length:
                break
            taken.append(self._queue.popleft())
        return taken
