"""The advantages of a group's members, from their rewards. Each rule is one function.

A rule is `f(scores, *, option=default)`, registered as an entry point of `grpo_envs.advantages`.
The options `eps` and `ddof` come from `agent.advantage`, others from `agent.advantage.options`. The
first paragraph of a rule's docstring is the formula that `explain` prints. In formulas r is the
reward of a member, mean and std are those of its group, and n is the number of valid members.

Members whose grader failed are not valid: the statistics leave them out, and their advantage is 0.
All advantages of a zero-variance group are exactly 0: its valid rewards are equal, or fewer than
two members are valid. If turns have advantages of their own (`agent.advantage.turns`), the members
that took a turn are compared with each other: the rule gets one group for each problem and turn.

Shapes: P groups of G members with at most K turns, T tokens and N reward components. The groups are
those of a whole step, of all processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grpo_agent.mechanisms import Mechanism
from grpo_agent.reward_config import AdvantageConfig
from grpo_agent.turns import DISCOUNTED, PER_TURN, to_go
from grpo_envs.types import REWARD_TOLERANCE

Parts = Callable[[], tuple[Tensor, Tensor]]
"""Returns the components of all rewards, and their weights, both (P, G, N)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The inputs of an advantage rule."""

    rewards_PG: Tensor
    """The total reward of each member."""
    valid_PG: Tensor
    """False where the grader failed; the reward there is ignored."""
    mask_PGT: Tensor
    """True on the tokens that count in the loss."""
    parts: Parts | None = None
    """Computes `parts_PGN` and `weights_PGN` when a rule reads them; None if turns have advantages
    of their own."""

    @property
    def parts_PGN(self) -> Tensor | None:
        """The components of each reward, NaN if one does not apply or the grader failed."""
        return self.parts()[0] if self.parts else None

    @property
    def weights_PGN(self) -> Tensor | None:
        """The weight of each component in the total reward."""
        return self.parts()[1] if self.parts else None

    @property
    def tokens_PG(self) -> Tensor:
        """The number of each member's tokens that count in the loss."""
        return self.mask_PGT.sum(dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """The turns of all members; K is 1 if a whole episode has one advantage."""

    rewards_PGK: Tensor
    """Reward of each turn; 0 for a turn that the member did not take."""
    taken_PGK: Tensor
    """True where a member took the turn."""
    valid_PG: Tensor
    """False where the grader failed in any turn."""
    mask_PGT: Tensor
    """True on the tokens that count in the loss."""
    turn_PGT: Tensor
    """The number of the turn that each token belongs to, from 0."""
    parts: Parts | None = None
    """As in `Scores`."""

    @property
    def scores(self) -> Scores:
        """The inputs of a rule that compares whole episodes."""
        valid_PG = self.valid_PG & self.taken_PGK[..., 0]
        return Scores(
            rewards_PG=torch.where(valid_PG, self.rewards_PGK[..., 0], 0.0),
            valid_PG=valid_PG,
            mask_PGT=self.mask_PGT,
            parts=self.parts,
        )


def centered(s: Scores) -> Tensor:
    """Return r - mean of the group (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    return s.rewards_PG - _group_mean(s)


def standardized(s: Scores, *, eps: float, ddof: int) -> Tensor:
    """Return (r - mean) / (std + eps), both of the group (GRPO, arXiv 2402.03300, eq. 3)."""
    centered_PG = centered(s)
    degrees_P1 = (s.valid_PG.sum(dim=1, keepdim=True) - ddof).clamp(min=1)
    squares_P1 = (centered_PG.square() * s.valid_PG).sum(dim=1, keepdim=True)
    return centered_PG / ((squares_P1 / degrees_P1).sqrt() + eps)


def leave_one_out(s: Scores) -> Tensor:
    """Return n / (n - 1) (r - mean), which is r minus the mean of the other members.

    (RLOO, arXiv 2402.14740, section 2.3.)
    """
    n_P1 = s.valid_PG.sum(dim=1, keepdim=True)
    return centered(s) * n_P1 / (n_P1 - 1).clamp(min=1)


def batch_std(s: Scores, *, eps: float, ddof: int) -> Tensor:
    """Return (r - mean of the group) / (std of all rewards of the step + eps).

    (Lite-PPO, arXiv 2508.08221.)
    """
    return centered(s) / (mean_and_std(s.rewards_PG, s.valid_PG, ddof)[1] + eps)


def whitened(s: Scores, *, eps: float, ddof: int) -> Tensor:
    """Return r - mean of the group, standardised over all tokens of the step.

    (REINFORCE++-baseline, arXiv 2501.03262.) A completion counts in the step's mean and std once
    for each of its tokens in the loss.
    """
    return _standardized_over(centered(s), s.valid_PG * s.tokens_PG, eps=eps, ddof=ddof)


def max_rl(s: Scores) -> Tensor:
    """Return (r - mean) / mean of the group, and 0 if the mean is not positive.

    (MaxRL, arXiv 2602.02710.)
    """
    mean_P1 = _group_mean(s)
    positive_P1 = mean_P1 > 0
    return torch.where(positive_P1, centered(s) / torch.where(positive_P1, mean_P1, 1.0), 0.0)


def gdpo(s: Scores, *, eps: float, ddof: int) -> Tensor:
    """Return the sum over n of w_n (r_n - mean) / (std + eps), standardised over the step.

    (GDPO, arXiv 2601.05242, sections 3.1, 3.2.) r_n is a reward component and w_n its weight. The
    mean and std of a component are over the group's members that have the component; a component
    that is equal for all of them adds 0. The second mean and std are over all valid members of the
    step. A reward without components counts as one component.
    """
    own_PGN, weights_PGN = part_advantages(s, eps=eps, ddof=ddof)
    total_PG: Tensor = (own_PGN * weights_PGN).sum(dim=2)
    return _standardized_over(total_PG, s.valid_PG, eps=eps, ddof=ddof)


def part_advantages(s: Scores, *, eps: float, ddof: int) -> tuple[Tensor, Tensor]:
    """Return (r_n - mean) / (std + eps) of each component n, and the weights; both (P, G, N).

    It is 0 for a component that is equal for all members of a group; see `gdpo`.
    """
    raw_PGN, weights_PGN = s.parts_PGN, s.weights_PGN
    if raw_PGN is None or weights_PGN is None:
        raw_PGN, weights_PGN = s.rewards_PG[..., None], torch.ones_like(s.rewards_PG)[..., None]
    known_PGN = s.valid_PG[..., None] & ~raw_PGN.isnan()
    each = Scores(  # a group for each problem and part
        rewards_PG=torch.where(known_PGN, raw_PGN, 0.0).movedim(2, 1).flatten(0, 1),
        valid_PG=known_PGN.movedim(2, 1).flatten(0, 1),
        mask_PGT=s.mask_PGT[:0],
    )
    own = torch.where(flat(each)[:, None], 0.0, standardized(each, eps=eps, ddof=ddof))
    own_PGN = own.unflatten(0, (len(raw_PGN), -1)).movedim(1, 2)
    return own_PGN * known_PGN, weights_PGN


def advantages(s: Scores, rule: Mechanism) -> Tensor:
    """Return the advantages of a rule: (P, G), or (P, G, T) from a rule of single tokens.

    Raises:
        ConfigError: the rule returns something else than a tensor of one of these shapes.
    """
    s = replace(s, rewards_PG=torch.where(s.valid_PG, s.rewards_PG, 0.0))  # no NaN may spread
    value = rule(s)
    shapes = (s.rewards_PG.shape, s.mask_PGT.shape)
    if not isinstance(value, Tensor) or value.shape not in shapes:
        wanted = " or ".join(
            f"(P, G{t}) = {tuple(x)}" for t, x in zip(("", ", T"), shapes, strict=True)
        )
        raise rule.refuse(value, f"a tensor of shape {wanted}")
    value = value.detach().to(s.rewards_PG)
    counts = s.valid_PG & ~flat(s)[:, None]
    if value.ndim == s.mask_PGT.ndim:
        counts = counts[..., None] & s.mask_PGT
    return torch.where(counts, value, 0.0)


def turn_advantages(e: Episodes, rule: Mechanism, cfg: AdvantageConfig) -> Tensor:
    """Return the advantages of a rule: (P, G) if every member has one turn, else (P, G, T).

    The rule compares turn k of a member with turn k of the other members that took it: the reward
    r_k, or with `discounted` the reward-to-go. With `per_turn` the advantages of later turns are
    added: A_k + sum over l > k of discount^(l-k) A_l. If the rule gives each token an advantage,
    A_l is the mean over the tokens of turn l.
    """
    problems, _, turns = e.rewards_PGK.shape
    compared_K = list(e.rewards_PGK.unbind(2))
    if cfg.turns == DISCOUNTED:
        compared_K = to_go(compared_K, cfg.discount)
    turns_K1 = torch.arange(turns, device=e.turn_PGT.device)[:, None]
    mask_PGKT = e.mask_PGT[:, :, None] & (e.turn_PGT[:, :, None] == turns_K1)
    scores = Scores(
        rewards_PG=torch.stack(compared_K, dim=1).flatten(0, 1),
        valid_PG=(e.valid_PG[..., None] & e.taken_PGK).movedim(2, 1).flatten(0, 1),
        mask_PGT=mask_PGKT.movedim(2, 1).flatten(0, 1),
        parts=e.parts if turns == 1 else None,
    )
    value = advantages(scores, rule)
    if turns == 1:
        return value
    each_PKGT = (value if value.ndim > 2 else value[..., None]).unflatten(0, (problems, turns))
    if cfg.turns == PER_TURN:
        own_PKG = per_member(value, scores.mask_PGT).unflatten(0, (problems, turns))
        later_K = [*to_go(own_PKG.unbind(1), cfg.discount)[1:], torch.zeros_like(own_PKG[:, 0])]
        each_PKGT = each_PKGT + cfg.discount * torch.stack(later_K, dim=1)[..., None]
    each_PKGT = each_PKGT.expand(-1, -1, -1, e.turn_PGT.shape[-1])
    value_PGT = each_PKGT.gather(1, e.turn_PGT[:, None]).squeeze(1)
    return torch.where(e.mask_PGT, value_PGT, 0.0)


def per_token(value: Tensor, mask_PGT: Tensor) -> Tensor:
    """Return the advantage (B, T) of each token, from the (P, G) or (P, G, T) of `advantages`."""
    if value.ndim < mask_PGT.ndim:
        value = value[..., None].expand(mask_PGT.shape)
    return value.flatten(0, 1)


def per_member(value: Tensor, mask_PGT: Tensor) -> Tensor:
    """Return one advantage per member (P, G): the mean over its tokens that count in the loss."""
    if value.ndim < mask_PGT.ndim:
        return value
    return value.sum(dim=-1) / mask_PGT.sum(dim=-1).clamp(min=1)


def flat(s: Scores) -> Tensor:
    """Return a mask (P) of the zero-variance groups.

    Their valid rewards are equal, or fewer than two members are valid. Rewards that differ by less
    than the tolerance of `compare_rewards` are equal, because the std of equal floats can be above
    0.
    """
    most_P = torch.where(s.valid_PG, s.rewards_PG, -torch.inf).amax(dim=1)
    least_P = torch.where(s.valid_PG, s.rewards_PG, torch.inf).amin(dim=1)
    equal_P = torch.isclose(most_P, least_P, rtol=REWARD_TOLERANCE, atol=REWARD_TOLERANCE)
    return equal_P | (s.valid_PG.sum(dim=1) < 2)


def _group_mean(s: Scores) -> Tensor:
    count_P1 = s.valid_PG.sum(dim=1, keepdim=True).clamp(min=1)
    return (s.rewards_PG * s.valid_PG).sum(dim=1, keepdim=True) / count_P1


def _standardized_over(values_PG: Tensor, weights_PG: Tensor, *, eps: float, ddof: int) -> Tensor:
    """Return (value - mean) / (std + eps) (P, G), with mean and std weighted by `weights_PG`."""
    mean, std = mean_and_std(values_PG, weights_PG, ddof)
    shifted_PG = values_PG - mean
    varies = std > 0  # std is 0 if only one member has a weight
    return torch.where(varies, shifted_PG / (torch.where(varies, std, 1.0) + eps), 0.0)


def mean_and_std(values: Tensor, weights: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """Return the weighted mean and standard deviation, two scalars."""
    mean = (values * weights).sum() / weights.sum().clamp(min=1)
    squares = ((values - mean).square() * weights).sum()
    return mean, (squares / (weights.sum() - ddof).clamp(min=1)).sqrt()
