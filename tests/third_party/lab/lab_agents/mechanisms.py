"""An advantage and an objective, each a function with options of its own."""

import torch
from torch import Tensor

from grpo_agent.advantages import Scores
from grpo_agent.losses import LossInputs


def ranked(scores: Scores, *, power: float = 1.0) -> Tensor:
    """Return each member's rank in its group, from -1 (the worst) to 1, to some power."""
    higher_PG = (scores.rewards_PG[:, :, None] > scores.rewards_PG[:, None, :]).sum(dim=2)
    lower_PG = (scores.rewards_PG[:, :, None] < scores.rewards_PG[:, None, :]).sum(dim=2)
    ranks_PG = (higher_PG - lower_PG) / max(1, scores.rewards_PG.shape[1] - 1)
    return ranks_PG.sign() * ranks_PG.abs() ** power


def leashed(
    ratio_BT: Tensor, x: LossInputs, *, clip_high: float, leash: float
) -> tuple[Tensor, Tensor]:
    """Return -rho A with a quadratic penalty on (rho - 1), and where rho is beyond the clip."""
    loss_BT = -ratio_BT * x.advantages_BT + leash * (ratio_BT - 1).square()
    return loss_BT, (ratio_BT.detach() > 1 + clip_high).to(torch.float32)
