"""Several environments as one: by weight, and each at levels that follow success."""

from grpo_env_mixture.env import MixtureEnv

__all__ = ["MixtureEnv"]
