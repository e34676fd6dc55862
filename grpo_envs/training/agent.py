"""The interface between framework and agents; packages register agents as entry points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from grpo_envs.config.agent import AgentConfig
from grpo_envs.config.scheduled import Scheduled
from grpo_envs.types import Group

if TYPE_CHECKING:
    from accelerate import Accelerator

    from grpo_policy.policy import Policy
    from grpo_policy.samplers import Decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The number of steps and the temperature of a run."""

    steps: int = 0
    """Steps of the whole run (`trainer.steps`)."""
    temperature: Scheduled = 1.0
    """Temperature of the completions: a number, or a schedule
    (`AgentConfig.temperature_may_change`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that the framework gives to an agent; it opens the model and chooses the device."""

    policy: Policy
    """The model that is trained; it is still on the CPU."""
    accelerator: Accelerator
    """Accelerate's object for device and processes of the run."""
    decoding: Decoding
    """How the completions of the first step are sampled."""
    same_arithmetic: bool = True
    """Whether the sampler's log-probabilities equal those of an update except for rounding: same
    precision, and the weights before the update."""
    seed: int = 0
    """The run's seed."""
    plan: Plan = Plan()
    """The number of steps, and how the temperature changes over them."""


class Update(NamedTuple):
    """The result of one update."""

    metrics: dict[str, float]
    """Metrics by `area/name`."""
    advantages: list[list[float]]
    """The advantage of each member of each group, in the order of the groups, for the log."""


class Agent(Protocol):
    """Learns from groups of completions."""

    def update(self, groups: Sequence[Group]) -> Update:
        """Improve the policy on the groups of a step.

        If weights changed, it adds 1 to `policy.version`, as `grpo_policy.learner` does. Samplers
        that keep a copy of the weights then get the new ones.
        """

    def describe(self) -> str:
        """Return the agent's most important numbers for the first line of the log."""

    def state_dict(self) -> dict[str, Any]:
        """Return the agent's state for a checkpoint (not the model): tensors, numbers and text."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""


class TermLog(Protocol):
    """Records about single tokens: the optional attribute `term_log` of an agent."""

    @property
    def formulas(self) -> dict[str, str]:
        """The formula of each choice of the agent, by its key; recorded once for the run."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the records of the last update, as rows of tokens.jsonl; [] if there are none.

        Called in every process of a run. A row has `group`, `member`, `update` (from 1), `tokens`
        (their texts) and `terms`: a number for each token, by name.
        """


def term_log_of(agent: Agent) -> TermLog | None:
    """Return an agent's records about single tokens; None if it has none."""
    found: TermLog | None = getattr(agent, "term_log", None)
    return found


class AgentPlugin(Protocol):
    """The entry point of an agent (`grpo_envs.agents`)."""

    Config: ClassVar[type[AgentConfig]]
    """The keys `agent.*`. Read for `--help`, so its module should not import torch."""

    @classmethod
    def make(cls, cfg: Any, parts: Parts) -> Agent:
        """Return the agent; it moves the policy to the accelerator's device.

        Args:
            cfg: An instance of `Config`.
            parts: The model and the other parts of the agent.
        """
