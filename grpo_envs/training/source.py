"""Sources of groups: where the groups of a step come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from grpo_envs.errors import RunStopped
from grpo_envs.runtime.processes import RolloutFn
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import seed_for
from grpo_envs.types import Group
from grpo_policy.room import Room

log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """The groups of one step."""

    chosen: list[Group]
    """The groups that the agent learns from."""
    dropped: list[Group]
    """The groups that were sampled and replaced by others: they are logged only."""
    too_long: int = 0
    """Problems that were left out because their prompts leave no room for an answer."""
    metrics: Mapping[str, float] = MappingProxyType({})
    """Metrics of the source, by `area/name`."""


class Source(Protocol):
    """Gives the groups of each step."""

    drawn: int
    """Problems whose groups were used in the steps so far."""

    def take(self, step: int, timer: Timer) -> Taken:
        """Return the groups of a step.

        Args:
            step: The number of the step, from 1.
            timer: Gets the seconds of `sample` and `score`.

        Raises:
            RunStopped: too many of the rewards are invalid.
            ConfigError: no problem leaves room for an answer in the model's context, or one problem
                does not and `env.too_long` is `error`.
        """

    def updated(self, groups: Sequence[Group]) -> None:
        """Continue with the next problems, after the update with the groups taken last.

        Args:
            groups: All groups that were taken, including dropped ones; the environment adapts to
                them.
        """

    def settle(self) -> None:
        """Give the sampler the present weights and wait until it is free, as for an evaluation."""

    def state_dict(self) -> dict[str, Any] | None:
        """Settle; return the state of the source for a checkpoint.

        None if an exact resume is impossible, because sampling was interrupted.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""

    def close(self) -> None:
        """Stop sampling."""


@dataclass(slots=True, kw_only=True)
class InStep:
    """Samples the groups of a step in the step itself, with the present weights.

    With `resamplings`, groups without a learning signal are replaced by new ones (DAPO's dynamic
    sampling, arXiv 2503.14476), until the step is full. If the rounds are used up before, the step
    is smaller. It contains groups without a signal only if there are no others.
    """

    rollout: RolloutFn
    room: Room
    """Leaves out the problems that are too long for the model's context."""
    prompts: int
    """Problems per step (P)."""
    seed: int
    """The run's seed, which decides the order of the problems."""
    resamplings: int = 0
    """Most rounds of sampling that replace groups without a learning signal."""
    flat: Callable[[Group], bool] = lambda group: group.flat
    """Whether a group gives no learning signal, see `AgentConfig.flat`."""
    max_invalid: float = 1.0
    """The largest share of a round's rewards that may be invalid."""
    begin: Callable[[int], None] = lambda step: None
    """Prepares the rollout for a step."""
    publish: Callable[[], None] = lambda: None
    """Gives the new weights to the sampler after each update."""
    adapt: Callable[[Sequence[Group]], None] = lambda groups: None
    """Lets the environment adapt to groups."""
    drawn: int = 0
    too_long: int = 0
    """Problems that were left out in the steps so far."""
    _taken: int = 0
    """Problems of the current step."""
    _left_out: int = 0
    """Problems that the current step left out."""

    def take(self, step: int, timer: Timer) -> Taken:
        """Sample until the step is full or the rounds are used up."""
        sampled: list[Group] = []
        self.begin(step)
        self._taken = self._left_out = 0
        for _ in range(1 + self.resamplings):
            groups = self.rollout(self._problem_seeds(), timer)
            self._require_valid(step, groups)
            sampled += groups
            self._taken = len(sampled)
            if sum(not self.flat(group) for group in sampled) >= self.prompts:
                break
        chosen = sampled[: self.prompts]
        if self.resamplings:
            chosen = [group for group in sampled if not self.flat(group)][: self.prompts] or chosen
        keys = {group.key for group in chosen}
        dropped = [group for group in sampled if group.key not in keys]
        return Taken(chosen, dropped, self._left_out)

    def updated(self, groups: Sequence[Group]) -> None:
        """Count the problems only now, so that a failed step is repeated with the same problems."""
        self.count()
        self.publish()
        self.adapt(groups)

    def count(self) -> None:
        """Let the next step continue after the problems taken last."""
        self.drawn += self._taken
        self.too_long += self._left_out
        self._taken = self._left_out = 0

    def settle(self) -> None:
        """Do nothing: the sampler got the weights after the update."""

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of problems drawn and left out."""
        return {"drawn": self.drawn, "too_long": self.too_long}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the last problem that was drawn."""
        self.drawn = state["drawn"]
        self.too_long = state.get("too_long", 0)  # missing in checkpoints of the previous version

    def close(self) -> None:
        """Do nothing: nothing is sampled between the steps."""

    def _problem_seeds(self) -> list[int]:
        """Number problems upwards from a start that the seed decides: rows come in epochs."""
        passed = self.drawn + self.too_long + self._taken + self._left_out
        first = seed_for("problems", self.seed) % 2**40 + passed
        found, left_out = self.room.take(first, self.prompts)
        self._left_out += left_out
        return found

    def _require_valid(self, step: int, groups: Sequence[Group]) -> None:
        errors = [r.error for group in groups for r in group.rewards if not r.valid]
        invalid = len(errors) / sum(len(group.rewards) for group in groups)
        if errors:
            log.warning("step %d: %d rewards are invalid: %s", step, len(errors), errors[0])
        if invalid > self.max_invalid:
            raise RunStopped(
                f"{invalid:.0%} of the rewards of step {step} are invalid, more than "
                f"trainer.max_invalid_fraction={self.max_invalid}: {errors[0]}"
            )
