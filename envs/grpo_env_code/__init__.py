"""Programs to write, graded by running them: generated exercises, HumanEval, files, CodeI/O."""

from grpo_env_code.env import CodeEnv

__all__ = ["CodeEnv"]
