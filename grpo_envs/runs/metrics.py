"""Metrics of a step's groups, by `area/name`."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

from grpo_envs.types import Group, Reward

Flat = Callable[[Group], bool]
"""Whether a group gives the agent no learning signal, see `AgentConfig.flat`."""


def group_metrics(
    groups: Sequence[Group], flat: Flat = lambda group: group.flat
) -> dict[str, float]:
    """Return reward, group and completion metrics of one step.

    `reward/mean`, `reward/std` and the parts are over valid members. `group/zero_std` is the share
    of groups without a learning signal: by default, groups whose valid rewards are all equal.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    valid = [reward for reward in rewards if reward.valid]
    totals = [reward.total for reward in valid] or [0.0]
    completions = [c for group in groups for c in group.completions]
    parts = {name for reward in valid for name in reward.parts}
    return {
        "reward/mean": fmean(totals),
        "reward/std": pstdev(totals),
        **{f"reward/{name}": _part_mean(valid, name) for name in sorted(parts)},
        **{f"reward_weighted/{name}": _weighted_mean(valid, name) for name in sorted(parts)},
        "reward/invalid": 1 - len(valid) / len(rewards),
        "group/zero_std": fmean(map(flat, groups)),
        "completion/length": fmean(c.length for c in completions),
        "completion/truncated": fmean(c.finish_reason == "length" for c in completions),
        **_by_source(groups, flat),
    }


def _part_mean(rewards: Sequence[Reward], name: str) -> float:
    """Return the mean of a part over the rewards that have it; it may not apply to all problems."""
    return fmean(reward.parts[name] for reward in rewards if name in reward.parts)


def _weighted_mean(rewards: Sequence[Reward], name: str) -> float:
    """Return the contribution of a part to the mean reward."""
    return fmean(r.weights.get(name, 1.0) * r.parts.get(name, 0.0) for r in rewards)


def _sources(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups by their environment in a mixture; {} without a mixture."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if "env" in group.meta:
            found.setdefault(str(group.meta["env"]), []).append(group)
    return dict(sorted(found.items()))


def _by_source(groups: Sequence[Group], flat: Flat) -> dict[str, float]:
    """Return metrics of each environment of a mixture.

    They are its share of the groups, its mean reward, the share of zero-variance groups, and its
    level if levels follow the success rate.
    """
    metrics: dict[str, float] = {}
    for name, some in _sources(groups).items():
        totals = [reward.total for group in some for reward in group.rewards if reward.valid]
        metrics[f"env/{name}/share"] = len(some) / len(groups)
        metrics[f"env/{name}/reward"] = fmean(totals or [0.0])
        metrics[f"env/{name}/zero_std"] = fmean(map(flat, some))
        found = [group.meta.get("level") for group in some]
        levels = [float(level) for level in found if type(level) is int]
        if levels:
            metrics[f"env/{name}/level"] = fmean(levels)
    return metrics


def rounded(metrics: Mapping[str, float], digits: int = 6) -> dict[str, float]:
    """Return the metrics with `digits` significant digits, for files that people read.

    Values that are not finite are left out, because JSON has no such numbers.

    >>> rounded({"loss/kl": 0.12345678, "optim/grad_norm": float("nan")})
    {'loss/kl': 0.123457}
    """
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return {name: float(f"{value:.{digits}g}") for name, value in finite.items()}
