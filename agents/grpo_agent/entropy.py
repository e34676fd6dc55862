"""The weight of the entropy bonus that follows a target (Skywork-OR1, arXiv 2505.22312)."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_agent.config import LossConfig


@dataclass(slots=True)
class EntropyWeight:
    """The current weight; part of a checkpoint."""

    value: float

    def follow(self, entropy: float, cfg: LossConfig) -> float:
        """Take a step towards the target; return the weight of the bonus in this step.

        Below the target the weight grows by `entropy_step`, up to `entropy_max`. At the target and
        above it shrinks by `entropy_step`, down to 0, and the bonus of this step is 0.

        Args:
            entropy: Entropy of the policy that sampled the step [nats per token].
            cfg: Has a target.
        """
        assert cfg.entropy_target is not None
        low = entropy < cfg.entropy_target
        moved = self.value + (cfg.entropy_step if low else -cfg.entropy_step)
        self.value = min(max(moved, 0.0), cfg.entropy_max)
        return self.value if low else 0.0
