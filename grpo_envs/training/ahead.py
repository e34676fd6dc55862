"""Sampling ahead: the groups of a step are sampled while the steps before it are learnt.

With a lag of k, step t is sampled with the weights after step t-1-k, or the first ones, and from
the environment as it had adapted by then. Steps consume their groups in the order in which they
were begun, and nothing is dropped. A checkpoint after step t holds the groups of the steps t+1 to
t+k: the weights that sampled them are gone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from grpo_envs.runs.groups import from_text, to_text
from grpo_envs.runtime.stopping import Stop, StopNow
from grpo_envs.runtime.timing import Timer
from grpo_envs.training.source import InStep, Taken
from grpo_envs.types import Group
from grpo_policy.policy import Policy
from grpo_policy.samplers import Sampler

log = logging.getLogger(__name__)
_LOOK = 0.1
"""Seconds between two looks at whether the run is to end, while it waits for groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The groups of a step that is not learnt yet."""

    taken: Taken
    seconds: dict[str, float]
    """Of sampling and grading, by name."""
    whole: float
    """Seconds of both together."""
    after: dict[str, Any]
    """The state of the source behind their problems."""

    def state_dict(self) -> dict[str, Any]:
        """Return it as numbers, texts and containers of them."""
        return {
            "chosen": to_text(self.taken.chosen),
            "dropped": to_text(self.taken.dropped),
            "too_long": self.taken.too_long,
            "seconds": self.seconds,
            "whole": self.whole,
            "after": self.after,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Sampled:
        """Return what `state_dict` was called of."""
        chosen, dropped = (from_text(state[key]) for key in ("chosen", "dropped"))
        taken = Taken(chosen, dropped, state["too_long"])
        rest = {key: state[key] for key in ("seconds", "whole", "after")}
        return cls(taken=taken, **rest)


@dataclass(slots=True, kw_only=True)
class Begun:
    """A step that is being sampled, or is sampled and not learnt yet."""

    step: int
    weights: int
    """The step after which the weights were those that it is sampled with; 0: the first ones."""
    future: Future[Sampled]
    waited: float = 0.0
    """Seconds that the run has waited for it."""


@dataclass(slots=True, kw_only=True)
class Ahead:
    """Samples each step with weights that lag by `lag` steps.

    A thread samples one step after the other; nothing else uses the training environment. The
    sampler holds weights of its own, and gets others between two steps: the policy's where nothing
    is being sampled, else a copy of them, as the next update changes the policy meanwhile.
    """

    source: InStep
    """Samples the groups of a step, and counts the problems of the steps that are sampled."""
    lag: int
    """k: steps that are sampled and not learnt, at most."""
    policy: Policy
    sampler: Sampler
    stop: Stop
    """The run's."""
    leave: Stop
    """The rollout's, which it obeys in the midst of a step."""
    drawn: int = 0
    _now: dict[str, Any] = field(init=False)
    """The state of the source behind the problems of the steps that are learnt."""
    _begun: deque[Begun] = field(default_factory=deque)
    """In order."""
    _taken: Sampled | None = None
    """What is being learnt."""
    _unheard: list[Sequence[Group]] = field(default_factory=list)
    """Groups that are learnt and that the environment has not adapted to yet."""
    _given: int = field(init=False)
    """Version of the weights that the sampler has, or will have before the next step to begin."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __post_init__(self) -> None:
        """Begin where the source does, with the weights that the sampler has."""
        self._now, self._given = self.source.state_dict(), self.sampler.version

    def take(self, step: int, timer: Timer) -> Taken:
        """Wait for the groups of a step; begin the one that is sampled with the same weights.

        `time/wait` are the seconds that the step has waited, `time/hidden` those of sampling and
        grading that nobody waited for.
        """
        while len(self._begun) < self.lag:  # the first steps, or what a checkpoint lacks
            self._begin(step + len(self._begun), step - 1)
        first = self._begun[0]
        with timer("wait"):
            self._wait(first, self.stop.check)
        found = first.future.result()
        self._begun.popleft()
        self._begin(step + self.lag, step - 1)
        for name, seconds in found.seconds.items():
            timer.add(name, seconds)
        timer.add("hidden", max(0.0, found.whole - first.waited))
        self._taken = found
        return found.taken._replace(metrics={"policy/lag": float(step - 1 - first.weights)})

    def updated(self, groups: Sequence[Group]) -> None:
        """Count the problems of the step; the environment hears of it before the next begins."""
        assert self._taken is not None  # what is learnt was taken
        self._now, self._taken = self._taken.after, None
        self.drawn = self._now["drawn"]
        self._unheard.append(groups)

    def settle(self) -> None:
        """Wait for what is being sampled; then sampler and environment catch up.

        They would before the next step begins: it is sampled with these weights.
        """
        for begun in self._begun:
            self._wait(begun)
        self._catch_up(self.policy, self._heard())

    def state_dict(self) -> dict[str, Any] | None:
        """Settle; return the groups that are sampled and not learnt, and the place behind both.

        Without a step that failed and those behind it: a resume samples them again, with newer
        weights. None where sampling was cut off.
        """
        self.settle()
        whole = []
        for begun in self._begun:
            error = begun.future.exception()
            if isinstance(error, StopNow):
                return None
            if error is not None:
                log.warning(
                    "step %d failed and is sampled again after a resume: with newer weights than "
                    "those after step %d.",
                    *(begun.step, begun.weights),
                )
                break
            sampled = begun.future.result().state_dict()
            whole.append({"step": begun.step, "weights": begun.weights, "sampled": sampled})
        return {"now": self._now, "begun": whole}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the groups that are there, and with the problems behind them."""
        self._now = after = state["now"]
        self.drawn = self._now["drawn"]
        for each in state["begun"]:
            future: Future[Sampled] = Future()
            future.set_result(sampled := Sampled.of(each["sampled"]))
            after = sampled.after
            begun = Begun(step=each["step"], weights=each["weights"], future=future)
            begun.waited = sampled.whole  # none of it is hidden from now on
            self._begun.append(begun)
        self.source.load_state_dict(after)

    def close(self) -> None:
        """Give up what is being sampled, and end the thread."""
        self.leave.terminated = True
        self._thread.shutdown(cancel_futures=True)

    def _begin(self, step: int, weights: int) -> None:
        """Begin a step behind the others, with the present weights: those after step `weights`."""
        groups, copied = self._heard(), None
        if all(begun.future.done() for begun in self._begun):
            self._catch_up(self.policy, groups)
            groups = []
        elif self._given != self.policy.version:
            copied = self.policy.copied()
        self._given = self.policy.version
        future = self._thread.submit(self._sample, step, copied, groups)
        self._begun.append(Begun(step=step, weights=weights, future=future))

    def _sample(
        self, step: int, policy: Policy | None, groups: Sequence[Sequence[Group]]
    ) -> Sampled:
        """Sample a step, in the thread; first take over weights and the groups of steps before."""
        timer = Timer()
        self.leave.check()
        try:
            self._catch_up(policy, groups)
            with timer("whole"):
                taken = self.source.take(step, timer)
            self._require_graded(taken)
        except BaseException as error:
            self.leave.terminated = True  # the steps behind it are of no use
            if self.stop.terminated:
                raise StopNow from error
            raise
        self.source.count()
        whole = timer.seconds.pop("whole")
        after = self.source.state_dict()
        return Sampled(taken=taken, seconds=timer.seconds, whole=whole, after=after)

    def _catch_up(self, policy: Policy | None, groups: Sequence[Sequence[Group]]) -> None:
        if policy is not None and self.sampler.version != policy.version:
            self.sampler.sync(policy)
        for each in groups:
            self.source.adapt(each)

    def _require_graded(self, taken: Taken) -> None:
        """Give up a step with invalid rewards after SIGTERM, which may have ended graders, too."""
        rewards = (r for group in (*taken.chosen, *taken.dropped) for r in group.rewards)
        if self.stop.terminated and not all(reward.valid for reward in rewards):
            raise StopNow

    def _heard(self) -> list[Sequence[Group]]:
        groups, self._unheard = self._unheard, []
        return groups

    def _wait(self, begun: Begun, check: Callable[[], None] = lambda: None) -> None:
        timer = Timer()
        try:
            with timer("wait"):
                while not begun.future.done():
                    wait([begun.future], _LOOK)
                    check()
        finally:
            begun.waited += timer.seconds["wait"]
