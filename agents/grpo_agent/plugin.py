"""The entry point `grpo`. Without torch: `--help` reads its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from grpo_agent.config import GrpoConfig

if TYPE_CHECKING:
    from grpo_agent.agent import GrpoAgent
    from grpo_envs.training.agent import Parts


class Grpo:
    """The agent's keys and its constructor."""

    Config: ClassVar[type[GrpoConfig]] = GrpoConfig

    @classmethod
    def make(cls, cfg: GrpoConfig, parts: Parts) -> GrpoAgent:
        """Return the agent, see `GrpoAgent.make`."""
        from grpo_agent.agent import GrpoAgent  # torch: not for --help

        return GrpoAgent.make(cfg, parts)
