"""Mathematics: generated arithmetic by level, or questions with an exact answer from a dataset."""

from grpo_env_math.env import MathEnv

__all__ = ["MathEnv"]
