"""What a rollout asks of a sampler: tokens in, tokens out. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from grpo_envs.types import Completion

if TYPE_CHECKING:
    from grpo_policy.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How to decode."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 takes the most likely token."""


class Sampler(Protocol):
    """Samples completions from some version of the policy's weights."""

    version: int
    """The `Policy.version` of the weights that it samples with."""

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights. Called when `policy.version` has moved."""

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample `len(seeds) / len(prompts)` completions of each prompt.

        Yields:
            The number of a prompt and its completions, as soon as all of them have ended.

        Args:
            prompts: P prompts as tokens.
            seeds: B seeds, one a completion, those of one prompt in a row: what is sampled depends
                on the seed, the prompt and the model, not on the batch around it.
            how: Temperature and length.
            tick: Called often while sampling; what it raises ends the sampling.
        """

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last calls, by `area/name`; {} where there are none."""

    def close(self) -> None:
        """Let go of servers, processes and memory."""
