"""The protocol of samplers, from prompt tokens to completion tokens. Without torch."""

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
    """The settings of decoding."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Below 1: only the likeliest tokens with this total probability can be sampled."""
    top_k: int = 0
    """Above 0: only this number of the likeliest tokens can be sampled."""
    min_p: float = 0.0
    """Above 0: only tokens with at least this share of the highest probability can be sampled."""
    repetition_penalty: float = 1.0
    """Positive logits of tokens in the context are divided by this, negative ones multiplied."""
    stop: tuple[str, ...] = ()
    """An answer ends with "stop" at the token that completes one of these strings in its text."""
    thinking_budget: int | None = None
    """Tokens of a thought after which `</think>` is inserted, as a token with a mask of False."""

    def extras(self) -> list[str]:
        """Return the fields with other values than the default, which a sampler may not support."""
        plain = Decoding(max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        names = [field.name for field in fields(self)]
        return [name for name in names if getattr(self, name) != getattr(plain, name)]


class Sampler(Protocol):
    """Samples completions from some version of the policy's weights.

    A sampler may have `identity() -> dict[str, str]`, which names what determines its samples
    beside the configuration, such as the version of an engine. A resumed run must have the same
    identity.
    """

    @property
    def version(self) -> int:
        """The `Policy.version` of the weights with which it samples."""

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights and version. Called after each step's update.

        With `trainer.lag`, `policy` may be a copy of the trained policy, and the call may come from
        any thread, but never while `sample` runs. `sample` uses the weights of the last call.
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
            seeds: B seeds, one per completion; the seeds of a prompt are consecutive. A completion
                depends on its seed, its prompt and the model, not on the rest of the batch.
            how: Temperature, length, and the fields that the plugin's `decodes` names.
            tick: Called often while sampling; its exceptions end the sampling.
            keep: Whether conversations may go on: a prompt of the next call may begin with a prompt
                of this call and its completion. The sampler may keep their caches until the next
                call or `release`. A sampler with its own prefix cache ignores this.
        """

    def release(self) -> None:
        """Drop the kept caches: the conversations are over. Called at the end of a rollout."""

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last calls, by `area/name`; {} if there are none."""

    def close(self) -> None:
        """Release servers, processes and memory."""


def require_sampler(name: str, sampler: object) -> None:
    """Refuse a sampler that lacks a method or an argument of `sample`, such as an older one.

    Args:
        name: The name of the entry point.
        sampler: The sampler that the plugin made.

    Raises:
        PluginError: one line that says what is lacking.
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
    """Return what determines a sampler's samples beside the configuration; {} if nothing does."""
    found: dict[str, str] = getattr(sampler, "identity", dict)()
    return found


def shown_identity(found: Mapping[str, str]) -> str:
    """Return the identity of `identity_of` as text.

    >>> shown_identity({"engine": "vllm 0.32.0", "dtype": "fp32"})
    'vllm 0.32.0, fp32'
    """
    return ", ".join(found.values()) or "the run itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerParts:
    """The objects that the framework gives to a sampler."""

    policy: Policy
    """The trained model, on its device, with its initial weights."""
    accelerator: Accelerator
    """Accelerate's object with the device and processes of the run."""
    ahead: bool = False
    """Whether it samples while the policy is updated, with the weights of `sync` (see `lag`)."""


class SamplerPlugin(Protocol):
    """An entry point of the group `grpo_envs.samplers`.

    A plugin may have these class variables:

    - `decodes: ClassVar[tuple[str, ...]]`: the fields of `Decoding` that its sampler supports
      beside length and temperature. A run that sets another field is refused.
    - `ahead: ClassVar[bool]`, default False: whether its sampler can keep the weights of `sync`
      while the policy is updated, if `SamplerParts.ahead` asks for it. Without it `trainer.lag` is
      refused.
    - `samples_with_policy: ClassVar[bool]`, default True: whether its samplers compute with the
      modules of the policy itself. A sampler with its own weights from `sync` sets False, which
      allows `trainer.shard=full`. `sync` is then called in all processes, and the first process
      gets whole weights (`grpo_policy.parts`).
    """

    Config: ClassVar[type[SamplerConfig]]
    """The keys `sampler.*`. Read for `--help`, so its module should not import torch."""

    @classmethod
    def make(cls, cfg: Any, parts: SamplerParts) -> Sampler:
        """Return the sampler.

        Args:
            cfg: An instance of `Config`.
            parts: The policy and the accelerator of the run.
        """
