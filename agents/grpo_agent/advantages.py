"""Rewards of a group -> advantages of its members. One function per rule; presets name papers.

Members whose grader failed are not valid: they leave the statistics and get advantage 0. A flat
group (all valid rewards equal) teaches nothing and gets exact zeros, as does a group with fewer
than two valid members.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from grpo_agent.config import AdvantageConfig

AdvantageFn = Callable[[Tensor, Tensor, AdvantageConfig], Tensor]


def centered(rewards_PG: Tensor, valid_PG: Tensor, cfg: AdvantageConfig) -> Tensor:
    """Reward minus its group's mean (Dr. GRPO, arXiv 2503.20783)."""
    return rewards_PG - _mean(rewards_PG, valid_PG)


def standardized(rewards_PG: Tensor, valid_PG: Tensor, cfg: AdvantageConfig) -> Tensor:
    """`centered` over the group's standard deviation + eps (GRPO, arXiv 2402.03300, eq. 3)."""
    centered_PG = centered(rewards_PG, valid_PG, cfg)
    degrees_P1 = (valid_PG.sum(dim=1, keepdim=True) - cfg.ddof).clamp(min=1)
    squares_P1 = (centered_PG.square() * valid_PG).sum(dim=1, keepdim=True)
    return centered_PG / ((squares_P1 / degrees_P1).sqrt() + cfg.eps)


ADVANTAGES: dict[str, AdvantageFn] = {"standardized": standardized, "centered": centered}


def advantages(rewards_PG: Tensor, valid_PG: Tensor, cfg: AdvantageConfig) -> Tensor:
    """Return advantages (P, G) by the rule that `cfg` names.

    Args:
        rewards_PG: Total reward of each member.
        valid_PG: False where the grader failed; the reward there is ignored.
        cfg: Rule and its numbers.
    """
    rewards_PG = torch.where(valid_PG, rewards_PG, 0.0)
    teaches_P1 = ~flat(rewards_PG, valid_PG)[:, None]
    advantages_PG = ADVANTAGES[cfg.name](rewards_PG, valid_PG, cfg)
    return torch.where(valid_PG & teaches_P1, advantages_PG, 0.0)


def flat(rewards_PG: Tensor, valid_PG: Tensor) -> Tensor:
    """Return a (P,) mask of the groups whose valid rewards are all equal, or fewer than two.

    Compared exactly: the std of equal floats need not be 0.
    """
    most_P = torch.where(valid_PG, rewards_PG, -torch.inf).amax(dim=1)
    least_P = torch.where(valid_PG, rewards_PG, torch.inf).amin(dim=1)
    return (most_P <= least_P) | (valid_PG.sum(dim=1) < 2)


def _mean(rewards_PG: Tensor, valid_PG: Tensor) -> Tensor:
    count_P1 = valid_PG.sum(dim=1, keepdim=True).clamp(min=1)
    return (rewards_PG * valid_PG).sum(dim=1, keepdim=True) / count_P1
