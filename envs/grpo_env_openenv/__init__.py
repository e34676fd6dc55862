"""An environment that an OpenEnv server plays."""

from grpo_env_openenv.env import OpenEnvEnv

__all__ = ["OpenEnvEnv"]
