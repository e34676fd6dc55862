"""What an environment is and what it promises: `from grpo_envs.env import TextEnv`."""

from grpo_envs.env.text import SPLITS, TextEnv

__all__ = ["SPLITS", "TextEnv"]
