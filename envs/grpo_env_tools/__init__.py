"""Questions that a tool helps with, which is called in mid-conversation."""

from grpo_env_tools.env import CalculatorEnv

__all__ = ["CalculatorEnv"]
