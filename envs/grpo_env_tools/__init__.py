"""Questions for which the policy calls a tool."""

from grpo_env_tools.env import CalculatorEnv

__all__ = ["CalculatorEnv"]
