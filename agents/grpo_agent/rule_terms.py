"""The intermediate values of the advantage rules that use statistics of the whole step.

`explain` prints them. The other rules need none: the mean and std follow from a group's rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from grpo_agent.advantages import Episodes, Scores, centered, mean_and_std, part_advantages
from grpo_agent.reward_config import AdvantageConfig
from grpo_agent.turns import EPISODE

Terms = tuple[dict[str, Tensor], Tensor, Tensor]
"""Values of each member (P, G) by title; the value of which the step's mean and std are taken, and
its weight in them."""


def rule_terms(
    e: Episodes, cfg: AdvantageConfig, parts: Sequence[str]
) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
    """Return values of each completion (B), and of the step, by title.

    Args:
        e: The members that were compared.
        cfg: The rule. Both results are empty for a rule of another package.
        parts: The names of the reward components.
    """
    terms = _terms(e.scores, cfg, parts) if cfg.turns == EPISODE else None
    if terms is None:
        return {}, {}
    of_members, compared_PG, counts_PG = terms
    mean, std = mean_and_std(compared_PG, counts_PG, cfg.ddof)
    name = [*of_members][-1] if of_members else "r"
    over = "tokens" if cfg.name == "whitened" else "completions"
    of_step = {f"mean of {name} over {over}": mean.item(), f"std of {name}": std.item()}
    return {key: value.flatten() for key, value in of_members.items()}, of_step


def _terms(s: Scores, cfg: AdvantageConfig, parts: Sequence[str]) -> Terms | None:
    if cfg.name == "batch_std":
        return {}, s.rewards_PG, s.valid_PG
    if cfg.name == "whitened":
        return {"r - mean": centered(s)}, centered(s), s.valid_PG * s.tokens_PG
    if cfg.name == "gdpo":
        own_PGN, weights_PGN = part_advantages(s, eps=cfg.eps, ddof=cfg.ddof)
        total_PG = (own_PGN * weights_PGN).sum(dim=2)
        columns = {f"{name} compared": own_PGN[..., n] for n, name in enumerate(parts)}
        return {**columns, "weighted sum": total_PG}, total_PG, s.valid_PG
    return None
