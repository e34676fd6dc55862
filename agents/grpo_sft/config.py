"""The keys of the agent, with their defaults. Without torch: `--help` reads this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from grpo_envs.errors import ConfigError, require
from grpo_policy.learning import LearningConfig

if TYPE_CHECKING:
    from grpo_envs.config.schema import RunConfig
    from grpo_envs.types import Group


@dataclass(kw_only=True, slots=True)
class SftConfig(LearningConfig):
    """The agent of a supervised warm start."""

    main_keys: ClassVar[tuple[str, ...]] = (
        *("lr", "lr_schedule", "warmup_steps", "micro_batch_tokens"),
    )
    imitates: ClassVar[bool] = True
    name: str = "sft"
    """Entry point of the agent."""
    lr: float | None = None
    """AdamW's peak learning rate; null: ten times the model's default for GRPO (1e-5; 1e-3 for the
    bundled model)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        LearningConfig.__post_init__(self)
        require(self.group_size == 1, "agent.group_size", self.group_size, "1, with agent=sft")

    def flat(self, group: Group) -> bool:
        """Return False: demonstrations are not compared with each other."""
        return False

    def check(self, run: RunConfig) -> None:
        """Refuse keys that contradict other keys of the run.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
        """
        LearningConfig.check(self, run)
        if run.trainer.lag:
            raise ConfigError(
                f"trainer.lag={run.trainer.lag} with agent=sft: nothing is sampled for training. "
                "Allowed: 0."
            )
