"""What a server says of itself, and whether a run can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_policy.policy import Policy
from grpo_policy.samplers.vllm.client import Server, ServerLost
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
    lora: bool
    """Whether it takes adapters."""


def about(server: Server) -> About:
    """Ask a server what it is.

    Raises:
        ServerLost: it does not answer, or is no server of vLLM with the routes of a run.
    """
    version = server.get("/version", _TIMEOUT)
    config = server.get("/server_info?config_format=json", _TIMEOUT)
    try:
        return _read(version, config["vllm_config"])
    except (LookupError, TypeError) as error:
        raise ServerLost(f"{server.url}: no server of vLLM that a run knows") from error


def _read(version: Mapping[str, Any], config: Mapping[str, Any]) -> About:
    model = config["model_config"]
    return About(
        engine=f"vllm {version['version']}",
        dtype=str(model["dtype"]).removeprefix("torch."),
        length=int(model["max_model_len"]),
        logprobs=str(model["logprobs_mode"]),
        pushes=str((config.get("weight_transfer_config") or {}).get("backend")),
        lora=bool(config.get("lora_config")),
    )


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
        if policy.has_adapters and not found.lora:
            raise ConfigError(
                f"{server.url} takes no adapters (LoRA). {by_us} --lora-rank, as in "
                "model.lora.rank."
            )
        if found != first:
            raise ConfigError(f"sampler.urls: servers that differ: {first} and {found}.")
