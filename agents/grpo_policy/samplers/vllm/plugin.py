"""The entry point `vllm`: vLLM servers sample completions, over HTTP. Without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from grpo_envs.config.model import SamplerConfig
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_policy.samplers.protocol import Sampler, SamplerParts

PUSHES = ("shm", "folder", "http", "broadcast")


@dataclass(kw_only=True, slots=True)
class VllmConfig(SamplerConfig):
    """The keys of `sampler=vllm`, beside those of every sampler."""

    main_keys: ClassVar[tuple[str, ...]] = (
        *("temperature", "max_new_tokens", "urls", "python", "push", "precision", "timeout"),
    )
    free_keys: ClassVar[tuple[str, ...]] = (
        *("batch_tokens", "capture", "urls", "python", "push", "folder", "in_flight", "timeout"),
        "start_timeout",
    )
    name: str = "vllm"
    """Entry point of the sampler."""
    urls: list[str] = field(default_factory=list)
    """Addresses of servers that `python -m grpo_envs.engine` started, such as
    [http://127.0.0.1:8000]; []: the run starts and ends a server itself."""
    python: str | None = None
    """The interpreter that has vLLM, for the server that the run starts; null: the environment
    variable GRPO_ENVS_VLLM_PYTHON, or else the interpreter of the run."""
    flags: list[str] = field(default_factory=list)
    """Options of vLLM for the server that the run starts, such as
    [--gpu-memory-utilization=0.4]."""
    push: str = "shm"
    """How servers get weights: shm (a file in the memory of this machine), folder (a file in
    `sampler.folder`, which all machines share), http (servers download them from the run),
    broadcast (a process group of the run and each server: NCCL between GPUs, else gloo)."""
    folder: str | None = None
    """push=folder: a folder that has the same path on all machines."""
    in_flight: int = 128
    """The most completions that are requested from a server at once."""
    timeout: float = 600.0
    """Seconds of silence after which a server counts as lost."""
    start_timeout: float = 900.0
    """The most seconds until the server that the run starts is ready."""

    def __post_init__(self) -> None:
        """Check names, ranges and combinations."""
        SamplerConfig.__post_init__(self)  # `super()` has no cell in a dataclass with slots
        require_one_of("sampler.push", self.push, PUSHES)
        if self.push == "folder" and self.folder is None:
            raise ConfigError("missing: sampler.folder=... (sampler.push=folder writes to it).")
        if self.batch_tokens is not None:
            raise ConfigError(
                f"sampler.batch_tokens={self.batch_tokens} with sampler=vllm: its servers manage "
                "their memory themselves. Allowed: null, and sampler.flags."
            )
        require(self.in_flight >= 1, "sampler.in_flight", self.in_flight, "1 or more")
        for name in ("timeout", "start_timeout"):
            require(getattr(self, name) > 0, f"sampler.{name}", getattr(self, name), "above 0")


class Vllm:
    """The sampler's keys and its constructor."""

    Config: ClassVar[type[SamplerConfig]] = VllmConfig
    ahead: ClassVar[bool] = True
    samples_with_policy: ClassVar[bool] = False
    decodes: ClassVar[tuple[str, ...]] = ("top_p", "top_k", "min_p", "repetition_penalty", "stop")

    @classmethod
    def make(cls, cfg: VllmConfig, parts: SamplerParts) -> Sampler:
        """Return a sampler whose servers are up and suit the run."""
        from grpo_policy.samplers.vllm.opening import open_sampler  # torch: not for --help

        return open_sampler(cfg, parts)
