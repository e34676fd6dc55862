"""Questions about a small database, which are answered by querying it."""

from grpo_env_sql.env import SqlEnv

__all__ = ["SqlEnv"]
