"""Single-player games of TextArena."""

from grpo_env_textarena.env import TextArenaEnv

__all__ = ["TextArenaEnv"]
