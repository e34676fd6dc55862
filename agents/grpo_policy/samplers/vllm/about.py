"""The properties that a server reports, and whether a run can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_envs.errors import ConfigError
from grpo_policy.policy import Policy
from grpo_policy.samplers.vllm.client import Refused, Server, ServerLost
from grpo_policy.samplers.vllm.own import DTYPES

_TIMEOUT = 20.0
"""Seconds until the server must have answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The properties that determine what a server samples, beside the weights."""

    engine: str
    """The version of vLLM."""
    dtype: str
    """The dtype in which it computes: float32, ..."""
    length: int
    """Tokens of the context."""
    logprobs: str
    """The kind of log-probabilities: processed_logprobs are those of the sampled distribution."""
    pushes: str
    """The backend for new weights."""
    lora_rank: int
    """The largest rank of adapters that it accepts; 0: it accepts no adapters."""
    broadcasts: bool = False
    """Whether it accepts weights by broadcast; servers of earlier versions do not state this."""


def about(server: Server, timeout: float = _TIMEOUT) -> About:
    """Ask a server for its properties.

    Args:
        server: The server.
        timeout: Seconds until the server must have answered.

    Raises:
        ServerLost: the server does not answer, or was not started by `python -m grpo_envs.engine`.
    """
    try:
        answer = server.post("/collective_rpc", {"method": "about_for_runs"}, timeout)
        return About(**answer["results"][0])
    except (Refused, LookupError, TypeError) as error:
        raise ServerLost(
            f"{server.url}: not a server that python -m grpo_envs.engine started"
        ) from error


def adapter_rank(policy: Policy) -> int:
    """Return the largest rank of a policy's adapters (LoRA); 0 if it has none."""
    configs = policy.model.peft_config.values() if policy.has_adapters else ()
    return max((int(config.r) for config in configs), default=0)


def require_alike(seen: Mapping[Server, About], dtype: str, policy: Policy) -> None:
    """Refuse servers that would not sample as the run needs.

    Args:
        seen: The properties of each server.
        dtype: The dtype in which they must compute: fp32, bf16 or fp16.
        policy: The policy whose weights they will get.

    Raises:
        ConfigError: one line that says how to start the servers.
    """
    wanted = DTYPES[dtype]
    first = next(iter(seen.values()))
    for server, found in seen.items():
        by_us = "Start it with python -m grpo_envs.engine"
        if found.dtype != wanted:
            raise ConfigError(
                f"{server.url} computes in {found.dtype}, and the run samples in {wanted}. "
                f"{by_us} --dtype {dtype}, or set sampler.precision."
            )
        if found.logprobs != "processed_logprobs" or found.pushes != "file":
            raise ConfigError(
                f"{server.url}: its log-probabilities are {found.logprobs} and its backend for "
                f"weights is {found.pushes}. {by_us}."
            )
        if (rank := adapter_rank(policy)) > found.lora_rank:
            raise ConfigError(
                f"{server.url} accepts adapters (LoRA) of rank {found.lora_rank} or less, not "
                f"{rank}. {by_us} --lora-rank {rank}."
            )
        if found != first:
            raise ConfigError(f"sampler.urls: the servers differ: {first} and {found}.")


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
                "Otherwise allowed: shm, folder, http."
            )
