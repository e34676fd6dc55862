"""Several environments as one: by weight, and each with a level that rises with success."""

from grpo_env_mixture.env import MixtureEnv

__all__ = ["MixtureEnv"]
