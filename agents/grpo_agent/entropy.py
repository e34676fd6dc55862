"""The weight of the entropy bonus under an entropy target (Skywork-OR1, arXiv 2505.22312)."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_agent.config import LossConfig


@dataclass(slots=True)
class EntropyWeight:
    """The current weight, which a checkpoint contains."""

    value: float

    def follow(self, entropy: float, cfg: LossConfig) -> float:
        """Change the weight by the entropy of a step; return the bonus's weight in this step.

        If the entropy is below the target, the weight increases by `entropy_step`, up to
        `entropy_max`. Otherwise it decreases by `entropy_step`, down to 0, and this step has no
        bonus.

        Args:
            entropy: Entropy of the policy that sampled the step [nats per token].
            cfg: The loss, with an entropy target.
        """
        assert cfg.entropy_target is not None
        low = entropy < cfg.entropy_target
        moved = self.value + (cfg.entropy_step if low else -cfg.entropy_step)
        self.value = min(max(moved, 0.0), cfg.entropy_max)
        return self.value if low else 0.0
