"""The entry point `sft`. Without torch: `--help` reads its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from grpo_sft.config import SftConfig

if TYPE_CHECKING:
    from grpo_envs.training.agent import Parts
    from grpo_sft.agent import SftAgent


class Sft:
    """The agent's keys and its constructor."""

    Config: ClassVar[type[SftConfig]] = SftConfig

    @classmethod
    def make(cls, cfg: SftConfig, parts: Parts) -> SftAgent:
        """Return the agent, see `SftAgent.make`."""
        from grpo_sft.agent import SftAgent  # torch: not for --help

        return SftAgent.make(cfg, parts)
