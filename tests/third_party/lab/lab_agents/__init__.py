"""An agent and a sampler with keys of their own. No torch here: `--help` reads the keys."""

from dataclasses import dataclass, field
from typing import Any

from grpo_envs.config.agent import AgentConfig
from grpo_envs.config.model import SamplerConfig
from grpo_envs.errors import require
from grpo_envs.training.agent import Agent, Parts
from grpo_policy.samplers import Sampler


@dataclass(kw_only=True, slots=True)
class ClippingConfig:
    """How large a step may be."""

    norm: float = 1.0
    """Gradients are scaled down to this L2 norm."""


@dataclass(kw_only=True, slots=True)
class ReinforceConfig(AgentConfig):
    """REINFORCE with a moving baseline: no groups needed."""

    lr: float = 1e-4
    """AdamW's learning rate."""
    decay: float = 0.9
    """The baseline keeps this share of its value at each step."""
    clipping: ClippingConfig = field(default_factory=ClippingConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.lr > 0, "agent.lr", self.lr, "above 0")
        require(0 <= self.decay < 1, "agent.decay", self.decay, "0 to below 1")


class Reinforce:
    """The entry point `reinforce`."""

    Config = ReinforceConfig

    @classmethod
    def make(cls, cfg: ReinforceConfig, parts: Parts) -> Agent:
        """Return the agent."""
        from lab_agents.agent import ReinforceAgent

        return ReinforceAgent(cfg, parts)


@dataclass(kw_only=True)
class GenerateConfig(SamplerConfig):
    """Keys of the sampler that uses Transformers' own `generate`."""

    rows: int = 4
    """Completions of a prompt that are sampled at once."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.rows >= 1, "sampler.rows", self.rows, "1 or more")


class Generate:
    """The entry point `generate`."""

    Config = GenerateConfig

    @classmethod
    def make(cls, cfg: GenerateConfig, parts: Any) -> Sampler:
        """Return the sampler."""
        from lab_agents.sampler import GenerateSampler

        return GenerateSampler(cfg.rows)
