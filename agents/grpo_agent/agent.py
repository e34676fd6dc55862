"""GrpoAgent: updates the policy from the groups of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from grpo_agent.advantages import Episodes, per_member, per_token, turn_advantages
from grpo_agent.config import GrpoConfig
from grpo_agent.distillation import taught, teacher_gap
from grpo_agent.mechanisms import ADVANTAGE, resolve
from grpo_agent.part_batch import collate_parts, part_names
from grpo_agent.policy_gradient import PolicyGradientAgent
from grpo_agent.rule_terms import rule_terms
from grpo_agent.shaping import kl_penalty, overlong_penalty
from grpo_agent.step import Step
from grpo_agent.turn_batch import TurnBatch, collate_turns
from grpo_agent.turns import EPISODE, flat_turns
from grpo_envs.training.agent import Update
from grpo_envs.types import Group
from grpo_policy.batch import Batch
from grpo_policy.policy import Policy
from grpo_policy.replicas import placed
from grpo_policy.teacher import load_teacher


class GrpoAgent(PolicyGradientAgent):
    """Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) and its relatives."""

    Config: ClassVar[type[GrpoConfig]] = GrpoConfig
    cfg: GrpoConfig

    def __init__(self, policy: Policy, cfg: GrpoConfig, *parts: Any, **known: Any) -> None:
        """Prepare `policy` for training, see `PolicyGradientAgent`."""
        self.rule = resolve(ADVANTAGE, cfg.advantage)
        teacher = load_teacher(cfg.teacher, policy) if cfg.teacher else None
        super().__init__(policy, cfg, *parts, **known)
        self.teacher = placed(teacher, self.accelerator) if teacher else None

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Update the policy from `groups`, see `PolicyGradientAgent.update`."""
        metrics, shown = super().update(groups)
        if self.cfg.advantage.turns != EPISODE:
            flat = [turn for group in groups for turn in flat_turns(group, self.cfg.advantage)]
            metrics["group/turns_flat"] = fmean(flat)
        return Update(metrics, shown)

    def formulas(self) -> dict[str, tuple[str, Callable[..., Any]]]:
        """Return the choices behind the advantages by key: their names, and what computes them."""
        name = self.rule.said.partition("=")[2]
        found: dict[str, tuple[str, Callable[..., Any]]]
        found = {"agent.advantage.name": (name, self.rule.function)}
        if self.cfg.teacher:
            weights = {n: getattr(self.cfg, n) for n in ("teacher_weight", "reward_weight")}
            found["agent.teacher"] = (self.cfg.teacher, partial(taught, **weights))
        return found

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
        self.term_log.compared(turns.rewards_BK)
        episodes = self._episodes(groups, turns, truncated_B, counted_BT)
        value = turn_advantages(episodes, self.rule, self.cfg.advantage)
        self._note(episodes, groups)
        noted = {"turn": turns.turn_BT} if self.cfg.advantage.turns != EPISODE else {}
        metrics: dict[str, float] = {}
        if self.teacher is not None:
            logps_BT = self._everyones(self.learner.logps_of(self.teacher, batch, own_B), own_B)
            gap_BT = teacher_gap(batch, logps_BT) * counted_BT
            metrics["policy/teacher_kl"] = (-gap_BT.sum() / counted_BT.sum().clamp(min=1)).item()
            noted |= {"teacher": logps_BT, "of rewards": per_token(value, episodes.mask_PGT)}
            value = taught(value, gap_BT, episodes.mask_PGT, self.cfg)
        step = Step(
            batch=batch,
            counted_BT=counted_BT,
            ref_logps_BT=ref_logps_BT,
            old_logps_BT=self.learner.logps(batch, later) if later else None,
            advantages_BT=per_token(value, episodes.mask_PGT),
            metrics=metrics,
            noted=noted if self.term_log.notes else {},
        )
        return step, per_member(value, episodes.mask_PGT)

    def _episodes(
        self, groups: Sequence[Group], turns: TurnBatch, truncated_B: Tensor, counted_BT: Tensor
    ) -> Episodes:
        of_groups = (len(groups), -1)
        return Episodes(
            rewards_PGK=turns.rewards_BK.unflatten(0, of_groups),
            taken_PGK=turns.taken_BK.unflatten(0, of_groups),
            valid_PG=self._valid(groups, truncated_B).view(of_groups),
            mask_PGT=counted_BT.unflatten(0, of_groups),
            turn_PGT=turns.turn_BT.unflatten(0, of_groups),
            parts=cache(partial(collate_parts, groups, turns.rewards_BK)),
        )

    def _note(self, episodes: Episodes, groups: Sequence[Group]) -> None:
        if self.term_log.notes:
            terms = rule_terms(episodes, self.cfg.advantage, part_names(groups))
            self.term_log.on_the_way(*terms)

    def _turns(self, groups: Sequence[Group], batch: Batch, truncated_B: Tensor) -> TurnBatch:
        """Return the turns of all members; the length penalty is subtracted from their rewards."""
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
        """Return the KL penalty of each turn (B, K), of the rows of all processes."""
        penalties_K = [
            kl_penalty(batch.sampled_logps_BT, ref_logps_BT, mask_BT, self.cfg.loss)
            for mask_BT in (batch.mask_BT & at_BT for at_BT in turns.at_KBT)
        ]
        return self._everyones(torch.stack(penalties_K, dim=1), own_B)
