"""Any registered Gymnasium environment whose observations and actions are text."""

from grpo_env_gym.env import GymEnv

__all__ = ["GymEnv"]
