"""Where the groups of a step come from."""

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
    """Problems that were left out, as their prompts leave no room for an answer."""
    metrics: Mapping[str, float] = MappingProxyType({})
    """Of where they come from, by `area/name`."""


class Source(Protocol):
    """Gives the groups of each step."""

    drawn: int
    """Problems whose groups were used in the steps so far."""

    def take(self, step: int, timer: Timer) -> Taken:
        """Return the groups of a step.

        Args:
            step: Its number, counted from 1.
            timer: Gets the seconds of `sample` and `score`.

        Raises:
            RunStopped: too many of the rewards are invalid.
            ConfigError: no problem leaves room for an answer in the model's context, or one does
                not and `env.too_long` is `error`.
        """

    def updated(self, groups: Sequence[Group]) -> None:
        """Go on to the next problems: the groups taken last are learnt, the weights have moved.

        Args:
            groups: All that were taken, those that were dropped, too: the environment adapts to
                them.
        """

    def settle(self) -> None:
        """Let the sampler hold the present weights and be free, as for an evaluation."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return what a checkpoint needs of the source; it is settled before.

        None where nothing could go on exactly from here, as sampling was cut off.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""

    def close(self) -> None:
        """Give up what is being sampled."""


@dataclass(slots=True, kw_only=True)
class InStep:
    """Samples the groups of a step in the step itself, with the weights as they are.

    With `resamplings` groups that teach nothing are replaced by new ones (DAPO's dynamic sampling,
    arXiv 2503.14476), until the step is full or the rounds are used up: then the step is
    smaller. It consists of such groups only if there was no other.
    """

    rollout: RolloutFn
    room: Room
    """Leaves out the problems that are too long for the model's context."""
    prompts: int
    """Problems per step (P)."""
    seed: int
    """The run's: it decides the order of the problems."""
    resamplings: int = 0
    """Rounds of sampling, at most, that replace groups that teach nothing."""
    flat: Callable[[Group], bool] = lambda group: group.flat
    """Whether a group teaches nothing: the agent's, see `AgentConfig.flat`."""
    max_invalid: float = 1.0
    """The largest share of a round's rewards that may be invalid."""
    begin: Callable[[int], None] = lambda step: None
    """Lets the rollout sample as a step is to be sampled."""
    publish: Callable[[], None] = lambda: None
    """Gives the new weights to the sampler, after each update."""
    adapt: Callable[[Sequence[Group]], None] = lambda groups: None
    """The environment's."""
    drawn: int = 0
    too_long: int = 0
    """Problems that were left out in the steps so far."""
    _taken: int = 0
    """Problems of the step that is under way."""
    _left_out: int = 0
    """Problems that the step under way left out."""

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
        """Count the problems now: a step that fails is made again from the same problems."""
        self.count()
        self.publish()
        self.adapt(groups)

    def count(self) -> None:
        """Draw the problems of the next step behind those taken last."""
        self.drawn += self._taken
        self.too_long += self._left_out
        self._taken = self._left_out = 0

    def settle(self) -> None:
        """Do nothing: the sampler has the weights since the update."""

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of problems drawn and left out."""
        return {"drawn": self.drawn, "too_long": self.too_long}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the problem after the last one drawn."""
        self.drawn = state["drawn"]
        self.too_long = state.get("too_long", 0)  # no key in checkpoints of the version before

    def close(self) -> None:
        """Do nothing: nothing is sampled between the steps."""

    def _problem_seeds(self) -> list[int]:
        """Count on from a place that the run's seed decides: a dataset's rows come in epochs."""
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
