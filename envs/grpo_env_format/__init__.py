"""The format of an answer: generated or declared constraints that a program can verify."""

from grpo_env_format.env import FormatEnv

__all__ = ["FormatEnv"]
