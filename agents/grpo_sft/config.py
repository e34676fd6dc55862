"""Every number of the agent, with its default. No torch here: `--help` reads it."""

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
    """AdamW's peak learning rate; null takes ten times the model's own of GRPO (1e-5, the bundled
    tiny's 1e-3)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        LearningConfig.__post_init__(self)
        require(self.group_size == 1, "agent.group_size", self.group_size, "1, with agent=sft")

    def flat(self, group: Group) -> bool:
        """Return False: a demonstration is compared with nothing."""
        return False

    def check(self, run: RunConfig) -> None:
        """Refuse what contradicts other keys of the run.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
        """
        LearningConfig.check(self, run)
        if run.trainer.lag:
            raise ConfigError(
                f"trainer.lag={run.trainer.lag} with agent=sft: nothing is sampled for training. "
                "Allowed: 0."
            )
