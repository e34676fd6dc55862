"""What an environment is and what it promises: `from grpo_envs.env import TextEnv`."""

from grpo_envs.env.dataset_env import DatasetEnv
from grpo_envs.env.text import SPLITS, TextEnv

__all__ = ["SPLITS", "DatasetEnv", "TextEnv"]
