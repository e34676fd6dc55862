"""What the framework asks of an agent; packages bring agents as entry points."""

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
    """What is known of the steps to come."""

    steps: int = 0
    """Of the whole run (`trainer.steps`)."""
    temperature: Scheduled = 1.0
    """Of the completions: a number, or a schedule (`AgentConfig.temperature_may_change`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an agent is made of: the framework opens the model and chooses the device."""

    policy: Policy
    """The model that is trained; it is still on the CPU."""
    accelerator: Accelerator
    """Accelerate's: device and processes of the run."""
    decoding: Decoding
    """How the completions of the first step are sampled."""
    same_arithmetic: bool = True
    """Whether the sampler computes log-probabilities as an update does, but for rounding: in the
    same precision, with the weights before the update."""
    seed: int = 0
    """The run's seed."""
    plan: Plan = Plan()
    """The number of steps, and how the temperature changes over them."""


class Update(NamedTuple):
    """The result of one update."""

    metrics: dict[str, float]
    """By `area/name`."""
    advantages: list[list[float]]
    """Of each member of each group, in the order of the groups: what is logged."""


class Agent(Protocol):
    """Learns from groups of completions."""

    def update(self, groups: Sequence[Group]) -> Update:
        """Improve the policy on the groups of a step.

        Adds 1 to `policy.version` where weights have changed, as `grpo_policy.learner` does: a
        sampler that keeps a copy of the weights is given the new ones then.
        """

    def describe(self) -> str:
        """Return the agent's most important numbers for the first line of the log."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model: tensors, numbers and text."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""


class TermLog(Protocol):
    """What an agent notes of single tokens: its attribute `term_log`, which it need not have."""

    @property
    def formulas(self) -> dict[str, str]:
        """What each choice of the agent computes, by its key: noted once for the run."""

    def rows(self) -> list[dict[str, Any]]:
        """Return what was noted in the last update, a row of tokens.jsonl each; [] for nothing.

        Called in every process of a run. A row has `group`, `member`, `update` (from 1), `tokens`
        (their texts) and `terms`: a number for each token, by name.
        """


def term_log_of(agent: Agent) -> TermLog | None:
    """Return what an agent notes of single tokens, None of one that notes nothing."""
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
            parts: What the agent is made of.
        """
