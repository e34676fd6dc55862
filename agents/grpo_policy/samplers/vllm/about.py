"""What a server says of itself, and whether a run can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_envs.errors import ConfigError
from grpo_policy.policy import Policy
from grpo_policy.samplers.vllm.client import Refused, Server, ServerLost
from grpo_policy.samplers.vllm.own import DTYPES

_TIMEOUT = 20.0
"""Seconds that it may take to say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What decides what a server samples, beside the weights."""

    engine: str
    """vLLM's version."""
    dtype: str
    """What it computes in: float32, ..."""
    length: int
    """Tokens of a context."""
    logprobs: str
    """Of which distribution: processed_logprobs are of the one that is sampled from."""
    pushes: str
    """Its backend for weights."""
    lora_rank: int
    """The largest rank of adapters that it takes; 0: it takes none."""
    broadcasts: bool = False
    """Whether it takes weights by broadcast; servers of earlier versions do not say so."""


def about(server: Server, timeout: float = _TIMEOUT) -> About:
    """Ask a server what it is.

    Args:
        server: The server.
        timeout: Seconds that it may take.

    Raises:
        ServerLost: it does not answer, or was not started by `python -m grpo_envs.engine`.
    """
    try:
        answer = server.post("/collective_rpc", {"method": "about_for_runs"}, timeout)
        return About(**answer["results"][0])
    except (Refused, LookupError, TypeError) as error:
        raise ServerLost(
            f"{server.url}: no server that python -m grpo_envs.engine started"
        ) from error


def adapter_rank(policy: Policy) -> int:
    """Return the largest rank of a policy's adapters (LoRA); 0 where it has none."""
    configs = policy.model.peft_config.values() if policy.has_adapters else ()
    return max((int(config.r) for config in configs), default=0)


def require_alike(seen: Mapping[Server, About], dtype: str, policy: Policy) -> None:
    """Refuse servers that would not sample what the run is to learn from.

    Args:
        seen: What each says of itself.
        dtype: What they are to compute in: fp32, bf16 or fp16.
        policy: Whose weights they will be given.

    Raises:
        ConfigError: one line that says how to start them.
    """
    wanted = DTYPES[dtype]
    first = next(iter(seen.values()))
    for server, found in seen.items():
        by_us = "Start it with python -m grpo_envs.engine"
        if found.dtype != wanted:
            raise ConfigError(
                f"{server.url} computes in {found.dtype}, and the run samples in {wanted}. "
                f"{by_us} --dtype {dtype}, or give sampler.precision."
            )
        if found.logprobs != "processed_logprobs" or found.pushes != "file":
            raise ConfigError(
                f"{server.url}: its log-probabilities are {found.logprobs} and it takes weights "
                f"by {found.pushes}. {by_us}."
            )
        if (rank := adapter_rank(policy)) > found.lora_rank:
            raise ConfigError(
                f"{server.url} takes adapters (LoRA) of a rank up to {found.lora_rank}, not "
                f"{rank}. {by_us} --lora-rank {rank}."
            )
        if found != first:
            raise ConfigError(f"sampler.urls: servers that differ: {first} and {found}.")


def require_broadcasts(seen: Mapping[Server, About]) -> None:
    """Refuse servers that do not take weights by broadcast.

    Args:
        seen: What each says of itself.

    Raises:
        ConfigError: one line that says how to start them.
    """
    for server, found in seen.items():
        if not found.broadcasts:
            raise ConfigError(
                f"sampler.push=broadcast with {server.url}, which does not take weights by "
                "broadcast. Start it with python -m grpo_envs.engine of this version. "
                "Allowed else: shm, folder, http."
            )
