"""The training loop: evaluate; then sample, score, update and log in each step; then evaluate."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from grpo_envs.config.schema import TrainerConfig
from grpo_envs.errors import ConfigError, RunStopped, require_one_of
from grpo_envs.loggers import Logger
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runs.metrics import Flat, group_metrics
from grpo_envs.runtime import threads
from grpo_envs.runtime.memory import gpu_metrics, memory_metrics
from grpo_envs.runtime.processes import ALONE, Processes
from grpo_envs.runtime.stopping import Stop, StopNow
from grpo_envs.runtime.timing import Timer
from grpo_envs.training.agent import Agent, term_log_of
from grpo_envs.training.evaluations import Evaluations
from grpo_envs.training.limits import Limits
from grpo_envs.training.source import Source
from grpo_envs.training.utilisation import Utilisation
from grpo_envs.training.watch import Watch
from grpo_envs.types import Group
from grpo_policy.parts import held_whole
from grpo_policy.samplers.protocol import Sampler, identity_of, shown_identity

log = logging.getLogger(__name__)
_OF_REWARDS = re.compile(r"eval/(\w+/)?(accuracy|pass@|(sampled_)?reward)")
_CUT_OFF = (
    "not saved after step %d: sampling ahead was interrupted. A resumed run repeats the steps "
    "since the last checkpoint."
)


class Adaptive(Protocol):
    """The part of the environment that the loop uses."""

    def state_dict(self) -> dict[str, Any]:
        """Return the environment's state for a checkpoint."""


RESUMED = ("last", "skipped", "owes_evaluation", "sampled_by")
"""Fields of the trainer that a resumed run takes from the checkpoint."""


@dataclass(slots=True, kw_only=True)
class Trainer:
    """Trains from step `done` to step `cfg.steps`."""

    cfg: TrainerConfig
    agent: Agent
    policy: Any
    """The model that the agent trains and checkpoints save."""
    env: Adaptive
    source: Source
    """Gives the groups of each step, and lets the environment adapt."""
    sampler: Sampler
    """The sampler of rollouts and evaluations."""
    evaluation: Evaluations
    loggers: Sequence[Logger]
    checkpoints: Checkpoints
    decisive: Mapping[str, Any]
    """The keys that a resumed run must share."""
    group_size: int
    """Completions per problem."""
    limits: Limits
    """The best evaluation, and the limits that end the run before its last step."""
    flat: Flat = lambda group: group.flat
    """Whether a group gives no learning signal, see `AgentConfig.flat`."""
    done: int = 0
    """Steps already done."""
    last: dict[str, float] = field(default_factory=dict)
    """Metrics of the last step."""
    skipped: int = 0
    """Number of last steps in a row without an update."""
    owes_evaluation: bool = False
    """Whether the evaluation after the last step was interrupted."""
    stop: Stop = field(default_factory=Stop)
    processes: Processes = ALONE
    """The processes of the run: all see the same groups and decide alike; the first one writes."""
    utilisation: Utilisation | None = None
    """MFU of a GPU whose peak is known; else None."""
    sampled_by: Mapping[str, str] = field(default_factory=dict)
    """Identity of the sampler of the finished steps, see `Sampler`."""
    stopped: str = ""
    """The limit that ended the run; '' if none did."""
    _evaluated: dict[str, float] = field(default_factory=dict)
    _evaluated_at: int = -1
    watch: Watch = field(default_factory=Watch)
    _saved: int = -1

    def __post_init__(self) -> None:
        """Start a resumed run from a saved step, with the same sampler as before.

        Raises:
            ConfigError: the sampler is another one, or another version.
        """
        own = identity_of(self.sampler)
        if self.done:
            self._saved = self.done
            if own != self.sampled_by:
                before, now = (shown_identity(found) for found in (self.sampled_by, own))
                raise ConfigError(
                    f"resume: the steps before were sampled by {before}, now it is {now}. "
                    "Allowed: the same."
                )
        self.sampled_by = own

    def run(self) -> dict[str, float]:
        """Train; return the metrics of the last step and the last evaluation.

        Raises:
            RunStopped: too many rewards are invalid, or gradients stay not finite.
            ConfigError: this run has no metric `trainer.sweep_metric`.
        """
        try:
            with closing(self.sampler), closing(self.source), self.stop.listening():
                self._run_and_save()
        except BaseException:
            self._close(failed=True)
            raise
        self._close()
        return {**self.last, **self._evaluated}

    def _close(self, *, failed: bool = False) -> None:
        """Close the loggers; if the run has failed already, their errors are only logged."""
        for logger in self.loggers:
            try:
                logger.close()
            except OSError as error:
                if not failed:
                    raise
                log.warning("%s: %s", type(logger).__name__, error)

    def _run_and_save(self) -> None:
        try:
            self._run()
        except StopNow:
            self.stop.asked = self.stop.terminated = True  # perhaps in another process
            self._save()
        except (RunStopped, ConfigError):  # ConfigError: a problem was too long
            if self.done:
                self._save()  # the earlier steps are good
            raise

    def _run(self) -> None:
        if self.done == 0 or self.owes_evaluation:
            self._evaluate()
        self._look_at_limits()
        while not (stopping := self._stopping()) and not self._finished():
            self._step()
            self._require_sweep_metric()
            due = self.cfg.eval_every and self.done % self.cfg.eval_every == 0
            if due and not self._finished():
                self._evaluate()
            if self.done % self.cfg.save_every == 0:
                self._save()
        self._save()
        if not stopping and self._evaluated_at != self.done:
            self._evaluate()

    def _stopping(self) -> bool:
        """Return whether any process was asked to end; the result is the same in all."""
        asked = any(self.processes.gather(lambda: self.stop.asked))
        if asked:
            self.stop.asked = True
        return asked

    def _finished(self) -> bool:
        samples = self.source.drawn * self.group_size
        over = self.done >= self.cfg.steps or 0 < self.cfg.max_samples <= samples
        return over or bool(self.stopped)

    def _look_at_limits(self) -> None:
        """Decide in all processes alike whether a limit ends the run here."""
        if self.limits.any:
            self.stopped = self.processes.by_first(self.limits.reached)

    def _step(self) -> None:
        timer = Timer()
        with timer("step"):
            taken = self.source.take(self.done + 1, timer)
            chosen, dropped = taken.chosen, taken.dropped
            groups = [*chosen, *dropped]
            metrics = group_metrics(groups, self.flat)
            with timer("update"), self.processes.linked():
                updates, advantages = self.agent.update(chosen)
                noted = terms.rows() if (terms := term_log_of(self.agent)) else []
        self.done += 1
        self.source.updated(groups)
        tokens = sum(c.length for group in groups for c in group.completions)
        metrics |= {**updates, **taken.metrics, **self.sampler.metrics()}
        metrics["group/sampled"] = float(len(groups))
        metrics["group/used"] = float(len(chosen))
        metrics["group/too_long"] = float(taken.too_long)
        metrics |= {f"time/{name}": seconds for name, seconds in timer.seconds.items()}
        hidden, waited = (timer.seconds.get(name, 0.0) for name in ("score_hidden", "score"))
        metrics["score/hidden"] = hidden / max(hidden + waited, 1e-9)
        metrics["tokens/per_second"] = tokens / timer.seconds["step"]
        metrics |= memory_metrics() | gpu_metrics()
        if self.utilisation is not None:
            metrics |= self.utilisation.metrics(groups, chosen, timer.seconds)
        self.last = metrics
        advantages = [*advantages, *([0.0] * self.group_size for _ in dropped)]
        self.processes.by_first(lambda: self._log(metrics, groups, advantages, noted))
        for warning in self.watch.look(metrics, self.cfg.steps - self.done):
            log.warning("step %d: %s", self.done, warning)
        self._require_updates(metrics.get("optim/skipped", 0.0), metrics.get("optim/updates", 1.0))
        self.limits.tokens += tokens
        self.limits.seconds += timer.seconds["step"]
        self._look_at_limits()

    def _log(
        self,
        metrics: dict[str, float],
        groups: list[Group],
        advantages: list[list[float]],
        noted: list[dict[str, Any]],
    ) -> None:
        for logger in self.loggers:
            logger.log(self.done, metrics)
            logger.log_completions(self.done, groups, advantages)
            if noted and hasattr(logger, "log_tokens"):  # optional for a package's logger
                logger.log_tokens(self.done, noted)

    def _require_updates(self, skipped: float, updates: float) -> None:
        self.skipped = self.skipped + 1 if skipped == updates else 0
        if self.skipped >= self.cfg.max_skipped_steps:
            raise RunStopped(
                f"the gradients of {self.skipped} steps in a row were not finite: nothing was "
                "learnt in them (trainer.max_skipped_steps). Turn agent.lr down, or "
                f"trainer.precision=fp32; the last good weights are in {self.checkpoints.last}."
            )

    def _require_sweep_metric(self) -> None:
        name, known = self.cfg.sweep_metric, [*self.last, *self._evaluated]
        if _OF_REWARDS.match(name) and any(
            share for key, share in self._evaluated.items() if key.endswith("/invalid")
        ):
            return  # an evaluation has no such figure where no reward is valid
        if self._evaluated or not name.startswith("eval/"):
            require_one_of("trainer.sweep_metric", name, known)

    def _evaluate(self) -> None:
        if not self.evaluation.problems:
            return
        self.owes_evaluation = True  # until it is logged
        timer = Timer()
        with timer("evaluation"):
            self.source.settle()
            self._evaluated, rows = self.evaluation()
        self.processes.by_first(lambda: self._log_eval(rows))
        self.owes_evaluation, self._evaluated_at = False, self.done
        self.limits.seconds += timer.seconds["evaluation"]
        best = self.limits.evaluated(self.done, self._evaluated)
        self._look_at_limits()
        if best and self.cfg.keep_best:
            self._save()
            if self._saved == self.done:
                self.processes.by_first(lambda: self.checkpoints.point_best_to(self.done))

    def _log_eval(self, rows: list[dict[str, Any]]) -> None:
        for logger in self.loggers:
            logger.log_eval(self.done, self._evaluated, rows)

    def _save(self) -> None:
        if self._saved == self.done or not self.policy.finite():  # never overwrite good weights
            return
        source = self.source.state_dict()  # first: it lets the environment adapt
        if source is None and self.cfg.save_optimizer:
            log.warning(_CUT_OFF, self.done)
            return
        with held_whole(self.policy.model):
            self._save_with(source)
        self._saved = self.done

    def _save_with(self, source: Any) -> None:
        """Write a checkpoint; the policy has whole weights in the first process."""
        state: dict[str, Any] = {
            "agent": self.agent.state_dict(),
            "env": self.env.state_dict(),
            "source": source,
            "last": self.last,
            "skipped": self.skipped,
            "owes_evaluation": self.owes_evaluation,
            "limits": self.limits.state_dict(),
            "sampled_by": dict(self.sampled_by),
            "threads": threads.computing(),
        }
        if self.cfg.save_dtype != "fp32":  # for an exact resume
            state["weights"] = self.policy.trained_weights()
        kept = state if self.cfg.save_optimizer else None
        config = dict(self.decisive)
        self.processes.by_first(lambda: self.checkpoints.save(self.done, self.policy, kept, config))
