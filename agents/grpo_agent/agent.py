"""Groups in, a better policy out: what agents with a clipped ratio share, and GrpoAgent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, ClassVar, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.advantages import Episodes, per_member, per_token, turn_advantages
from grpo_agent.config import GrpoConfig, PolicyGradientConfig
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights
from grpo_agent.mechanisms import ADVANTAGE, OBJECTIVE, resolve
from grpo_agent.shaping import kl_penalty, overlong_penalty
from grpo_agent.step import Step, minibatches
from grpo_agent.turn_batch import TurnBatch, collate_turns
from grpo_agent.turns import EPISODE, flat_turns
from grpo_envs.config.scheduled import is_schedule, largest, shown, value_at
from grpo_envs.training.agent import Parts, Plan, Update
from grpo_envs.types import Group
from grpo_policy.batch import Batch, collate
from grpo_policy.learner import Learner, LearnerSettings, RowLoss, Scored
from grpo_policy.models import hints
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding


class PolicyGradientAgent(ABC):
    """Moves the policy by the ratio to what it was before the step; a subclass has advantages."""

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
        """Take charge of `policy`.

        Args:
            policy: Trained in place. Where beta is above 0 the reference is the model without its
                adapters, or a frozen copy of a model that has none.
            cfg: A learning rate of null is the model's own.
            accelerator: Places the model, sets the precision, runs backward.
            decoding: How the completions are sampled: they are scored at the same temperature.
            same_arithmetic: Whether the sampler computes log-probabilities as the trainer does
                before the update: what `agent.loss.correction=auto` goes by.
            plan: What is known of the steps to come; None where a step needs none of it.

        Raises:
            GrpoEnvsError: the advantage or the objective cannot be used; one line that says why.
        """
        if cfg.loss.correction == "auto":
            correction = "none" if same_arithmetic else "truncate"
            cfg = replace(cfg, loss=replace(cfg.loss, correction=correction))
        self.planned = cfg
        self.cfg = replace(cfg, loss=cfg.loss.at(1))
        """Without schedules: with the numbers of the step at hand."""
        self.plan = plan or Plan(temperature=decoding.temperature)
        self.policy = policy
        self.accelerator = accelerator
        self.max_tokens = decoding.max_new_tokens
        self.objective = resolve(OBJECTIVE, self.cfg.loss)
        self.learner = Learner(policy, self._settings(decoding.temperature), accelerator)

    @classmethod
    def make(cls, cfg: Any, parts: Parts) -> Self:
        """Return the agent, see `grpo_envs.training.agent.Agent`."""
        known: dict[str, Any] = {"same_arithmetic": parts.same_arithmetic, "plan": parts.plan}
        return cls(parts.policy, cfg, parts.accelerator, parts.decoding, **known)

    def _settings(self, temperature: float) -> LearnerSettings:
        """Return the numbers of the policy's learner."""
        cfg = self.planned
        return LearnerSettings.of(
            cfg,
            lr=hints(self.policy).lr if cfg.lr is None else cfg.lr,
            steps=self.plan.steps,
            temperature=temperature,
            entropy_grad=largest(cfg.loss.entropy) > 0,
            reference=cfg.reference,
            sync_reference_every=cfg.sync_reference_every,
            memory_keys=cfg.memory_keys,
        )

    def describe(self) -> str:
        """Return the agent's most important numbers for the first line of the log."""
        return f"lr {self.learner.settings.lr:g}, beta {shown(self.planned.loss.beta)}"

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Improve the policy on `groups`, all of one size.

        With several processes each is given all groups of the step, and takes its share of every
        update: the result does not depend on how many there are.

        Returns:
            An `Update`: metrics, means over the updates of this step, and the advantage of each
            member of each group. To type checkers it is a tuple, which a subclass may return.
        """
        scheduled = self._begin(self.learner.steps + 1)
        batch = collate(groups, self.policy.pad_id, self.policy.device)
        parts = minibatches(batch, len(groups), self.cfg.minibatches)
        step, advantages_PG = self._step_of(groups, batch, parts)
        metrics = self._learn(step, parts)
        if "policy/correction" in metrics:
            square = metrics.pop("policy/correction_square")
            metrics["policy/correction_ess"] = metrics["policy/correction"] ** 2 / square
        return Update(metrics | scheduled, advantages_PG.tolist())

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
        """Return what every update of this step needs, and the advantage of each member (P, G).

        The reference's and the old log-probabilities are those of this process's own rows.
        """

    def _owned(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return this process's rows of each update."""
        return [self.learner.own(rows_B) for rows_B in parts]

    def _later(self, owned: list[Tensor]) -> list[Tensor]:
        """Return the rows that need log-probabilities of the policy before the step.

        The first update is on-policy: its rows need them in a second epoch only.
        """
        return owned if self.cfg.epochs > 1 else owned[1:]

    def _truncated(self, groups: Sequence[Group]) -> Tensor:
        """Return which completions ran out of tokens (B)."""
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
        """Return a value of all rows (B, ...): each process has that of its own."""
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

        def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
            rows_B, batch, logps_BT = scored.rows_B, scored.batch, scored.logps_BT
            columns = slice(batch.mask_BT.shape[1])
            ref_BT = step.ref_logps_BT
            # Exactly on-policy the ratio is 1 by definition; policy/sample_gap is how far the
            # sampler's own log-probabilities are from these.
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
            )
            total, values = policy_loss(inputs, self.cfg.loss, self.objective)
            values["policy/entropy"] = scored.entropy_BT.detach()
            if on_policy:
                values["policy/sample_gap"] = (logps_BT.detach() - batch.sampled_logps_BT).abs()
            return total, values

        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs beside the model's weights."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the optimiser's moments, the schedule's place and a synced reference."""
        self.learner.load_state_dict(state)


class GrpoAgent(PolicyGradientAgent):
    """Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) and its relatives."""

    Config: ClassVar[type[GrpoConfig]] = GrpoConfig
    cfg: GrpoConfig

    def __init__(self, policy: Policy, cfg: GrpoConfig, *parts: Any, **known: Any) -> None:
        """Take charge of `policy`, see `PolicyGradientAgent`."""
        self.rule = resolve(ADVANTAGE, cfg.advantage)
        super().__init__(policy, cfg, *parts, **known)

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Improve the policy on `groups`, see `PolicyGradientAgent.update`."""
        metrics, shown = super().update(groups)
        if self.cfg.advantage.turns != EPISODE:
            flat = [turn for group in groups for turn in flat_turns(group, self.cfg.advantage)]
            metrics["group/turns_flat"] = fmean(flat)
        return Update(metrics, shown)

    def _step_of(
        self, groups: Sequence[Group], batch: Batch, parts: Sequence[Tensor]
    ) -> tuple[Step, Tensor]:
        """Compare each completion, or each of its turns, with its group."""
        owned = self._owned(parts)
        own_B, later = torch.cat(owned), self._later(owned)
        ref_logps_BT = self.learner.reference_logps(batch, own_B)
        truncated_B = self._truncated(groups)
        counted_BT = self._counted(batch, truncated_B)
        turns = self._turns(groups, batch, truncated_B)
        if ref_logps_BT is not None and self.cfg.loss.kl_in == "reward":
            turns.rewards_BK.sub_(self._kl_penalty(batch, ref_logps_BT, own_B, turns))
        of_groups = (len(groups), -1)
        episodes = Episodes(
            rewards_PGK=turns.rewards_BK.unflatten(0, of_groups),
            taken_PGK=turns.taken_BK.unflatten(0, of_groups),
            valid_PG=self._valid(groups, truncated_B).view(of_groups),
            mask_PGT=counted_BT.unflatten(0, of_groups),
            turn_PGT=turns.turn_BT.unflatten(0, of_groups),
        )
        value = turn_advantages(episodes, self.rule, self.cfg.advantage)
        step = Step(
            batch=batch,
            counted_BT=counted_BT,
            ref_logps_BT=ref_logps_BT,
            old_logps_BT=self.learner.logps(batch, later) if later else None,
            advantages_BT=per_token(value, episodes.mask_PGT),
        )
        return step, per_member(value, episodes.mask_PGT)

    def _turns(self, groups: Sequence[Group], batch: Batch, truncated_B: Tensor) -> TurnBatch:
        """Return the turns of all members, their rewards less the penalty of length."""
        like = torch.empty((), device=truncated_B.device, dtype=self.learner.dtype)
        apart = self.cfg.advantage.turns != EPISODE
        turns = collate_turns(groups, batch.mask_BT.shape[1], like, apart=apart)
        truncated_BK = truncated_B[:, None] & turns.last_BK
        penalty_BK = overlong_penalty(
            turns.lengths_BK, truncated_BK, self.max_tokens, self.cfg.overlong
        )
        turns.rewards_BK.sub_(penalty_BK)
        return turns

    def _kl_penalty(
        self, batch: Batch, ref_logps_BT: Tensor, own_B: Tensor, turns: TurnBatch
    ) -> Tensor:
        """Return the KL penalty of each turn (B, K): of all rows, from each process's own."""
        penalties_K = [
            kl_penalty(batch.sampled_logps_BT, ref_logps_BT, mask_BT, self.cfg.loss)
            for mask_BT in (batch.mask_BT & at_BT for at_BT in turns.at_KBT)
        ]
        return self._everyones(torch.stack(penalties_K, dim=1), own_B)
