"""Remarks on settings without effect, logged once before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo_agent.loss_options import OFF_POLICY

if TYPE_CHECKING:
    from grpo_agent.config import PolicyGradientConfig


def remarks(cfg: PolicyGradientConfig) -> Iterator[str]:
    """Yield the finding, its evidence and the key to change, in the form of `grpo_envs.doctor`."""
    if cfg.epochs == cfg.minibatches == 1 and cfg.loss.objective not in OFF_POLICY:
        yield (
            f"The bound of agent.loss.objective={cfg.loss.objective} has no effect: with one "
            "update per step, the ratio to the policy before the step is 1. Seen: agent.epochs=1, "
            "agent.minibatches=1. Turn: agent.minibatches=4, for several updates per step."
        )
    if cfg.loss.beta == 0:
        yield (
            "Nothing ties the policy to its reference: there is no KL penalty. Seen: "
            "agent.loss.beta=0. Turn: agent.loss.beta=0.04, if the policy drifts too far."
        )
