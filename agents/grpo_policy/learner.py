"""Optimiser steps on completions, for every agent with a policy gradient.

The agent defines the loss. The learner scores the rows one micro-batch at a time, sums gradients
over micro-batches and processes, and takes the optimiser's step. Only this module calls backward
and step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runtime.memory import ran_out
from grpo_policy.batch import Batch, micro_batches
from grpo_policy.optimizers import adamw, parameter_groups, share_of_peak
from grpo_policy.parts import load_whole, part_of, whole, whole_state
from grpo_policy.policy import Policy
from grpo_policy.reference import average_of, follow
from grpo_policy.replicas import placed, replica_of
from grpo_policy.updates import LearnerSettings, RowLoss, Scored

__all__ = ["Learner", "LearnerSettings", "OutOfMemory", "RowLoss", "Scored"]
log = logging.getLogger(__name__)


class OutOfMemory(GrpoEnvsError):
    """The device has too little memory for an update, even with halved micro-batches."""


class Learner:
    """Trains a policy with AdamW, in one process or several that share every update."""

    def __init__(self, policy: Policy, settings: LearnerSettings, accelerator: Accelerator) -> None:
        """Prepare `policy` for training.

        Args:
            policy: Trained in place; moved to the accelerator's device.
            settings: Learning rate, batch sizes and other settings.
            accelerator: Places the model; sums gradients and metrics of several processes.
        """
        reference = policy.frozen_copy() if settings.reference and not policy.has_adapters else None
        self.reference = placed(reference, accelerator) if reference else None  # copied while whole
        self.policy = placed(policy, accelerator)
        self.settings = settings
        decay = settings.sync_reference_decay
        self._average = average_of(self.reference) if self.reference and decay else None
        self.accelerator = accelerator
        self.dtype = torch.promote_types(policy.trained_parameters()[0].dtype, torch.float32)
        self.steps = 0
        self.micro_batch_tokens = settings.micro_batch_tokens
        groups = parameter_groups(policy.masters, settings.lr, settings.head_lr)
        self.optimizer = adamw(groups, settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: share_of_peak(step, settings)
        )
        self._replica = replica_of(policy, self.optimizer, accelerator)
        # Small gradients would be 0 in fp16, so the loss is scaled up before the backward pass.
        scaled = policy.dtype == torch.float16
        self._scaler = torch.amp.GradScaler(accelerator.device.type, enabled=scaled)

    def learn(self, updates: Iterable[tuple[Batch, RowLoss]]) -> dict[str, float]:
        """Make one training step: an update of the weights for each batch and its loss.

        All processes pass the same batches, and each scores its own rows of them: the result does
        not depend on the number of processes.

        Returns:
            Metrics by `area/name`, means over the updates.

        Raises:
            OutOfMemory: the memory does not suffice even for halved micro-batches.
        """
        made = [self._optimise(batch, loss) for batch, loss in updates]
        skipped = sum(update.pop("optim/skipped") for update in made)
        metrics = {
            name: torch.stack([u[name] for u in made if name in u]).mean().item()
            for name in made[0]
        }
        metrics["optim/lr"] = float(self.schedule.get_last_lr()[0])
        metrics["optim/skipped"] = float(skipped)
        metrics["optim/updates"] = float(len(made))
        if skipped < len(made):
            self.schedule.step()
        self.steps += 1
        every = self.settings.sync_reference_every
        if self.reference is not None and every and self.steps % every == 0:
            follow(self.reference, self.policy, self._average, self.settings.sync_reference_decay)
        return metrics

    def own(self, rows_B: Tensor) -> Tensor:
        """Return this process's share of some rows."""
        shares = rows_B.tensor_split(self.accelerator.num_processes)
        own_B: Tensor = shares[self.accelerator.process_index]
        return own_B

    @torch.no_grad()
    def reference_logps(self, batch: Batch, rows_B: Tensor) -> Tensor | None:
        """Return log-probabilities (B, T) of some rows under the reference, 0 for other rows.

        None if the settings have no reference.
        """
        if not self.settings.reference:
            return None
        switched = nullcontext() if self.reference else self.policy.adapters_off()
        with switched:
            return self.logps_of(self.reference or self.policy, batch, rows_B)

    @torch.no_grad()
    def logps_of(self, model: Policy, batch: Batch, rows_B: Tensor) -> Tensor:
        """Return log-probabilities (B, T) of some rows under a model, 0 for other rows."""
        logps_BT, *_ = self._score(model, batch, [rows_B])
        return logps_BT.to(batch.sampled_logps_BT.dtype)

    def logps(self, batch: Batch, parts: Sequence[Tensor]) -> Tensor:
        """Return the log-probabilities of `scores`."""
        return self.scores(batch, parts)[0]

    @torch.no_grad()
    def scores(self, batch: Batch, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and values (B, T) of some rows, 0 for other rows.

        Without a value head all values are 0.

        Args:
            batch: The rows of a step.
            parts: This process's rows of each update. They are scored in the micro-batches of the
                update, so that the same weights give the same numbers to the bit.
        """
        logps_BT, _, values_BT = self._score(self.policy, batch, parts)
        return logps_BT, values_BT

    @torch.no_grad()
    def entropies(self, batch: Batch, parts: Sequence[Tensor]) -> Tensor:
        """Return the entropy (B, T) in nats of each token's distribution; rows as in `scores`."""
        return self._score(self.policy, batch, parts)[1]

    def _score(
        self, policy: Policy, batch: Batch, parts: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        logps_BT = torch.zeros_like(batch.sampled_logps_BT, dtype=self.dtype)
        all_BT = (logps_BT, torch.zeros_like(logps_BT), torch.zeros_like(logps_BT))
        wanted = []
        for rows_B in (part for part in parts if len(part)):
            rows = batch.rows(rows_B)
            wanted += [(rows_B[part_B], rows.rows(part_B)) for part_B in self._parts(rows)]
        idle = self._replica.idle(len(wanted))
        for rows_B, rows in wanted:
            scores = policy(rows, self.settings.temperature)
            for found_BT, into_BT in zip(scores, all_BT, strict=False):  # values need a value head
                into_BT[rows_B, : found_BT.shape[1]] = found_BT.to(into_BT.dtype)
        for _ in range(idle):
            policy(batch.rows(slice(1)), self.settings.temperature)
        return all_BT

    def _optimise(self, batch: Batch, loss: RowLoss) -> dict[str, Tensor]:
        """Make one update; if memory runs out, repeat it in smaller micro-batches.

        In fp16 an update whose gradient overflows is repeated, too, with a smaller loss scale.

        Raises:
            OutOfMemory: the micro-batches are halved already.
        """
        try:
            made = self._update(batch, loss)
            while made["optim/skipped"] and self._scaler.get_scale() > 1:
                made = self._update(batch, loss)
            return made
        except RuntimeError as error:
            if not ran_out(error):
                raise
            tokens, given = self.micro_batch_tokens, self.settings.micro_batch_tokens
            # With several processes the others already wait for this process's gradients.
            if tokens < given or self.accelerator.num_processes > 1:
                half = "half of " if tokens < given else "of "
                keys = ("model.gradient_checkpointing=true", "model.lora.rank=16")
                raise OutOfMemory(
                    f"out of memory with micro-batches of {tokens} tokens, {half}"
                    f"agent.micro_batch_tokens={given}. Turn that down, or "
                    f"{', '.join((*keys, *self.settings.memory_keys))}. If memory/process of "
                    "metrics.jsonl rises with the steps, it is a leak."
                ) from error
        # Outside of the except block the error is freed, with the tensors of its frames.
        self.policy.masters.take_gradients()
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro_batch_tokens = max(1, tokens // 2)
        log.warning(
            "out of memory: from now on micro-batches have %d tokens, half of before (%s=%d)",
            *(self.micro_batch_tokens, "agent.micro_batch_tokens", tokens),
        )
        return self._optimise(batch, loss)

    def _update(self, batch: Batch, loss: RowLoss) -> dict[str, Tensor]:
        """Make one update from this process's rows of `batch`, one micro-batch at a time."""
        tokens = batch.mask_BT.sum().item()
        rows_B = torch.arange(len(batch.mask_BT), device=batch.mask_BT.device)
        own_B = self.own(rows_B)
        counts = min(1, len(own_B))  # a process without rows runs one row with weight 0
        own_B = own_B if counts else rows_B[:1]
        own = batch.rows(own_B)
        sums: dict[str, Tensor] = {}
        parts = self._parts(own)
        idle = self._replica.idle(len(parts))
        for part_B in parts:
            values = self._backward(own.rows(part_B), own_B[part_B], loss, weight=counts)
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * counts
        for _ in range(idle):
            logps_BT, *_ = self.policy(batch.rows(slice(1)), self.settings.temperature)
            (0 * logps_BT.sum()).backward()
        metrics = {name: self.accelerator.reduce(value, "sum") for name, value in sums.items()}
        for name in metrics.keys() - {"loss/total"}:
            metrics[name] = metrics[name] / max(tokens, 1.0)
        return metrics | self._apply()

    def _backward(
        self, batch: Batch, rows_B: Tensor, loss: RowLoss, *, weight: int
    ) -> dict[str, Tensor]:
        """Add the gradient of these rows; return their loss and sums of values over tokens."""
        names = ("logps_BT", "entropy_BT", "values_BT")
        scores = self.policy(
            batch, self.settings.temperature, entropy_grad=self.settings.entropy_grad
        )
        found = dict(zip(names, scores, strict=False))
        total, values = loss(Scored(rows_B=rows_B, batch=batch, **found))
        self._scaler.scale(total * weight).backward()
        sums = {name: (value * batch.mask_BT).sum() for name, value in values.items()}
        return {"loss/total": total.detach(), **sums}

    def _apply(self) -> dict[str, Tensor]:
        """Take the optimiser's step, unless the gradient is not finite."""
        self._replica.exchange()
        self._scaler.unscale_(self.optimizer)
        norm = self._replica.clip(self.settings.max_grad_norm)
        finite = torch.isfinite(norm)
        if finite:
            self._replica.step()
            self.policy.version += 1
        if self._scaler.is_enabled():
            # By the norm, which is the same in all processes, not by a process's own gradients.
            less = self._scaler.get_scale() * self._scaler.get_backoff_factor()
            self._scaler.update(None if finite else less)
        self.optimizer.zero_grad()
        return {"optim/grad_norm": norm, "optim/skipped": (~finite).float()}

    def _parts(self, batch: Batch) -> list[Tensor]:
        packed = self.policy.packs(batch, self.micro_batch_tokens)
        return micro_batches(batch, self.micro_batch_tokens, packed=packed)

    def state_dict(self) -> dict[str, Any]:
        """Return the training state without the model's weights, for `load_state_dict`."""
        synced = self.reference is not None and self.settings.sync_reference_every
        return {
            "optimizer": self._replica.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps": self.steps,
            "scaler": self._scaler.state_dict(),
            "reference": whole_state(self.reference) if self.reference and synced else None,
            "average": self._average and {n: whole(v).cpu() for n, v in self._average.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the optimiser's moments, the position in the schedule and a synced reference."""
        self._replica.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps = state["steps"]
        self._scaler.load_state_dict(state.get("scaler", {}))
        if self.reference is not None and state["reference"] is not None:
            load_whole(self.reference, state["reference"])
        for name, value in (self._average or {}).items():
            value.copy_(part_of(state["average"][name], value))
