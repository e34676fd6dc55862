"""The entry point `grpo`. No torch here: `--help` reads its keys."""

from typing import Any

from grpo_agent.config import GrpoConfig


class Grpo:
    """The agent's keys, and how it is made."""

    Config = GrpoConfig

    @classmethod
    def make(cls, cfg: GrpoConfig, parts: Any) -> Any:
        """Return the agent."""
        from grpo_agent.agent import GrpoAgent  # torch: not for --help

        return GrpoAgent.make(cfg, parts)
