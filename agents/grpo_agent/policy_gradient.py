"""The base class of agents whose loss has the ratio to the policy before the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.config import PolicyGradientConfig
from grpo_agent.entropy import EntropyWeight
from grpo_agent.loss_options import OFF_POLICY
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights
from grpo_agent.mechanisms import OBJECTIVE, resolve
from grpo_agent.selection import forks, singled_out
from grpo_agent.step import Step, minibatches
from grpo_agent.term_log import TermLog
from grpo_envs.config.scheduled import is_schedule, largest, shown, value_at
from grpo_envs.training.agent import Parts, Plan, Update
from grpo_envs.types import Group
from grpo_policy.batch import Batch, collate
from grpo_policy.learner import Learner, LearnerSettings, RowLoss, Scored
from grpo_policy.models import hints
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding


class PolicyGradientAgent(ABC):
    """Updates the policy by its ratio to the policy before the step; subclasses add advantages."""

    def __init__(
        self,
        policy: Policy,
        cfg: PolicyGradientConfig,
        accelerator: Accelerator,
        decoding: Decoding,
        *,
        same_arithmetic: bool = True,
        plan: Plan | None = None,
    ) -> None:
        """Prepare `policy` for training.

        Args:
            policy: Trained in place. If beta is above 0, the reference is the model without its
                adapters, or a frozen copy if the model has none.
            cfg: A learning rate of null means the default of the model.
            accelerator: Places the model, sets the precision, runs backward.
            decoding: How the completions are sampled: they are scored at the same temperature.
            same_arithmetic: Whether the sampler computes log-probabilities as the trainer does
                before the update: it decides `agent.loss.correction=auto`.
            plan: The number of steps and the schedules of the run; None for a single step.

        Raises:
            GrpoEnvsError: the advantage or the objective cannot be used; one line that says why.
        """
        if cfg.loss.correction == "auto":
            exact = same_arithmetic or cfg.loss.objective in OFF_POLICY
            correction = "none" if exact else "truncate"
            cfg = replace(cfg, loss=replace(cfg.loss, correction=correction))
        self.planned = cfg
        self.cfg = replace(cfg, loss=cfg.loss.at(1))
        """With the numbers of the current step in place of schedules."""
        self.plan = plan or Plan(temperature=decoding.temperature)
        self.policy = policy
        self.accelerator = accelerator
        self.max_tokens = decoding.max_new_tokens
        self.objective = resolve(OBJECTIVE, self.cfg.loss)
        self.entropy_weight = EntropyWeight(self.cfg.loss.entropy)
        self.learner = Learner(policy, self._settings(decoding.temperature), accelerator)
        self.term_log = TermLog(self)

    @classmethod
    def make(cls, cfg: Any, parts: Parts) -> Self:
        """Return the agent, see `grpo_envs.training.agent.Agent`."""
        known: dict[str, Any] = {"same_arithmetic": parts.same_arithmetic, "plan": parts.plan}
        return cls(parts.policy, cfg, parts.accelerator, parts.decoding, **known)

    def _settings(self, temperature: float) -> LearnerSettings:
        """Return the settings of the policy's learner."""
        cfg = self.planned
        bonus = largest(cfg.loss.entropy) > 0 or cfg.loss.entropy_target is not None
        return LearnerSettings.of(
            cfg,
            lr=hints(self.policy).lr if cfg.lr is None else cfg.lr,
            steps=self.plan.steps,
            temperature=temperature,
            entropy_grad=bonus,
            reference=cfg.reference,
            sync_reference_every=cfg.sync_reference_every,
            sync_reference_decay=cfg.sync_reference_decay,
            memory_keys=cfg.memory_keys,
        )

    def formulas(self) -> dict[str, tuple[str, Callable[..., Any]]]:
        """Return the choices behind the advantages by key: their names, and what computes them."""
        return {}

    def describe(self) -> str:
        """Return the agent's most important numbers for the first line of the log."""
        return f"lr {self.learner.settings.lr:g}, beta {shown(self.planned.loss.beta)}"

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Update the policy from `groups`, all of one size.

        With several processes each gets all groups of the step and computes its share of every
        update: the result does not depend on the number of processes.

        Returns:
            An `Update`: metrics (means over the updates of this step) and the advantage of each
            member of each group. Its static type is a tuple, so that a subclass may return one.
        """
        scheduled = self._begin(self.learner.steps + 1)
        self.term_log.begin(len(groups), len(groups[0].completions))
        batch = collate(groups, self.policy.pad_id, self.policy.device)
        parts = minibatches(batch, len(groups), self.cfg.minibatches)
        step, advantages_PG = self._step_of(groups, batch, parts)
        step = self._measured(step, parts)
        metrics = {**step.metrics, **self._learn(step, parts), **scheduled}
        if "policy/correction" in metrics:
            square = metrics.pop("policy/correction_square")
            metrics["policy/correction_ess"] = metrics["policy/correction"] ** 2 / square
        return Update(metrics, advantages_PG.tolist())

    def _begin(self, step: int) -> dict[str, float]:
        """Take the numbers of a step from the schedules; return them as metrics."""
        changing = self.planned.loss.changing()
        if changing:
            self.cfg = replace(self.planned, loss=self.planned.loss.at(step))
            self.objective = resolve(OBJECTIVE, self.cfg.loss)
        if is_schedule(self.plan.temperature):
            changing |= {"temperature": self.plan.temperature}
            heat = value_at(self.plan.temperature, step)
            self.learner.settings = replace(self.learner.settings, temperature=heat)
        return {f"schedule/{name}": value_at(each, step) for name, each in changing.items()}

    def _measured(self, step: Step, parts: Sequence[Tensor]) -> Step:
        """Return the step with the entropies that its loss needs, of the policy before the step."""
        batch, cfg, metrics = step.batch, self.cfg.loss, dict(step.metrics)
        if cfg.entropy_target is not None:
            entropy = -batch.sampled_logps_BT.sum() / batch.mask_BT.sum()
            weight = self.entropy_weight.follow(entropy.item(), cfg)
            metrics["loss/entropy_weight"] = weight
        entropy_BT = None
        if cfg.top_entropy < 1:
            owned = self._owned(parts)
            entropy_BT = self._everyones(self.learner.entropies(batch, owned), torch.cat(owned))
        return replace(step, entropy_BT=entropy_BT, metrics=metrics)

    def _learn(self, step: Step, parts: Sequence[Tensor]) -> dict[str, float]:
        """Make the updates of a step; return their metrics."""
        return self.learner.learn(self._updates(step, parts))

    def _updates(self, step: Step, parts: Sequence[Tensor]) -> Iterator[tuple[Batch, RowLoss]]:
        """Yield the batch and the loss of each update of a step; only the first is on-policy."""
        on_policy = True
        for _ in range(self.cfg.epochs):
            for rows_B in parts:
                part = step.rows(rows_B)
                yield part.batch, self._loss_of(part, on_policy=on_policy)
                on_policy = False

    @abstractmethod
    def _step_of(
        self, groups: Sequence[Group], batch: Batch, parts: Sequence[Tensor]
    ) -> tuple[Step, Tensor]:
        """Return the tensors that all updates of this step share, and the advantages (P, G).

        The reference's and the old log-probabilities are computed for this process's rows only.
        """

    def _owned(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return this process's rows of each update."""
        return [self.learner.own(rows_B) for rows_B in parts]

    def _later(self, owned: list[Tensor]) -> list[Tensor]:
        """Return the rows that need log-probabilities of the policy before the step.

        The first update is on-policy, so its rows need them only if there is a second epoch.
        """
        return owned if self.cfg.epochs > 1 else owned[1:]

    def _truncated(self, groups: Sequence[Group]) -> Tensor:
        """Return which completions reached the token limit (B)."""
        cut = [c.finish_reason == "length" for group in groups for c in group.completions]
        return torch.tensor(cut, device=self.policy.device)

    def _counted(self, batch: Batch, truncated_B: Tensor) -> Tensor:
        """Return which tokens count in the loss (B, T)."""
        masked_B = truncated_B & (self.cfg.overlong.truncated == "mask")
        return batch.mask_BT & ~masked_B[:, None]

    def _valid(self, groups: Sequence[Group], truncated_B: Tensor) -> Tensor:
        """Return which rewards count (B)."""
        valid = [reward.valid for group in groups for reward in group.rewards]
        valid_B = torch.tensor(valid, device=truncated_B.device)
        return valid_B if self.cfg.overlong.in_baseline else valid_B & ~truncated_B

    def _everyones(self, value: Tensor, own_B: Tensor) -> Tensor:
        """Return `value` for the rows of all processes (B, ...); each process has its own rows."""
        own = torch.zeros_like(value).index_copy(0, own_B, value[own_B])
        everyone: Tensor = self.accelerator.reduce(own, "sum")
        return everyone

    def _loss_of(self, step: Step, *, on_policy: bool) -> RowLoss:
        """Return the loss of one update, for any of its rows."""
        size = StepSize(
            completions=len(step.counted_BT),
            tokens=step.counted_BT.sum().item(),
            max_tokens=self.max_tokens,
        )
        weights_BT = token_weights(step.counted_BT.to(self.learner.dtype), size, self.cfg.loss)
        weight = step.metrics.get("loss/entropy_weight", self.cfg.loss.entropy)
        cfg = replace(self.cfg.loss, entropy=weight)
        update = self.term_log.next_update()
        singled_BT = singled_out(step, cfg, self.learner.steps)
        chosen = {"singled_BT": singled_BT, "forks_BT": forks(step, cfg)}

        def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
            rows_B, batch, logps_BT = scored.rows_B, scored.batch, scored.logps_BT
            columns = slice(batch.mask_BT.shape[1])
            ref_BT = step.ref_logps_BT
            # Exactly on-policy the ratio is 1 by definition; policy/sample_gap is the distance of
            # the sampler's log-probabilities from these.
            old_BT = None if on_policy else step.old_logps_BT
            inputs = LossInputs(
                logps_BT=logps_BT,
                old_logps_BT=logps_BT.detach() if old_BT is None else old_BT[rows_B, columns],
                sampled_logps_BT=batch.sampled_logps_BT,
                ref_logps_BT=None if ref_BT is None else ref_BT[rows_B, columns],
                entropy_BT=scored.entropy_BT,
                advantages_BT=step.advantages_BT[rows_B, columns],
                mask_BT=batch.mask_BT,
                weights_BT=weights_BT[rows_B, columns],
                **{k: v if v is None else v[rows_B, columns] for k, v in chosen.items()},
            )
            total, values = policy_loss(inputs, cfg, self.objective)
            values["policy/entropy"] = scored.entropy_BT.detach()
            if on_policy:
                values["policy/sample_gap"] = (logps_BT.detach() - batch.sampled_logps_BT).abs()
            noted = {name: value[rows_B, columns] for name, value in step.noted.items()}
            self.term_log.take(update, scored, inputs, values | noted)
            return total, values

        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the training state without the model's weights, for `load_state_dict`."""
        return self.learner.state_dict() | {"entropy_weight": self.entropy_weight.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the optimiser's moments, the position in the schedule and a synced reference."""
        self.learner.load_state_dict(state)
        self.entropy_weight = EntropyWeight(state.get("entropy_weight", self.cfg.loss.entropy))
