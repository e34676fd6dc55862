"""Sampling ahead: the groups of a step are sampled while the agent learns from earlier steps.

With a lag of k, step t is sampled with the weights after step t-1-k (or the initial weights), and
from the environment as it had adapted by then. Steps use their groups in the order in which
sampling began, and no group is dropped. A checkpoint after step t holds the groups of the steps
t+1 to t+k, because the weights that sampled them no longer exist.
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
"""Seconds between two checks for a stop request while the run waits for groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The groups of a step that the agent has not learnt from yet."""

    taken: Taken
    seconds: dict[str, float]
    """Seconds of sampling and grading, by name."""
    whole: float
    """Seconds of both together."""
    after: dict[str, Any]
    """The state of the source after the problems of these groups."""

    def state_dict(self) -> dict[str, Any]:
        """Return the groups as numbers, texts and containers of them."""
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
        """Return the object from its `state_dict`."""
        chosen, dropped = (from_text(state[key]) for key in ("chosen", "dropped"))
        taken = Taken(chosen, dropped, state["too_long"])
        rest = {key: state[key] for key in ("seconds", "whole", "after")}
        return cls(taken=taken, **rest)


@dataclass(slots=True, kw_only=True)
class Begun:
    """A step that is being sampled, or that is sampled and not learnt from yet."""

    step: int
    weights: int
    """The step whose update produced the sampling weights; 0: the initial weights."""
    future: Future[Sampled]
    waited: float = 0.0
    """Seconds that the run has waited for this step."""


@dataclass(slots=True, kw_only=True)
class Ahead:
    """Samples each step with weights that lag by `lag` steps.

    A thread samples one step after the other; nothing else uses the training environment. The
    sampler has its own weights, which are replaced between two steps: by the policy's if nothing is
    being sampled, else by a copy, because the next update changes the policy in the meantime.
    """

    source: InStep
    """Samples the groups of a step, and counts the problems of sampled steps."""
    lag: int
    """k: the largest number of steps that are sampled and not learnt from."""
    policy: Policy
    sampler: Sampler
    stop: Stop
    """The stop request of the run."""
    leave: Stop
    """The stop request of the rollout, which ends it during a step."""
    drawn: int = 0
    _now: dict[str, Any] = field(init=False)
    """The state of the source after the problems of the steps that were learnt from."""
    _begun: deque[Begun] = field(default_factory=deque)
    """The steps in order."""
    _taken: Sampled | None = None
    """The step that the agent learns from now."""
    _unheard: list[Sequence[Group]] = field(default_factory=list)
    """Groups that were learnt from and that the environment has not adapted to yet."""
    _given: int = field(init=False)
    """Version of the weights that the sampler has, or will have for the next step that begins."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __post_init__(self) -> None:
        """Start with the state of the source and the weights of the sampler."""
        self._now, self._given = self.source.state_dict(), self.sampler.version

    def take(self, step: int, timer: Timer) -> Taken:
        """Wait for the groups of a step; then begin a later step with the present weights.

        `time/wait` are the seconds that the step waited; `time/hidden` the seconds of sampling and
        grading that overlapped with other work.
        """
        while len(self._begun) < self.lag:  # the first steps, or missing in a checkpoint
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
        """Count the problems of the step; the environment adapts before the next step begins."""
        assert self._taken is not None  # `take` came before
        self._now, self._taken = self._taken.after, None
        self.drawn = self._now["drawn"]
        self._unheard.append(groups)

    def settle(self) -> None:
        """Wait for the steps that are being sampled; then update sampler and environment.

        The result does not change: the next step to begin would be sampled with the same weights.
        """
        for begun in self._begun:
            self._wait(begun)
        self._catch_up(self.policy, self._heard())

    def state_dict(self) -> dict[str, Any] | None:
        """Settle; return the groups that were not learnt from yet, and the source's state.

        A failed step and the later ones are left out: a resumed run samples them again, with newer
        weights. None if sampling was interrupted.
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
        """Continue with the saved groups, and with the problems after them."""
        self._now = after = state["now"]
        self.drawn = self._now["drawn"]
        for each in state["begun"]:
            future: Future[Sampled] = Future()
            future.set_result(sampled := Sampled.of(each["sampled"]))
            after = sampled.after
            begun = Begun(step=each["step"], weights=each["weights"], future=future)
            begun.waited = sampled.whole  # its time counts as waited for
            self._begun.append(begun)
        self.source.load_state_dict(after)

    def close(self) -> None:
        """Stop sampling, and end the thread."""
        self.leave.terminated = True
        self._thread.shutdown(cancel_futures=True)

    def _begin(self, step: int, weights: int) -> None:
        """Begin a step after the others, with the present weights: those after step `weights`."""
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
        """Sample a step in the thread; first update the weights, and adapt to earlier groups."""
        timer = Timer()
        self.leave.check()
        try:
            self._catch_up(policy, groups)
            with timer("whole"):
                taken = self.source.take(step, timer)
            self._require_graded(taken)
        except BaseException as error:
            self.leave.terminated = True  # later steps are not needed
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
        """Discard a step with invalid rewards after SIGTERM, which may also have ended graders."""
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
