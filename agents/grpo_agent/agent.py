"""GrpoAgent: groups in, a better policy out. The only place that calls backward and step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.advantages import Scores, advantages
from grpo_agent.config import GrpoConfig
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights
from grpo_agent.shaping import kl_penalty, overlong_penalty
from grpo_agent.step import Step, minibatches
from grpo_envs.config.model import SamplerConfig
from grpo_envs.errors import GrpoEnvsError
from grpo_envs.types import Group
from grpo_policy.batch import Batch, collate, micro_batches
from grpo_policy.policy import Policy
from grpo_policy.sharding import replica_of

log = logging.getLogger(__name__)


class OutOfMemory(GrpoEnvsError):
    """The device has too little memory for an update, in halved micro-batches too."""


class GrpoAgent:
    """Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) and its relatives."""

    def __init__(
        self, policy: Policy, cfg: GrpoConfig, accelerator: Accelerator, sampler: SamplerConfig
    ) -> None:
        """Take charge of `policy`.

        Args:
            policy: Trained in place. Where beta is above 0 the reference is the model without its
                adapters, or a frozen copy of a model that has none.
            cfg: With the learning rate filled in.
            accelerator: Places the model, sets the precision, runs backward.
            sampler: With the length filled in: what was sampled is what is scored.
        """
        if cfg.lr is None or sampler.max_new_tokens is None:
            raise ValueError("GrpoAgent needs a learning rate and the sampler's max_new_tokens.")
        self.cfg = cfg
        self.policy = policy.to(accelerator.device)  # before the reference is copied from it
        self.accelerator = accelerator
        self.temperature = sampler.temperature
        self.max_tokens = sampler.max_new_tokens
        self.dtype = torch.promote_types(policy.trained_parameters()[0].dtype, torch.float32)
        self.steps = 0
        self.micro_batch_tokens = cfg.micro_batch_tokens
        copied = cfg.loss.beta > 0 and not policy.has_adapters
        self.reference = _frozen_copy(policy) if copied else None
        self.optimizer = torch.optim.AdamW(
            policy.trained_parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / (cfg.warmup_steps + 1))
        )
        self._replica = replica_of(policy, self.optimizer, accelerator)

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Improve the policy on `groups`, all of one size.

        With several processes each is given all groups of the step, and takes its share of every
        update: what comes of it does not depend on how many there are.

        Returns:
            Metrics by `area/name`, means over the updates of this step, and the advantage of each
            member of each group.
        """
        batch = collate(groups, self.policy.pad_id, self.policy.device)
        parts = minibatches(batch, len(groups), self.cfg.minibatches)
        step = self._step_of(groups, batch, torch.cat([self._own(rows_B) for rows_B in parts]))
        updates: list[dict[str, Tensor]] = []
        for _ in range(self.cfg.epochs):
            for rows in parts:
                updates.append(self._optimise(step.rows(rows), on_policy=not updates))
        skipped = sum(update.pop("optim/skipped") for update in updates)
        metrics = {
            name: torch.stack([u[name] for u in updates if name in u]).mean().item()
            for name in updates[0]
        }
        metrics["optim/lr"] = float(self.schedule.get_last_lr()[0])
        metrics["optim/skipped"] = float(skipped)
        metrics["optim/updates"] = float(len(updates))
        if skipped < len(updates):
            self.schedule.step()
        self.steps += 1
        if self._reference_is_due():
            assert self.reference is not None
            self.reference.load_state_dict(self.policy.state_dict())
        return metrics, step.advantages_B.view(len(groups), -1).tolist()

    def _own(self, rows_B: Tensor) -> Tensor:
        """Return this process's share of some rows."""
        shares = rows_B.tensor_split(self.accelerator.num_processes)
        own_B: Tensor = shares[self.accelerator.process_index]
        return own_B

    def _step_of(self, groups: Sequence[Group], batch: Batch, own_B: Tensor) -> Step:
        """Put together what every update of this step needs; the reference's part for own rows."""
        ref_logps_BT = self._reference_logps(batch, own_B)
        truncated_B = torch.tensor(
            [c.finish_reason == "length" for group in groups for c in group.completions],
            device=batch.mask_BT.device,
        )
        masked_B = truncated_B & (self.cfg.overlong.truncated == "mask")
        counted_BT = batch.mask_BT & ~masked_B[:, None]
        rewards_B, valid_B = self._rewards(groups, truncated_B)
        if ref_logps_BT is not None and self.cfg.loss.kl_in == "reward":
            rewards_B -= self._kl_penalty(batch, ref_logps_BT, own_B)
        scores = Scores(
            rewards_PG=rewards_B.view(len(groups), -1),
            valid_PG=valid_B.view(len(groups), -1),
            tokens_PG=counted_BT.sum(dim=1).view(len(groups), -1),
        )
        return Step(
            batch=batch,
            counted_BT=counted_BT,
            ref_logps_BT=ref_logps_BT,
            advantages_B=advantages(scores, self.cfg.advantage).flatten(),
        )

    def _rewards(self, groups: Sequence[Group], truncated_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return rewards (B) less the penalty of length, and which of them count (B)."""
        device, cfg = truncated_B.device, self.cfg
        rewards = [reward for group in groups for reward in group.rewards]
        totals_B = torch.tensor([r.total for r in rewards], device=device, dtype=self.dtype)
        valid_B = torch.tensor([r.valid for r in rewards], device=device)
        answers = [c.longest_turn for group in groups for c in group.completions]
        lengths_B = torch.tensor(answers, device=device)
        totals_B -= overlong_penalty(lengths_B, truncated_B, self.max_tokens, cfg.overlong)
        return totals_B, valid_B if cfg.overlong.in_baseline else valid_B & ~truncated_B

    def _kl_penalty(self, batch: Batch, ref_logps_BT: Tensor, own_B: Tensor) -> Tensor:
        """Return the KL penalty of each reward (B): of all rows, from each process's own."""
        sampled_BT, mask_BT = batch.sampled_logps_BT, batch.mask_BT
        penalty_B = kl_penalty(sampled_BT, ref_logps_BT, mask_BT, self.cfg.loss)
        own = torch.zeros_like(penalty_B).index_copy(0, own_B, penalty_B[own_B])
        everyone: Tensor = self.accelerator.reduce(own, "sum")
        return everyone

    def _optimise(self, step: Step, *, on_policy: bool) -> dict[str, Tensor]:
        """Make one update; where the memory does not suffice, once more in smaller micro-batches.

        Raises:
            OutOfMemory: they are halved already.
        """
        try:
            return self._update(step, on_policy=on_policy)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            tokens, given = self.micro_batch_tokens, self.cfg.micro_batch_tokens
            # The others of several processes wait for this one's gradients.
            if tokens < given or self.accelerator.num_processes > 1:
                half = "half of " if tokens < given else "of "
                raise OutOfMemory(
                    f"out of memory with micro-batches of {tokens} tokens, {half}"
                    f"agent.micro_batch_tokens={given}. Turn that down, or "
                    "model.gradient_checkpointing=true, model.lora.rank=16, agent.loss.beta=0. If "
                    "memory/process of metrics.jsonl rises with the steps, it is a leak."
                ) from error
        # Out here the error is gone, and with it what its frames held.
        self.optimizer.zero_grad()
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro_batch_tokens = max(1, tokens // 2)
        log.warning(
            "out of memory: from now on micro-batches have %d tokens, half of before (%s=%d)",
            *(self.micro_batch_tokens, "agent.micro_batch_tokens", tokens),
        )
        return self._optimise(step, on_policy=on_policy)

    def _update(self, step: Step, *, on_policy: bool) -> dict[str, Tensor]:
        """Make one update from this process's rows of `step`, a micro-batch at a time."""
        tokens, counted = torch.stack([step.batch.mask_BT.sum(), step.counted_BT.sum()]).tolist()
        size = StepSize(
            completions=len(step.counted_BT), tokens=counted, max_tokens=self.max_tokens
        )
        weights_BT = token_weights(step.counted_BT.to(self.dtype), size, self.cfg.loss)
        rows_B = torch.arange(len(weights_BT), device=weights_BT.device)
        own_B = self._own(rows_B)
        counts = min(1, len(own_B))  # one that has no rows takes part with a row that counts 0
        own_B = own_B if counts else rows_B[:1]
        own, weights_BT = step.rows(own_B), weights_BT[own_B] * counts
        parts = self._parts(own.batch)
        sums: dict[str, Tensor] = {}
        for i, rows in enumerate(parts):
            last = i == len(parts) - 1  # processes exchange gradients once an update
            with nullcontext() if last else self.accelerator.no_sync(self._replica.scorer):
                values = self._backward(own.rows(rows), weights_BT[rows], on_policy=on_policy)
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * counts
        metrics = {name: self.accelerator.reduce(value, "sum") for name, value in sums.items()}
        for name in metrics.keys() - {"loss/total"}:
            metrics[name] = metrics[name] / max(tokens, 1.0)
        return metrics | self._apply()

    def _backward(self, step: Step, weights_BT: Tensor, *, on_policy: bool) -> dict[str, Tensor]:
        """Add the gradient of these rows; return their loss and sums of values over tokens."""
        batch, cfg = step.batch, self.cfg.loss
        scorer, entropy_grad = self._replica.scorer, cfg.entropy > 0
        with self.accelerator.autocast():
            logps_BT, entropy_BT = scorer(batch, self.temperature, entropy_grad=entropy_grad)
        # Exactly on-policy the ratio is 1 by definition; see policy/sample_gap for how far the
        # sampler's own log-probabilities are from these.
        old_BT = logps_BT.detach() if on_policy else batch.sampled_logps_BT
        inputs = LossInputs(
            logps_BT=logps_BT,
            entropy_BT=entropy_BT,
            old_logps_BT=old_BT,
            ref_logps_BT=step.ref_logps_BT,
            advantages_B=step.advantages_B,
            mask_BT=batch.mask_BT,
            weights_BT=weights_BT[:, : batch.mask_BT.shape[1]],
        )
        loss, values = policy_loss(inputs, cfg)
        # DistributedDataParallel takes the mean of the processes' gradients; theirs add up.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        values["policy/entropy"] = entropy_BT.detach()
        if on_policy:
            values["policy/sample_gap"] = (logps_BT.detach() - batch.sampled_logps_BT).abs()
        sums = {name: (value * batch.mask_BT).sum() for name, value in values.items()}
        return {"loss/total": loss.detach(), **sums}

    def _apply(self) -> dict[str, Tensor]:
        """Take the optimiser's step, unless the gradient is not finite."""
        with self._replica.stepping():
            norm = self._replica.clip(self.cfg.max_grad_norm)
            finite = torch.isfinite(norm)
            if finite:
                self.optimizer.step()
                self.policy.version += 1
            self.optimizer.zero_grad()
        return {"optim/grad_norm": norm, "optim/skipped": (~finite).float()}

    @torch.no_grad()
    def _reference_logps(self, batch: Batch, own_B: Tensor) -> Tensor | None:
        """Return log-probabilities (B, T) of some rows under the reference, 0 for the others.

        None where there is no reference.
        """
        if self.cfg.loss.beta == 0:
            return None
        reference = self.policy if self.reference is None else self.reference
        logps_BT = torch.zeros_like(batch.sampled_logps_BT)
        switched = nullcontext() if self.reference else self.policy.adapters_off()
        with switched, self.accelerator.autocast():
            for rows in self._parts(batch.rows(own_B)) if len(own_B) else ():
                part_BT, _ = reference(batch.rows(own_B[rows]), self.temperature)
                logps_BT[own_B[rows], : part_BT.shape[1]] = part_BT.to(logps_BT.dtype)
        return logps_BT

    def _parts(self, batch: Batch) -> list[Tensor]:
        packed = self.policy.packs(batch)
        return micro_batches(batch, self.micro_batch_tokens, packed=packed)

    def _reference_is_due(self) -> bool:
        every = self.cfg.sync_reference_every
        return every > 0 and self.reference is not None and self.steps % every == 0

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs beside the model's weights."""
        synced = self.reference is not None and self.cfg.sync_reference_every
        return {
            "optimizer": self._replica.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps": self.steps,
            "reference": self.reference.state_dict() if self.reference and synced else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the optimiser's moments, the schedule's place and a synced reference."""
        self._replica.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps = state["steps"]
        if self.reference is not None and state["reference"] is not None:
            self.reference.load_state_dict(state["reference"])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _frozen_copy(policy: Policy) -> Policy:
    reference = copy.deepcopy(policy)
    return reference.requires_grad_(False).eval()
