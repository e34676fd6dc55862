"""Keys that earlier versions had under other names, and runs that have them in their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LOSS, _OBJECTIVE = "agent.loss", "agent.loss.objective"


@dataclass(frozen=True, slots=True)
class _Option:
    """A key that is now an option of one objective, below `agent.loss.options`."""

    name: str
    objectives: Sequence[str]
    default: float


_OPTIONS: Mapping[str, _Option] = {
    f"{_LOSS}.cispo_cap": _Option("cap", ["cispo"], 5.0),
    f"{_LOSS}.sapo_tau_positive": _Option("tau_positive", ["sapo"], 1.0),
    f"{_LOSS}.sapo_tau_negative": _Option("tau_negative", ["sapo"], 1.05),
    f"{_LOSS}.vespo_k_positive": _Option("k_positive", ["vespo"], 2.0),
    f"{_LOSS}.vespo_lambda_positive": _Option("lambda_positive", ["vespo"], 3.0),
    f"{_LOSS}.vespo_k_negative": _Option("k_negative", ["vespo"], 3.0),
    f"{_LOSS}.vespo_lambda_negative": _Option("lambda_negative", ["vespo"], 2.0),
    f"{_LOSS}.cov_share": _Option("share", ["clip_cov", "kl_cov"], 2e-4),
    f"{_LOSS}.cov_low": _Option("low", ["clip_cov"], 1.0),
    f"{_LOSS}.cov_high": _Option("high", ["clip_cov"], 5.0),
    f"{_LOSS}.cov_kl": _Option("penalty", ["kl_cov"], 1.0),
}
RENAMED: Mapping[str, str] = {
    "trainer.objective": "trainer.sweep_metric",
    **{key: f"{_LOSS}.options.{option.name}" for key, option in _OPTIONS.items()},
}
"""Keys of earlier versions, and their present names."""


def in_present_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat configuration of an earlier version as the present version would write it.

    Options of other objectives, and options with the value that is the default, are left out.

    >>> in_present_keys({"agent.loss.objective": "cispo", "agent.loss.cispo_cap": 4.0})
    {'agent.loss.objective': 'cispo', 'agent.loss.options.cap': 4.0}
    """
    present: dict[str, Any] = {}
    for key, value in config.items():
        option = _OPTIONS.get(key)
        if option is None:
            present[key] = value
        elif config.get(_OBJECTIVE) in option.objectives and value != option.default:
            present[RENAMED[key]] = value
    return present


def in_present_words(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a command with the present names of their keys.

    >>> in_present_words(["agent=cispo", "agent.loss.cispo_cap=4"])
    ['agent=cispo', 'agent.loss.options.cap=4']
    """
    pairs = [override.partition("=") for override in overrides]
    return [f"{RENAMED.get(key, key)}{sign}{value}" for key, sign, value in pairs]
