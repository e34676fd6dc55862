"""The allowed values of the keys of objectives, token selection and the entropy target.

This module does not import torch, so that a wrong key is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from grpo_envs.config.scheduled import is_schedule, shown
from grpo_envs.errors import ConfigError, UnknownName, nearest, require

if TYPE_CHECKING:
    from grpo_agent.config import LossConfig

OFF_POLICY = ("dppo_tv", "dppo_kl", "vespo")
"""Objectives with the ratio to the policy that sampled, which need no correction."""
OWN_RATIO = ("gmpo", *OFF_POLICY)
"""Objectives that compute a ratio of their own."""
_AT = "agent.loss.options"


@dataclass(frozen=True, slots=True)
class Option:
    """The default and the range of a number that is an option of one objective."""

    default: float
    allowed: str = "above 0"
    low: float = 0.0
    high: float = inf
    whole: bool = False
    """Whether `low` itself is allowed."""
    bound: bool = False
    """Whether the number is a bound: inf is none."""

    def holds(self, value: object) -> bool:
        """Return whether a value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if value == inf and not self.bound:
            return False
        return self.low < value <= self.high or (self.whole and value == self.low)


_SHARE = Option(2e-4, "above 0, up to 1", high=1.0)
OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "cispo": {"cap": Option(5.0, "1 or more: absolute", low=1.0, whole=True, bound=True)},
    "sapo": {"tau_positive": Option(1.0), "tau_negative": Option(1.05)},
    "clip_cov": {
        "share": _SHARE,
        "low": Option(1.0, "a number below high", low=-inf, bound=True),
        "high": Option(5.0, "a number above low", low=-inf, bound=True),
    },
    "kl_cov": {"share": _SHARE, "penalty": Option(1.0, "0 or more", whole=True)},
    "vespo": {
        "k_positive": Option(2.0),
        "lambda_positive": Option(3.0),
        "k_negative": Option(3.0),
        "lambda_negative": Option(2.0),
    },
}
"""The options of our own objectives, below `agent.loss.options`."""


def options_of(cfg: LossConfig) -> dict[str, float]:
    """Return all options of one of our own objectives: the given values, else the defaults."""
    return {
        name: float(cfg.options.get(name, option.default))
        for name, option in OPTIONS[cfg.objective].items()
    }


def _check_own(cfg: LossConfig) -> None:
    """Refuse options that one of our objectives does not have, and values out of range."""
    known = OPTIONS.get(cfg.objective)
    if known is None:
        return
    for name, value in cfg.options.items():
        if name not in known:
            allowed = ", ".join(f"{_AT}.{each}" for each in known)
            raise UnknownName(f"no {_AT}.{name}. Allowed: {allowed}.{nearest(name, known)}")
        require(known[name].holds(value), f"{_AT}.{name}", value, known[name].allowed)
    values = options_of(cfg)
    if "low" in known:
        low, high = values["low"], values["high"]
        require(low < high, f"{_AT}.low", f"{low:g}", f"below high={high:g}")


def check_options(cfg: LossConfig) -> None:
    """Refuse values out of range, and combinations that contradict each other.

    Raises:
        ConfigError: one line that names the keys, the values and what is allowed.
    """
    _check_own(cfg)
    share = cfg.top_entropy
    require(0 < share <= 1, "agent.loss.top_entropy", share, "above 0, up to 1")
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
