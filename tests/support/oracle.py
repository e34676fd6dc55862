"""The mathematics of the agent in plain loops, from the papers: what the fast code must equal.

Nothing is vectorised and nothing is shared with agents/grpo_agent but its data classes. Numbers of
the loss are 0-d float64 tensors, only so that autograd finds their gradient; those of advantages
are Python floats. Formulas are written in another form than the code's wherever there is one.
"""

import math
from dataclasses import dataclass
from math import fsum
from statistics import fmean, pstdev, stdev

import torch
from torch import Tensor

from grpo_agent.config import AdvantageConfig, LossConfig
from grpo_agent.losses import LossInputs

_MOST, _LEAST = math.exp(20), math.exp(-20)


@dataclass(frozen=True, kw_only=True)
class OracleLoss:
    """The loss of a whole step, and what it logs: one number for each sampled token, in order."""

    total: Tensor
    clipped: list[float]
    kl: list[float]
    cut: list[float]
    """1 where the correction's weight is not the ratio to the sampler."""


def oracle_loss(x: LossInputs, cfg: LossConfig, max_tokens: int) -> OracleLoss:
    """Return the loss of all rows, which are the whole step, without a look at the weights."""
    logps, entropy = _numbers(x.logps_BT), _numbers(x.entropy_BT)
    old = _numbers(x.old_logps_BT)
    ref = None if x.ref_logps_BT is None else _numbers(x.ref_logps_BT)
    losses: list[list[Tensor]] = []
    sampled = _numbers(x.sampled_logps_BT)
    clipped: list[float] = []
    cut: list[float] = []
    kls: list[float] = []
    for i, mask in enumerate(x.mask_BT.tolist()):
        tokens = [t for t in range(len(mask)) if mask[t]]
        quotients = {t: torch.exp(logps[i][t]) / torch.exp(old[i][t]) for t in tokens}
        row: list[Tensor] = []
        for t in tokens:
            rho = _importance(quotients, t, cfg.ratio)
            advantage = x.advantages_BT[i][t].item()
            loss, is_clipped = _objective(rho, advantage, logps[i][t], cfg)
            weight, is_cut = _correction(
                [(old[i][u] - sampled[i][u]).item() for u in tokens], tokens.index(t), cfg
            )
            loss = loss * weight
            cut.append(float(is_cut))
            clipped.append(float(is_clipped))
            if ref is not None:
                to_ref = _limited(torch.exp(ref[i][t]) / torch.exp(logps[i][t]))
                kls.append((to_ref - torch.log(to_ref) - 1).item())
                if cfg.kl_in == "loss":
                    loss = loss + cfg.beta * _kl(to_ref, _limited(quotients[t]), cfg.kl)
            row.append(loss - cfg.entropy * entropy[i][t])
        losses.append(row)
    total = _aggregate(losses, cfg.aggregate, max_tokens)
    return OracleLoss(total=total, clipped=clipped, kl=kls, cut=cut)


def _correction(gaps: list[float], at: int, cfg: LossConfig) -> tuple[float, bool]:
    """Return the weight of a token, from the log ratios to the sampler of its completion."""
    if cfg.correction == "none":
        return 1.0, False
    exponent = sum(gaps) if cfg.correction == "sequence_mask" else gaps[at]
    ratio = math.e ** min(max(exponent, -20.0), 20.0)
    if cfg.correction == "truncate":
        return (cfg.correction_cap, True) if ratio > cfg.correction_cap else (ratio, False)
    kept = 1 / cfg.correction_cap <= ratio <= cfg.correction_cap
    return (ratio, False) if kept else (0.0, True)


def _importance(quotients: dict[int, Tensor], t: int, name: str) -> Tensor:
    if name == "token":
        return _limited(quotients[t])
    product = torch.ones((), dtype=torch.float64)
    for quotient in quotients.values():
        product = product * quotient
    if name == "sequence":  # the geometric mean (GSPO, eq. 7)
        product = product ** (1 / len(quotients))
    return _limited(product)


def _limited(quotient: Tensor) -> Tensor:
    """exp(clamp(log q, -20, 20)): a constant, hence without gradient, beyond either end."""
    if quotient.item() > _MOST:
        return torch.tensor(_MOST, dtype=torch.float64)
    if quotient.item() < _LEAST:
        return torch.tensor(_LEAST, dtype=torch.float64)
    return quotient


def _objective(rho: Tensor, advantage: float, logp: Tensor, cfg: LossConfig) -> tuple[Tensor, bool]:
    """Return what is minimised at a token, and whether a bound decides it."""
    value = rho.item()
    if cfg.objective == "cispo":  # the weight is a float: a stopped gradient
        return -min(value, cfg.cispo_cap) * advantage * logp, bool(
            value > cfg.cispo_cap and advantage
        )
    if cfg.objective == "sapo":
        tau = cfg.sapo_tau_positive if advantage > 0 else cfg.sapo_tau_negative
        return -(4 / tau) / (1 + torch.exp(-tau * (rho - 1))) * advantage, False
    # PPO's bound case by case: the ratio stops counting where moving on would be rewarded.
    bound = value
    if advantage > 0:
        bound = min(value, 1 + cfg.clip_high)
    elif advantage < 0:
        bound = max(value, 1 - cfg.clip_low)
        if cfg.dual_clip is not None:
            bound = min(bound, cfg.dual_clip)
    if bound == value:
        return -rho * advantage, False
    return torch.tensor(-bound * advantage, dtype=torch.float64), True


def _kl(to_ref: Tensor, rho: Tensor, name: str) -> Tensor:
    """Return the penalty from pi_ref / pi and pi / pi_old."""
    if name == "k2":
        return torch.log(to_ref) ** 2 / 2
    k3 = to_ref - torch.log(to_ref) - 1
    return rho * k3 if name == "k3_ratio" else k3


def _aggregate(losses: list[list[Tensor]], name: str, max_tokens: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    if name == "sequence_mean":
        for row in losses:
            mean = torch.zeros((), dtype=torch.float64)
            for loss in row:
                mean = mean + loss / len(row)
            total = total + mean
        return total / len(losses)
    for row in losses:
        for loss in row:
            total = total + loss
    if name == "token_mean":
        return total / sum(len(row) for row in losses)
    return total / len(losses) / max_tokens


def _numbers(values_BT: Tensor) -> list[tuple[Tensor, ...]]:
    return [row_T.unbind() for row_T in values_BT.unbind()]


def oracle_advantages(
    rewards: list[list[float]],
    valid: list[list[bool]],
    tokens: list[list[int]],
    cfg: AdvantageConfig,
) -> list[list[float]]:
    """Return the advantage of each member of each group."""
    kept = [
        [r for r, v in zip(*pair, strict=True) if v] for pair in zip(rewards, valid, strict=True)
    ]
    every_reward = [r for group in kept for r in group]
    every_token = [  # of every sampled token the centred reward of its completion
        r - fmean(group)
        for group, row, valid_row, counts in zip(kept, rewards, valid, tokens, strict=True)
        for r, v, count in zip(row, valid_row, counts, strict=True)
        if v
        for _ in range(count)
    ]
    result: list[list[float]] = []
    for group, row, valid_row in zip(kept, rewards, valid, strict=True):
        result.append([0.0] * len(row))
        if len(group) < 2 or min(group) == max(group):
            continue
        mean = fmean(group)
        for i, reward in enumerate(row):
            if not valid_row[i]:
                continue
            if cfg.name == "standardized":
                advantage = (reward - mean) / (_spread(group, cfg) + cfg.eps)
            elif cfg.name == "centered":
                advantage = reward - mean
            elif cfg.name == "leave_one_out":
                others = [r for j, r in enumerate(row) if j != i and valid_row[j]]
                advantage = reward - fmean(others)
            elif cfg.name == "batch_std":
                advantage = (reward - mean) / (_spread(every_reward, cfg) + cfg.eps)
            elif cfg.name == "whitened":
                shifted = reward - mean - fmean(every_token)
                advantage = shifted / (_spread(every_token, cfg) + cfg.eps)
            else:  # max_rl
                advantage = reward / mean - 1 if mean > 0 else 0.0
            result[-1][i] = advantage
    return result


def oracle_turn_advantages(
    rewards: list[list[list[float]]],
    valid: list[list[bool]],
    tokens: list[list[list[int]]],
    cfg: AdvantageConfig,
) -> list[list[list[float]]]:
    """Return the advantage of each turn of each member of each group.

    A turn is compared with the same turn of those members alone that took it.
    """
    own: list[list[list[float]]] = [[[0.0] * len(m) for m in group] for group in rewards]
    places = [  # of each comparison the problem, the turn, and who took it
        (p, k, [i for i, member in enumerate(group) if len(member) > k])
        for p, group in enumerate(rewards)
        for k in range(max(map(len, group)))
    ]
    compared = [
        [
            rewards[p][i][k]
            if cfg.turns == "per_turn"
            else fsum(cfg.discount**n * r for n, r in enumerate(rewards[p][i][k:]))
            for i in who
        ]
        for p, k, who in places
    ]
    found = oracle_advantages(
        compared,
        [[valid[p][i] for i in who] for p, _, who in places],
        [[tokens[p][i][k] for i in who] for p, k, who in places],
        cfg,
    )
    for (p, k, who), row in zip(places, found, strict=True):
        for i, advantage in zip(who, row, strict=True):
            own[p][i][k] = advantage
    if cfg.turns == "discounted":
        return own
    return [
        [
            [fsum(cfg.discount**n * a for n, a in enumerate(m[k:])) for k in range(len(m))]
            for m in group
        ]
        for group in own
    ]


def _spread(values: list[float], cfg: AdvantageConfig) -> float:
    return stdev(values) if cfg.ddof else pstdev(values)


def oracle_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Return the advantage of each token: the sum of arXiv 1506.02438, eq. 16, as it is written."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * w - v for r, v, w in zip(rewards, values, after, strict=True)]
    return [
        math.fsum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
        for t in range(len(deltas))
    ]


@dataclass(frozen=True, kw_only=True)
class OracleValue:
    """The loss of one value, its derivative, and whether the clip decides."""

    loss: float
    gradient: float
    clipped: bool


def oracle_value_loss(value: float, old: float, target: float, clip: float | None) -> OracleValue:
    """Return PPO's value loss case by case (arXiv 2005.12729, eq. 3)."""
    free = (value - target) ** 2 / 2
    if clip is None or abs(value - old) <= clip:
        return OracleValue(loss=free, gradient=value - target, clipped=False)
    held = ((old + clip if value > old else old - clip) - target) ** 2 / 2
    if held > free:  # it has moved by more than the clip towards the target: nothing more to gain
        return OracleValue(loss=held, gradient=0.0, clipped=True)
    return OracleValue(loss=free, gradient=value - target, clipped=False)
