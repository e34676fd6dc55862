"""The keys of an agent that learns with AdamW. Without torch: `--help` reads this module."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from grpo_envs.config.agent import AgentConfig
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.runtime import launch

if TYPE_CHECKING:
    from grpo_envs.config.schema import RunConfig

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adamw", "adamw_8bit")


@dataclass(kw_only=True, slots=True)
class LearningConfig(AgentConfig):
    """The optimiser, its learning rate, and how a batch passes through the model."""

    lr: float | None = None
    """AdamW's peak learning rate; null: the model's default (1e-6; 1e-4 for the bundled model)."""
    lr_schedule: str = "constant"
    """After the warm-up: constant, or linear or cosine decay until the last of trainer.steps."""
    lr_end: float = 0.0
    """linear, cosine: the final learning rate, as a share of the peak."""
    warmup_steps: float = 5
    """Steps over which the learning rate rises linearly from 0; below 1 a share of
    trainer.steps."""
    weight_decay: float = 0.0
    """AdamW's weight decay: each step subtracts lr * weight_decay * weight."""
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's decay rates of the mean of the gradients and of the mean of their squares."""
    adam_eps: float = 1e-8
    """AdamW's epsilon, added to the root of the mean square."""
    optimizer: str = "adamw"
    """adamw, or adamw_8bit: moments of 2 bytes per parameter instead of 8 (bitsandbytes)."""
    max_grad_norm: float = 1.0
    """Gradients with a larger L2 norm are scaled down to this norm."""
    micro_batch_tokens: int = 4096
    """Tokens, padding included, per forward and backward pass; it changes memory and speed, not
    the result."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        tokens = self.micro_batch_tokens
        require(tokens >= 1, "agent.micro_batch_tokens", tokens, "1 or more")
        require(self.lr is None or 0 <= self.lr < inf, "agent.lr", self.lr, "0 or more, or null")
        require_one_of("agent.lr_schedule", self.lr_schedule, SCHEDULES)
        require(0 <= self.lr_end <= 1, "agent.lr_end", self.lr_end, "0 to 1")
        if self.lr_end and self.lr_schedule == "constant":
            raise ConfigError(
                f"agent.lr_end={self.lr_end:g} with agent.lr_schedule=constant: the learning rate "
                "does not fall. Allowed: lr_schedule=linear, cosine."
            )
        steps = self.warmup_steps
        whole = 0 <= steps < 1 or float(steps).is_integer()
        require(
            steps >= 0 and whole,
            "agent.warmup_steps",
            f"{steps:g}",
            "a number of steps, or below 1 a share of trainer.steps",
        )
        require(0 <= self.weight_decay < inf, "agent.weight_decay", self.weight_decay, "0 or more")
        betas = self.adam_betas
        holds = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        require(holds, "agent.adam_betas", betas, "two numbers from 0 to below 1")
        require(self.adam_eps > 0, "agent.adam_eps", self.adam_eps, "above 0")
        require_one_of("agent.optimizer", self.optimizer, OPTIMIZERS)
        require(self.max_grad_norm > 0, "agent.max_grad_norm", self.max_grad_norm, "above 0")

    @property
    def needs_steps(self) -> bool:
        """Whether the learning rate depends on `trainer.steps`."""
        return self.lr_schedule != "constant" or 0 < self.warmup_steps < 1

    def check(self, run: RunConfig) -> None:
        """Refuse keys that contradict other keys of the run.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
        """
        if self.optimizer != "adamw" and (launch.shards() or run.trainer.shard != "auto"):
            raise ConfigError(
                f"agent.optimizer={self.optimizer} in shards: bitsandbytes cannot shard its "
                "moments. Allowed: adamw."
            )
        warm, steps = self.warmup_steps, run.trainer.steps
        if self.lr_schedule != "constant" and warm >= max(1, steps):
            raise ConfigError(
                f"agent.warmup_steps={warm:g} with trainer.steps={steps} and "
                f"agent.lr_schedule={self.lr_schedule}: no step is left in which the learning rate "
                f"could fall. Allowed: 0 to {steps - 1}."
            )
