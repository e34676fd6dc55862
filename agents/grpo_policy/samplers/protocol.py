"""What a rollout asks of a sampler: tokens in, tokens out. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from grpo_envs.config.model import SamplerConfig
from grpo_envs.errors import PluginError
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
    top_p: float = 1.0
    """Below 1: only the likeliest tokens of this total probability can be sampled."""
    top_k: int = 0
    """Above 0: only so many of the likeliest tokens can be."""
    min_p: float = 0.0
    """Above 0: only tokens with at least this share of the likeliest's probability can be."""
    repetition_penalty: float = 1.0
    """Logits of tokens in the context are divided by it, negative ones multiplied."""
    stop: tuple[str, ...] = ()
    """An answer ends, with "stop", at the token that completes one of these in its text."""
    thinking_budget: int | None = None
    """Tokens of a thought after which `</think>` is put in, as a token with a mask of False."""

    def extras(self) -> list[str]:
        """Return the fields that are set and that a sampler may not know."""
        plain = Decoding(max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        names = [field.name for field in fields(self)]
        return [name for name in names if getattr(self, name) != getattr(plain, name)]


class Sampler(Protocol):
    """Samples completions from some version of the policy's weights.

    It may have `identity() -> dict[str, str]`: what decides its samples beside the configuration,
    such as the version of an engine. A resumed run must share it.
    """

    @property
    def version(self) -> int:
        """The `Policy.version` of the weights that it samples with."""

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights and version. Called after each step's update.

        With `trainer.lag` it may be a copy of the trained policy, from any thread, while nothing is
        sampled. The weights that `sample` uses are those of the last call.
        """

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample `len(seeds) / len(prompts)` completions of each prompt.

        Yields:
            The number of a prompt and its completions, as soon as all of them have ended.

        Args:
            prompts: P prompts as tokens.
            seeds: B seeds, one a completion, those of one prompt in a row: what is sampled depends
                on the seed, the prompt and the model, not on the batch around it.
            how: Temperature, length, and what the plugin's `decodes` names.
            tick: Called often while sampling; what it raises ends the sampling.
            keep: Whether conversations may go on: a prompt of the next call may begin with a prompt
                of this call and a completion of it. The sampler may keep the caches of these until
                the next call or `release`. One that finds prefixes by itself ignores it.
        """

    def release(self) -> None:
        """Let go of what was kept: the conversations are over. Called at the end of a rollout."""

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last calls, by `area/name`; {} if there are none."""

    def close(self) -> None:
        """Let go of servers, processes and memory."""


def require_sampler(name: str, sampler: object) -> None:
    """Refuse a sampler that lacks a method, or an argument of `sample`, as older ones do.

    Args:
        name: Of its entry point.
        sampler: What its plugin has made.

    Raises:
        PluginError: one line that says what it lacks.
    """
    methods = ("sync", "sample", "release", "metrics", "close")
    lacks = [f"{method}()" for method in methods if not hasattr(sampler, method)]
    parameters = signature(sampler.sample).parameters if hasattr(sampler, "sample") else {}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        lacks += [f"{key} in sample()" for key in ("tick", "keep") if key not in parameters]
    if lacks:
        lacking = f"sampler={name}: {type(sampler).__name__} lacks {', '.join(lacks)}"
        raise PluginError(f"{lacking}. Allowed: all of grpo_policy.samplers.Sampler.")


def identity_of(sampler: Sampler) -> dict[str, str]:
    """Return what decides a sampler's samples beside the configuration; {} where nothing does."""
    found: dict[str, str] = getattr(sampler, "identity", dict)()
    return found


def shown_identity(found: Mapping[str, str]) -> str:
    """Return what `identity_of` returned, in words.

    >>> shown_identity({"engine": "vllm 0.32.0", "dtype": "fp32"})
    'vllm 0.32.0, fp32'
    """
    return ", ".join(found.values()) or "the run itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerParts:
    """What a sampler is made of: the framework opens the model and chooses the device."""

    policy: Policy
    """The model that is trained, on its device, with the weights to start with."""
    accelerator: Accelerator
    """Accelerate's: device and processes of the run."""
    ahead: bool = False
    """Whether it samples while the policy is updated, from the weights of `sync` (see `lag`)."""


class SamplerPlugin(Protocol):
    """An entry point of the group `grpo_envs.samplers`.

    It may have `decodes: ClassVar[tuple[str, ...]]`, the fields of `Decoding` that its sampler
    obeys beside length and temperature. A run that sets another one is refused. So is `trainer.lag`
    without `ahead: ClassVar[bool] = True`, which says that the sampler can keep the weights of
    `sync` while the policy is updated, where `SamplerParts.ahead` asks for it.

    It may have `samples_with_policy: ClassVar[bool]`, by default true: whether its samplers compute
    with the modules of the policy itself. One that has weights of its own, which `sync` gives it,
    says false: processes may share the policy's weights then (`trainer.shard=full`). `sync` is
    called in all of them, and finds whole weights in the first (`grpo_policy.parts`).
    """

    Config: ClassVar[type[SamplerConfig]]
    """The keys `sampler.*`. Read for `--help`, so its module should not import torch."""

    @classmethod
    def make(cls, cfg: Any, parts: SamplerParts) -> Sampler:
        """Return the sampler.

        Args:
            cfg: An instance of `Config`.
            parts: What the sampler is made of.
        """
