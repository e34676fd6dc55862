"""reasoning-gym: procedural questions with graders, 105 generators by name."""

from grpo_env_reasoning_gym.env import ReasoningGymEnv

__all__ = ["ReasoningGymEnv"]
