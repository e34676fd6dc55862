"""Allowed values of objectives, token selections and the entropy target. Without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_envs.config.scheduled import is_schedule, shown
from grpo_envs.errors import ConfigError, require

if TYPE_CHECKING:
    from grpo_agent.config import LossConfig

OFF_POLICY = ("dppo_tv", "dppo_kl", "vespo")
"""Objectives with the ratio to the policy that sampled: they need no correction."""
OWN_RATIO = ("gmpo", *OFF_POLICY)
"""Objectives that compute a ratio of their own."""


def check_options(cfg: LossConfig) -> None:
    """Refuse values out of range, and combinations without a meaning.

    Raises:
        ConfigError: one line that names the keys, the values and what is allowed.
    """
    for name in ("positive", "negative"):
        for sign in ("vespo_k_", "vespo_lambda_"):
            key = f"{sign}{name}"
            require(getattr(cfg, key) > 0, f"agent.loss.{key}", getattr(cfg, key), "above 0")
    for key in ("cov_share", "top_entropy"):
        share = getattr(cfg, key)
        require(0 < share <= 1, f"agent.loss.{key}", share, "above 0, up to 1")
    low, high = cfg.cov_low, cfg.cov_high
    require(low < high, "agent.loss.cov_low", low, f"below cov_high={high:g}")
    require(cfg.cov_kl >= 0, "agent.loss.cov_kl", cfg.cov_kl, "0 or more")
    require(cfg.entropy_step > 0, "agent.loss.entropy_step", cfg.entropy_step, "above 0")
    target, most = cfg.entropy_target, cfg.entropy_max
    require(target is None or target > 0, "agent.loss.entropy_target", target, "above 0, or null")
    require(most > 0, "agent.loss.entropy_max", most, "above 0")
    if target is not None:
        allowed = f"0 to entropy_max={most:g} and no schedule, with entropy_target"
        fixed = not is_schedule(cfg.entropy) and cfg.entropy <= most
        require(fixed, "agent.loss.entropy", shown(cfg.entropy), allowed)
    if cfg.objective in OWN_RATIO and cfg.ratio != "token":
        raise ConfigError(
            f"agent.loss.ratio={cfg.ratio} with agent.loss.objective={cfg.objective}, which "
            "computes its own ratio. Allowed: token."
        )
    if cfg.objective in OFF_POLICY and cfg.correction not in ("auto", "none"):
        raise ConfigError(
            f"agent.loss.correction={cfg.correction} with agent.loss.objective="
            f"{cfg.objective}: its ratio is to the sampler already. Allowed: auto, none."
        )
