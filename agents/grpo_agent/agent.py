"""GrpoAgent: groups in, a better policy out. The only place that calls backward and step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.advantages import advantages
from grpo_agent.batch import Batch, collate
from grpo_agent.config import GrpoConfig
from grpo_agent.losses import LossInputs, policy_loss, token_weights
from grpo_agent.policy import Policy
from grpo_envs.types import Group


class GrpoAgent:
    """Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300)."""

    def __init__(
        self, policy: Policy, cfg: GrpoConfig, accelerator: Accelerator, *, temperature: float
    ) -> None:
        """Take charge of `policy`.

        Args:
            policy: Trained in place; a frozen copy of it is the reference when beta is above 0.
            cfg: With the learning rate filled in.
            accelerator: Places the model, sets the precision, runs backward.
            temperature: Of the sampler: what was sampled is what is scored.
        """
        if cfg.lr is None:
            raise ValueError("GrpoAgent needs a learning rate.")
        self.cfg = cfg
        self.policy = policy.to(accelerator.device)  # before the reference is copied from it
        self.accelerator = accelerator
        self.temperature = temperature
        self.reference = _frozen_copy(policy) if cfg.loss.beta > 0 else None
        self.optimizer = torch.optim.AdamW(
            policy.model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / (cfg.warmup_steps + 1))
        )
        self._scorer = accelerator.prepare(policy)

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Improve the policy on `groups`, all of one size.

        Returns:
            Metrics by `area/name`, and the advantage of each member of each group.
        """
        device = self.policy.device
        rewards_PG = torch.tensor([[r.total for r in g.rewards] for g in groups], device=device)
        valid_PG = torch.tensor([[r.valid for r in g.rewards] for g in groups], device=device)
        advantages_PG = advantages(rewards_PG, valid_PG, self.cfg.advantage)
        inputs = _StepInputs(groups, advantages_PG.flatten(), self)
        sums: dict[str, Tensor] = {}
        skipped = 0
        for _ in range(self.cfg.epochs):
            sums = self._accumulate(inputs)
            norm = self.accelerator.clip_grad_norm_(
                self.policy.model.parameters(), self.cfg.max_grad_norm
            )
            if torch.isfinite(norm):
                self.optimizer.step()
            else:
                skipped += 1
            self.optimizer.zero_grad()
        lr = float(self.schedule.get_last_lr()[0])
        if skipped < self.cfg.epochs:
            self.schedule.step()
        metrics = {name: value.item() for name, value in sums.items()}
        metrics |= {"optim/grad_norm": norm.item(), "optim/lr": lr}
        metrics["optim/skipped"] = float(skipped)
        return metrics, advantages_PG.tolist()

    def _accumulate(self, inputs: _StepInputs) -> dict[str, Tensor]:
        """Backward through every micro-batch; return the step's metrics."""
        sums: dict[str, Tensor] = {}
        for batch, loss_inputs, share_BT in inputs.micro_batches():
            logps_BT, entropy_BT = self._scorer(batch, self.temperature)
            # Exactly on-policy, the ratio is 1 by definition; see policy/sample_gap for how far
            # the sampler's own log-probabilities are from these.
            on_policy = self.cfg.epochs == 1
            old_BT = logps_BT.detach() if on_policy else batch.sampled_logps_BT
            loss, metrics = policy_loss(
                replace(loss_inputs, logps_BT=logps_BT, old_logps_BT=old_BT), self.cfg.loss
            )
            self.accelerator.backward(loss)
            gap_BT = (logps_BT.detach() - batch.sampled_logps_BT).abs()
            metrics["policy/sample_gap"] = (gap_BT * share_BT).sum()
            metrics["policy/entropy"] = (entropy_BT * share_BT).sum()
            for name, value in metrics.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        return sums

    @torch.no_grad()
    def reference_logps(self, batch: Batch) -> Tensor | None:
        """Return log-probabilities (B, T) under the reference, None where there is none."""
        if self.reference is None:
            return None
        with self.accelerator.autocast():
            logps_BT, _ = self.reference(batch, self.temperature)
        return cast("Tensor", logps_BT)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs beside the model's weights."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the optimiser's moments and the schedule's place."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


class _StepInputs:
    """The tensors of one step, cut into micro-batches of rows of similar length."""

    def __init__(self, groups: Sequence[Group], advantages_B: Tensor, agent: GrpoAgent) -> None:
        batch = collate(groups, agent.policy.pad_id, agent.policy.device)
        lengths_B = batch.prompt_lengths_B + batch.mask_BT.sum(dim=1)
        order_B = lengths_B.argsort(stable=True)  # rows of one length together: less padding
        self.batch = batch.rows(order_B)
        self.advantages_B = advantages_B[order_B]
        self.weights_BT = token_weights(self.batch.mask_BT, agent.cfg.loss)
        self.share_BT = self.batch.mask_BT / self.batch.mask_BT.sum().clamp(min=1)
        self.size = agent.cfg.micro_batch_size
        self.reference: list[Tensor | None] = [
            agent.reference_logps(self.batch.rows(rows)) for rows in self._slices()
        ]

    def micro_batches(self) -> Iterator[tuple[Batch, LossInputs, Tensor]]:
        """Yield rows, their loss inputs, and each token's share in a mean over the step's tokens.

        The policy's own log-probabilities, made while training, are still to be put in.
        """
        for rows, ref_BT in zip(self._slices(), self.reference, strict=True):
            batch = self.batch.rows(rows)
            tokens = batch.mask_BT.shape[1]
            loss_inputs = LossInputs(
                logps_BT=batch.sampled_logps_BT,
                old_logps_BT=batch.sampled_logps_BT,
                ref_logps_BT=ref_BT,
                advantages_B=self.advantages_B[rows],
                mask_BT=batch.mask_BT,
                weights_BT=self.weights_BT[rows, :tokens],
            )
            yield batch, loss_inputs, self.share_BT[rows, :tokens]

    def _slices(self) -> list[slice]:
        return [slice(i, i + self.size) for i in range(0, len(self.advantages_B), self.size)]


def _frozen_copy(policy: Policy) -> Policy:
    reference = copy.deepcopy(policy)
    return reference.requires_grad_(False).eval()
