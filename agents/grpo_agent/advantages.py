"""Rewards of a group -> advantages of its members. One function per rule; presets name papers.

Members whose grader failed are not valid: they leave the statistics and get advantage 0. A flat
group (all valid rewards equal) teaches nothing and gets exact zeros, as does a group with fewer
than two valid members.
Shapes: P groups of G members. The groups are those of a whole step, of all processes together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_agent.config import AdvantageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What advantages are made of."""

    rewards_PG: Tensor
    """Total reward of each member."""
    valid_PG: Tensor
    """False where the grader failed; the reward there is ignored."""
    tokens_PG: Tensor
    """Tokens of each member that count in the loss."""


AdvantageFn = Callable[[Scores, AdvantageConfig], Tensor]


def centered(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """r - mean of the group (Dr. GRPO, arXiv 2503.20783)."""
    return s.rewards_PG - _group_mean(s)


def standardized(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """(r - mean) / (std + eps), both of the group (GRPO, arXiv 2402.03300, eq. 3)."""
    centered_PG = centered(s, cfg)
    degrees_P1 = (s.valid_PG.sum(dim=1, keepdim=True) - cfg.ddof).clamp(min=1)
    squares_P1 = (centered_PG.square() * s.valid_PG).sum(dim=1, keepdim=True)
    return centered_PG / ((squares_P1 / degrees_P1).sqrt() + cfg.eps)


def leave_one_out(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """n/(n-1) (r - mean): r minus the mean of the others (RLOO, arXiv 2402.14740)."""
    n_P1 = s.valid_PG.sum(dim=1, keepdim=True)
    return centered(s, cfg) * n_P1 / (n_P1 - 1).clamp(min=1)


def batch_std(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """(r - mean of the group) / (std of all rewards of the step + eps) (arXiv 2508.08221)."""
    return centered(s, cfg) / (_std(s.rewards_PG, s.valid_PG, cfg.ddof) + cfg.eps)


def whitened(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """r - mean of the group, then whitened over all tokens of the step.

    (REINFORCE++-baseline, arXiv 2501.03262.) A completion counts as often as it has tokens.
    """
    centered_PG = centered(s, cfg)
    weights_PG = s.valid_PG * s.tokens_PG
    shifted_PG = centered_PG - _mean(centered_PG, weights_PG)
    std = _std(centered_PG, weights_PG, cfg.ddof)
    varies = std > 0  # not so where all tokens that count are of one completion
    return torch.where(varies, shifted_PG / (torch.where(varies, std, 1.0) + cfg.eps), 0.0)


def max_rl(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """(r - mean) / mean of the group, 0 where the mean is not positive (arXiv 2602.02710)."""
    mean_P1 = _group_mean(s)
    positive_P1 = mean_P1 > 0
    return torch.where(positive_P1, centered(s, cfg) / torch.where(positive_P1, mean_P1, 1.0), 0.0)


ADVANTAGES: dict[str, AdvantageFn] = {
    "standardized": standardized,
    "centered": centered,
    "leave_one_out": leave_one_out,
    "batch_std": batch_std,
    "whitened": whitened,
    "max_rl": max_rl,
}


def advantages(s: Scores, cfg: AdvantageConfig) -> Tensor:
    """Return advantages (P, G) by the rule that `cfg` names."""
    rewards_PG = torch.where(s.valid_PG, s.rewards_PG, 0.0)  # a NaN there must not spread
    s = Scores(rewards_PG=rewards_PG, valid_PG=s.valid_PG, tokens_PG=s.tokens_PG)
    teaches_P1 = ~flat(s)[:, None]
    return torch.where(s.valid_PG & teaches_P1, ADVANTAGES[cfg.name](s, cfg), 0.0)


def flat(s: Scores) -> Tensor:
    """Return a (P,) mask of the groups whose valid rewards are all equal, or fewer than two.

    Compared exactly: the std of equal floats need not be 0.
    """
    most_P = torch.where(s.valid_PG, s.rewards_PG, -torch.inf).amax(dim=1)
    least_P = torch.where(s.valid_PG, s.rewards_PG, torch.inf).amin(dim=1)
    return (most_P <= least_P) | (s.valid_PG.sum(dim=1) < 2)


def _group_mean(s: Scores) -> Tensor:
    count_P1 = s.valid_PG.sum(dim=1, keepdim=True).clamp(min=1)
    return (s.rewards_PG * s.valid_PG).sum(dim=1, keepdim=True) / count_P1


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _std(values: Tensor, weights: Tensor, ddof: int) -> Tensor:
    """Return the standard deviation of values that each count `weights` times."""
    squares = ((values - _mean(values, weights)).square() * weights).sum()
    return (squares / (weights.sum() - ddof).clamp(min=1)).sqrt()
