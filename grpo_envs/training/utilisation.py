"""Model FLOPs utilisation (MFU): the share of a GPU's peak that the model's own operations take.

PaLM, appendix B (arXiv 2204.02311). Recomputed or discarded operations do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from accelerate import Accelerator

from grpo_envs.config.agent import AgentConfig
from grpo_envs.runtime.peak import peak_flops
from grpo_envs.types import Group
from grpo_policy.flops import ModelFlops
from grpo_policy.masters import dtype_name
from grpo_policy.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """The numbers from which the MFU of a step is computed."""

    flops: ModelFlops
    peak: float
    """Operations a second of all GPUs of the run."""
    passes: int = 1
    """Passes over the completions of a step in the update."""
    reference: bool = False
    """Whether a reference model scores them, too."""
    critic: ModelFlops | None = None
    """Operations of a critic with its own body; else None."""

    @classmethod
    def of(cls, policy: Policy, accelerator: Accelerator, cfg: AgentConfig) -> Self | None:
        """Return the MFU of a run; None on a CPU, or if the GPU or the model is unknown."""
        if accelerator.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name(accelerator.device)
        peak = peak_flops(name, dtype_name(policy.dtype))
        flops = ModelFlops.of(policy)
        if peak is None or flops is None:
            return None
        return cls(
            flops=flops,
            peak=peak * accelerator.num_processes,
            passes=getattr(cfg, "epochs", 1),
            reference=cfg.reference,
            critic=ModelFlops.of(policy, words=False) if cfg.critic_body == "own" else None,
        )

    def metrics(
        self, sampled: Sequence[Group], used: Sequence[Group], seconds: Mapping[str, float]
    ) -> dict[str, float]:
        """Return `mfu/sample` and `mfu/update` of a step, each from 0 to 1.

        Args:
            sampled: All groups of the step.
            used: The groups that were learnt from.
            seconds: Seconds of the step's parts, including `sample` and `update`.
        """
        update = self.flops.update(used, self.passes, reference=self.reference)
        if self.critic is not None:  # one more pass for the values before the step
            update += self.critic.update(used, self.passes, reference=True)
        done = {"sample": self.flops.sampling(sampled), "update": update}
        return {
            f"mfu/{name}": count / (seconds[name] * self.peak)
            for name, count in done.items()
            if seconds.get(name)
        }
