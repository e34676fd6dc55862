"""The keys of an agent that the framework knows; the agent's own class adds its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from grpo_envs.config.schema import RunConfig
    from grpo_envs.types import Group


@dataclass(kw_only=True, slots=True)
class AgentConfig:
    """The keys `agent.*` that every agent has; an agent's `Config` is a subclass with its own."""

    main_keys: ClassVar[tuple[str, ...]] = ()
    """The keys that `--help` lists, such as `group_size` or `loss.beta`; () lists all."""
    memory_keys: ClassVar[tuple[str, ...]] = ()
    """Settings that save memory, such as `agent.loss.beta=0`; the most effective first."""
    temperature_may_change: ClassVar[bool] = False
    """Whether the agent scores each step at the temperature of that step, see `Plan`. If False,
    `sampler.temperature` has to be a number."""
    imitates: ClassVar[bool] = False
    """Whether the agent learns from the environment's demonstrations, so that nothing is
    sampled."""
    name: str = ""
    """Entry point of the agent."""
    group_size: int = 1
    """Completions per problem (G)."""

    @property
    def resamplings(self) -> int:
        """Most rounds of sampling that replace groups without a learning signal, see `flat`."""
        return 0

    def flat(self, group: Group) -> bool:
        """Return whether a group gives the agent nothing to compare, and so no learning signal."""
        return group.flat

    @property
    def reference(self) -> bool:
        """Whether the update compares the policy with a reference model, which takes memory."""
        return False

    @property
    def critic_body(self) -> str:
        """The body of the critic: `own`, which takes memory, or `shared`; '' without a critic."""
        return ""

    @property
    def needs_steps(self) -> bool:
        """Whether a step depends on `trainer.steps`; a resumed run must then keep their number."""
        return False

    def remarks(self) -> list[str]:
        """Return remarks on keys without effect, for the log before the first step."""
        return []

    def check(self, run: RunConfig) -> None:
        """Refuse values that contradict other keys of the run.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
        """
