"""What a rollout asks of a sampler: tokens in, tokens out. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from grpo_envs.config.model import SamplerConfig
from grpo_envs.types import Completion

if TYPE_CHECKING:
    from accelerate import Accelerator

    from grpo_policy.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How to decode."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 takes the most likely token."""


class Sampler(Protocol):
    """Samples completions from some version of the policy's weights."""

    @property
    def version(self) -> int:
        """The `Policy.version` of the weights that it samples with."""

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights and version. Called after each step's update."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerParts:
    """What a sampler is made of: the framework opens the model and chooses the device."""

    policy: Policy
    """The model that is trained, on its device, with the weights to start with."""
    accelerator: Accelerator
    """Accelerate's: device, precision and processes of the run."""


class SamplerPlugin(Protocol):
    """An entry point of the group `grpo_envs.samplers`."""

    Config: ClassVar[type[SamplerConfig]]
    """The keys `sampler.*`. Read for `--help`, so its module should not import torch."""

    @classmethod
    def make(cls, cfg: Any, parts: SamplerParts) -> Sampler:
        """Return the sampler.

        Args:
            cfg: An instance of `Config`.
            parts: What the sampler is made of.
        """
