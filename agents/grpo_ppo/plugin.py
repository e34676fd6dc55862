"""The entry point `ppo`. Without torch: `--help` reads its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from grpo_ppo.config import PpoConfig

if TYPE_CHECKING:
    from grpo_envs.training.agent import Parts
    from grpo_ppo.agent import PpoAgent


class Ppo:
    """The agent's keys and its constructor."""

    Config: ClassVar[type[PpoConfig]] = PpoConfig

    @classmethod
    def make(cls, cfg: PpoConfig, parts: Parts) -> PpoAgent:
        """Return the agent, see `PpoAgent.make`."""
        from grpo_ppo.agent import PpoAgent  # torch: not for --help

        return PpoAgent.make(cfg, parts)
