"""The mathematics of the agent in plain loops, from the papers; the fast code must equal it.

Nothing is vectorised and nothing is shared with agents/grpo_agent but its data classes. Numbers of
the loss are 0-d float64 tensors, only so that autograd finds their gradient; those of advantages
are Python floats. Formulas are written in another form than the code's wherever there is one.
"""

import math
from dataclasses import dataclass, replace
from math import fsum
from statistics import fmean, pstdev, stdev

import torch
from torch import Tensor

from grpo_agent.config import AdvantageConfig, LossConfig
from grpo_agent.loss_options import options_of
from grpo_agent.losses import LossInputs

_MOST, _LEAST = math.exp(20), math.exp(-20)


@dataclass(frozen=True, kw_only=True)
class _Token:
    """What an objective may look at: a token, and the log ratios of its completion by place."""

    logp: Tensor
    advantage: float
    advantages: list[float]
    """Of all places of its row."""
    log_ratios: dict[int, Tensor]
    sampled_ratios: dict[int, Tensor]
    sampled: float
    singled: bool
    t: int


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
            given = _Token(
                logp=logps[i][t],
                advantage=advantage,
                advantages=x.advantages_BT[i].tolist(),
                log_ratios={u: logps[i][u] - old[i][u] for u in tokens},
                sampled_ratios={u: logps[i][u] - sampled[i][u] for u in tokens},
                sampled=sampled[i][t].item(),
                singled=x.singled_BT is not None and bool(x.singled_BT[i][t]),
                t=t,
            )
            loss, is_clipped = _objective(rho, given, cfg)
            if x.forks_BT is not None and not x.forks_BT[i][t]:
                loss = loss * 0
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


def _objective(rho: Tensor, x: _Token, cfg: LossConfig) -> tuple[Tensor, bool]:
    """Return what is minimised at a token, and whether a bound decides it."""
    value, advantage, logp = rho.item(), x.advantage, x.logp
    if cfg.objective in _OTHERS:
        return _OTHERS[cfg.objective](rho, x, cfg)
    if cfg.objective == "cispo":  # the weight is a float: a stopped gradient
        cap = options_of(cfg)["cap"]
        return -min(value, cap) * advantage * logp, bool(value > cap and advantage)
    if cfg.objective == "sapo":
        tau = options_of(cfg)["tau_positive" if advantage > 0 else "tau_negative"]
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


def _clip_cov(rho: Tensor, x: _Token, cfg: LossConfig) -> tuple[Tensor, bool]:
    """Clip-Cov: PPO's bound, and nothing at a token that is singled out."""
    if x.singled:
        return x.logp * 0, True
    return _objective(rho, x, replace(cfg, objective="clipped"))


def _kl_cov(rho: Tensor, x: _Token, cfg: LossConfig) -> tuple[Tensor, bool]:
    """KL-Cov: no bound, and a penalty at a token that is singled out."""
    gap = x.log_ratios[x.t]
    sign = (gap.item() > 0) - (gap.item() < 0)
    penalty = options_of(cfg)["penalty"] * sign * gap if x.singled else 0.0
    return -rho * x.advantage + penalty, x.singled


def _gmpo(rho: Tensor, x: _Token, cfg: LossConfig) -> tuple[Tensor, bool]:
    """GMPO: the L-th root of the product of ratios that are clipped one by one."""
    product, bounded = torch.ones((), dtype=torch.float64), False
    for u, gap in x.log_ratios.items():
        kept = gap
        if x.advantages[u] > 0 and gap.item() > cfg.clip_high:
            kept = torch.tensor(cfg.clip_high, dtype=torch.float64)
        if x.advantages[u] < 0 and gap.item() < -cfg.clip_low:
            kept = torch.tensor(-cfg.clip_low, dtype=torch.float64)
        bounded = bounded or (u == x.t and kept is not gap)
        product = product * torch.exp(kept / len(x.log_ratios))
    return -_limited(product) * x.advantage, bounded


def _dppo(rho: Tensor, x: _Token, cfg: LossConfig) -> tuple[Tensor, bool]:
    """DPPO: REINFORCE with the ratio to the sampler, unless the token left the trust region."""
    pi, mu = math.exp(x.logp.item()), math.exp(x.sampled)
    divergence = abs(pi - mu)
    if cfg.objective == "dppo_kl":
        divergence = mu * math.log(mu / pi) + (1 - mu) * math.log((1 - mu) / (1 - pi))
    up = x.advantage > 0 and pi > mu and divergence > cfg.clip_high
    down = x.advantage < 0 and pi < mu and divergence > cfg.clip_low
    if up or down:
        return x.logp * 0, True
    return -_limited(torch.exp(x.sampled_ratios[x.t])) * x.advantage, False


def _vespo(rho: Tensor, x: _Token, cfg: LossConfig) -> tuple[Tensor, bool]:
    """VESPO: REINFORCE, weighted by a float of the whole completion."""
    weight = math.exp(min(max(sum(g.item() for g in x.sampled_ratios.values()), -20), 20))
    sign = "negative" if x.advantage < 0 else "positive"
    power, decay = (options_of(cfg)[f"{name}_{sign}"] for name in ("k", "lambda"))
    phi = weight**power * math.exp(decay) * math.exp(-decay * weight)
    return -phi * x.advantage * x.logp, False


_OTHERS = {
    "clip_cov": _clip_cov,
    "kl_cov": _kl_cov,
    "gmpo": _gmpo,
    "dppo_tv": _dppo,
    "dppo_kl": _dppo,
    "vespo": _vespo,
}


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
    if name == "sequence_sum":
        return total / len(losses)
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
    if cfg.name == "gdpo":
        return oracle_gdpo(_only_part(rewards, valid), cfg)
    return _of_totals(rewards, valid, tokens, cfg)


def _of_totals(
    rewards: list[list[float]],
    valid: list[list[bool]],
    tokens: list[list[int]],
    cfg: AdvantageConfig,
) -> list[list[float]]:
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


def _only_part(
    rewards: list[list[float]], valid: list[list[bool]]
) -> list[list[dict[str, float] | None]]:
    pairs = [zip(*pair, strict=True) for pair in zip(rewards, valid, strict=True)]
    return [[{"total": r} if v else None for r, v in pair] for pair in pairs]


def _own(reward: float, group: list[float], cfg: AdvantageConfig) -> float:
    """Return a reward, or a part of one, standardised by itself within its group."""
    if len(group) < 2 or min(group) == max(group):
        return 0.0
    return (reward - fmean(group)) / (_spread(group, cfg) + cfg.eps)


def oracle_gdpo(
    parts: list[list[dict[str, float] | None]],
    cfg: AdvantageConfig,
    weights: dict[str, float] | None = None,
) -> list[list[float]]:
    """Return GDPO's advantages (arXiv 2601.05242) of groups whose totals differ.

    A member is its parts by name, or None where its grader failed. A weight is 1 unless named.
    """
    sums: list[list[float]] = []
    for group in parts:
        sums.append([])
        for member in group:
            total = 0.0
            for name, value in (member or {}).items():
                others = [m[name] for m in group if m is not None and name in m]
                total += (weights or {}).get(name, 1.0) * _own(value, others, cfg)
            sums[-1].append(total)
    known = [
        s
        for row, group in zip(sums, parts, strict=True)
        for s, member in zip(row, group, strict=True)
        if member is not None
    ]
    spread = _spread(known, cfg) + cfg.eps
    return [
        [0.0 if m is None else (s - fmean(known)) / spread for s, m in zip(row, group, strict=True)]
        for row, group in zip(sums, parts, strict=True)
    ]


def oracle_covariances(
    logps: list[list[float]], advantages: list[list[float]], mask: list[list[bool]]
) -> dict[tuple[int, int], float]:
    """Return (log pi - mean)(A - mean) of each token of the mask (arXiv 2505.22617), by place."""
    places = [(i, t) for i, row in enumerate(mask) for t, counts in enumerate(row) if counts]
    lp_mean = fmean(logps[i][t] for i, t in places)
    a_mean = fmean(advantages[i][t] for i, t in places)
    return {(i, t): (logps[i][t] - lp_mean) * (advantages[i][t] - a_mean) for i, t in places}


def oracle_highest(values: dict[tuple[int, int], float], share: float) -> set[tuple[int, int]]:
    """Return the places of the largest values: a share of them, at least one, ties all in."""
    count = max(1, math.floor(share * len(values) + 1e-9))
    least = sorted(values.values(), reverse=True)[count - 1]
    return {place for place, value in values.items() if value >= least}


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
