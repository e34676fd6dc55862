"""From YAML and overrides to one validated `RunConfig`."""

from grpo_envs.config.schema import RunConfig, TrainerConfig

__all__ = ["RunConfig", "TrainerConfig"]
