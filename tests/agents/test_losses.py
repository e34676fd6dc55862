"""The loss compared with numbers by hand, and every combination with tests/support/oracle.py."""

import dataclasses
import itertools
import math
import random
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_agent import losses
from grpo_agent.config import AGGREGATES, RATIOS, LossConfig
from grpo_agent.loss_options import OFF_POLICY, OWN_RATIO
from grpo_agent.losses import LossInputs, StepSize, token_weights
from grpo_agent.mechanisms import OBJECTIVE, Mechanism, resolve
from grpo_envs.errors import ConfigError
from tests.support.oracle import oracle_loss

Rows = list[list[float]]
LN2, LN3 = math.log(2), math.log(3)
E20 = math.exp(20)
E_2, E_3 = math.exp(-2), math.exp(-3)
MAX_TOKENS = 8


def policy_loss(x: LossInputs, cfg: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss with the objective that `cfg` names."""
    return losses.policy_loss(x, cfg, objective(repr(cfg), cfg))


_OBJECTIVES: dict[str, Mechanism] = {}


def objective(key: str, cfg: LossConfig) -> Mechanism:
    """Cache the objective of a configuration, because a thousand tests resolve one."""
    if key not in _OBJECTIVES:
        _OBJECTIVES[key] = resolve(OBJECTIVE, cfg)
    return _OBJECTIVES[key]


def inputs(
    logps: Rows,
    old: Rows,
    advantages: list[float] | Rows,
    *,
    ref: Rows | None = None,
    entropy: Rows | None = None,
    mask: list[list[int]] | None = None,
    cfg: LossConfig | None = None,
    dtype: torch.dtype = torch.float64,
) -> LossInputs:
    """Return rows that make a whole optimiser step."""
    logps_BT = torch.tensor(logps, dtype=dtype, requires_grad=True)
    mask_BT = torch.tensor(mask or [[1] * len(row) for row in logps], dtype=torch.bool)
    size = StepSize(completions=len(logps), tokens=float(mask_BT.sum()), max_tokens=MAX_TOKENS)
    entropy = entropy or [[0.0] * len(row) for row in logps]
    a_BT = torch.tensor(advantages, dtype=dtype)
    cfg = cfg or LossConfig()
    sampled_BT = torch.full_like(logps_BT, torch.nan)  # only these objectives may look at it
    if cfg.objective in OFF_POLICY:
        sampled_BT = torch.where(mask_BT, torch.tensor(old, dtype=dtype), torch.nan)
    thirds_BT = torch.arange(mask_BT.numel()).view_as(mask_BT) % 3 == 0
    return LossInputs(
        logps_BT=logps_BT,
        entropy_BT=torch.tensor(entropy, dtype=dtype, requires_grad=True),
        old_logps_BT=torch.tensor(old, dtype=dtype),
        sampled_logps_BT=sampled_BT,
        ref_logps_BT=None if ref is None else torch.tensor(ref, dtype=dtype),
        advantages_BT=a_BT if a_BT.ndim == 2 else a_BT[:, None].expand_as(logps_BT),
        mask_BT=mask_BT,
        weights_BT=token_weights(mask_BT.to(dtype), size, cfg),
        singled_BT=thirds_BT if cfg.objective.endswith("_cov") else None,
    )


def of_ratios(ratios: Rows, advantages: list[float], cfg: LossConfig, **more: Any) -> LossInputs:
    """Return tokens with log-probability -1 and these ratios to the policy before the step."""
    logps = [[-1.0] * len(row) for row in ratios]
    old = [[-1.0 - math.log(ratio) for ratio in row] for row in ratios]
    return inputs(logps, old, advantages, cfg=cfg, **more)


def close(got: Tensor, expected: Any) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64))


def gradients(x: LossInputs, cfg: LossConfig) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the loss and its gradients by log-probabilities, and by entropy if there is one."""
    loss, _ = policy_loss(x, cfg)
    logps_BT, entropy_BT = torch.autograd.grad(loss, (x.logps_BT, x.entropy_BT), allow_unused=True)
    assert logps_BT is not None
    return loss.detach(), logps_BT, entropy_BT


# --- by hand. The gradient of a ratio by its log-probability is the ratio itself.


@pytest.mark.parametrize(
    ("cfg", "ratio", "advantage", "loss", "gradient", "is_clipped"),
    [
        pytest.param({}, 1.0, 2.0, -2.0, -2.0, 0, id="on-policy is minus the advantage"),
        pytest.param({}, 1.5, 1.0, -1.2, 0.0, 1, id="good action, moved up too far: clipped"),
        pytest.param({}, 0.5, 1.0, -0.5, -0.5, 0, id="good action, moved down: not clipped"),
        pytest.param({}, 1.5, -1.0, 1.5, 1.5, 0, id="bad action, moved up: not clipped"),
        pytest.param({}, 0.5, -1.0, 0.8, 0.0, 1, id="bad action, moved down too far: clipped"),
        pytest.param({}, 1.1, 1.0, -1.1, -1.1, 0, id="good action inside the range"),
        pytest.param({}, 0.9, -1.0, 0.9, 0.9, 0, id="bad action inside the range"),
        pytest.param({}, 1.5, 0.0, 0.0, 0.0, 0, id="no advantage: nothing to clip above"),
        pytest.param({}, 0.5, 0.0, 0.0, 0.0, 0, id="no advantage: nothing to clip below"),
        pytest.param({"clip_high": 0.28}, 1.5, 2.0, -2.56, 0.0, 1, id="clip_high is the upper"),
        pytest.param({"clip_high": 0.28}, 0.5, -1.0, 0.8, 0.0, 1, id="clip_high, not the lower"),
        pytest.param({"clip_low": 0.1}, 0.5, -1.0, 0.9, 0.0, 1, id="clip_low is the lower"),
        pytest.param({"clip_low": 0.1}, 1.5, 1.0, -1.2, 0.0, 1, id="clip_low, not the upper"),
        pytest.param({"dual_clip": 3.0}, 4.0, -2.0, 6.0, 0.0, 1, id="dual clip ends a bad action"),
        pytest.param({"dual_clip": 3.0}, 2.5, -2.0, 5.0, 5.0, 0, id="dual clip not reached"),
        pytest.param({"dual_clip": 3.0}, 4.0, 1.0, -1.2, 0.0, 1, id="dual clip, good action"),
        pytest.param({"dual_clip": 3.0}, 0.5, 1.0, -0.5, -0.5, 0, id="dual clip, good, down"),
        pytest.param({"dual_clip": 3.0}, 0.5, -2.0, 1.6, 0.0, 1, id="dual clip, bad, down"),
        pytest.param({"dual_clip": 3.0}, 4.0, 0.0, 0.0, 0.0, 0, id="dual clip, no advantage"),
        # cispo: -min(rho, 5) A lp with lp = -1; every token keeps its gradient -min(rho, 5) A
        pytest.param({"objective": "cispo"}, 1.5, 2.0, 3.0, -3.0, 0, id="cispo, moved up"),
        pytest.param({"objective": "cispo"}, 0.5, 2.0, 1.0, -1.0, 0, id="cispo, moved down"),
        pytest.param({"objective": "cispo"}, 0.1, -2.0, -0.2, 0.2, 0, id="cispo, bad, far down"),
        pytest.param({"objective": "cispo"}, 6.0, 2.0, 10.0, -10.0, 1, id="cispo, capped"),
        pytest.param({"objective": "cispo"}, 6.0, -2.0, -10.0, 10.0, 1, id="cispo, bad, capped"),
        pytest.param({"objective": "cispo"}, 6.0, 0.0, 0.0, 0.0, 0, id="cispo, no advantage"),
        pytest.param(
            {"objective": "cispo", "options": {"cap": 2.0}}, 4.0, 1.0, 2.0, -2.0, 1,
            id="cap is absolute",
        ),
        # sapo: -(4/tau) s A with s = sigmoid(tau (rho - 1)); gradient -4 s (1 - s) rho A
        pytest.param({"objective": "sapo"}, 1.0, 2.0, -4.0, -2.0, 0, id="sapo on-policy, good"),
        pytest.param(
            {"objective": "sapo"}, 1.0, -1.0, 2 / 1.05, 1.0, 0, id="sapo on-policy, bad: tau 1.05"
        ),
        pytest.param({"objective": "sapo"}, 1.0, 0.0, 0.0, 0.0, 0, id="sapo, no advantage"),
        pytest.param(
            {"objective": "sapo"}, 1 + LN3, 1.0, -3.0, -0.75 * (1 + LN3), 0, id="sapo: s = 3/4"
        ),
        pytest.param(
            {"objective": "sapo", "options": {"tau_positive": 2.0}},
            1 + LN3 / 2, 1.0, -1.5, -0.75 * (1 + LN3 / 2), 0,
            id="sapo, tau of a good action: s = 3/4",
        ),
        pytest.param(
            {"objective": "sapo", "options": {"tau_negative": 2.0}},
            1 + LN3 / 2, -1.0, 1.5, 0.75 * (1 + LN3 / 2), 0,
            id="sapo, tau of a bad action: s = 3/4",
        ),
        # gmpo: of one token the clip of the ratio's logarithm, on the side of the advantage
        pytest.param({"objective": "gmpo"}, 1.1, 2.0, -2.2, -2.2, 0, id="gmpo inside the range"),
        pytest.param({"objective": "gmpo", "clip_high": LN2}, 3.0, 1.0, -2.0, 0.0, 1, id="gmpo up"),
        pytest.param({"objective": "gmpo", "clip_low": LN2}, 0.1, -1.0, 0.5, 0.0, 1, id="gmpo dn"),
        pytest.param({"objective": "gmpo"}, 3.0, -1.0, 3.0, 3.0, 0, id="gmpo, bad, moved up"),
        # the first token is singled out
        pytest.param({"objective": "clip_cov"}, 1.1, 2.0, 0.0, 0.0, 1, id="clip_cov: no gradient"),
        pytest.param(
            {"objective": "kl_cov", "options": {"penalty": 0.5}}, 3.0, 1.0, -3 + LN3 / 2, -2.5, 1,
            id="kl_cov, up",
        ),
        pytest.param(
            {"objective": "kl_cov", "options": {"penalty": 0.5}}, 0.5, 1.0, -0.5 + LN2 / 2, -1.0, 1,
            id="kl_cov, down: the penalty draws back",
        ),
        # pi is 1/e; mu is that over the ratio. vespo with lp = -1: phi(2) = 4 exp(-3), 8 exp(-2)
        pytest.param(
            {"objective": "dppo_tv", "clip_high": 0.19}, 2.0, 1.0, -2.0, -2.0, 0, id="dppo_tv, near"
        ),
        pytest.param(
            {"objective": "dppo_tv", "clip_high": 0.18}, 2.0, 1.0, 0.0, 0.0, 1, id="dppo_tv, far"
        ),
        pytest.param(
            {"objective": "dppo_tv", "clip_high": 0.18}, 2.0, -1.0, 2.0, 2.0, 0, id="dppo_tv, back"
        ),
        pytest.param(
            {"objective": "dppo_tv", "clip_low": 0.36}, 0.5, -1.0, 0.0, 0.0, 1,
            id="dppo_tv, down by 1/e = 0.368",
        ),
        pytest.param({"objective": "vespo"}, 1.0, 2.0, 2.0, -2.0, 0, id="vespo on-policy"),
        pytest.param(
            {"objective": "vespo"}, 2.0, 1.0, 4 * E_3, -4 * E_3, 0, id="vespo, good"
        ),
        pytest.param(
            {"objective": "vespo"}, 2.0, -1.0, -8 * E_2, 8 * E_2, 0, id="vespo, bad"
        ),
        # log ratios end at +-20: what is beyond is a constant
        pytest.param({}, math.exp(30), -1.0, E20, 0.0, 0, id="a log ratio of 30 counts as 20"),
        pytest.param({}, math.exp(-30), 1.0, -1 / E20, 0.0, 0, id="one of -30 counts as -20"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ratio_name", RATIOS)
def test_one_token(
    cfg: dict[str, Any],
    ratio_name: str,
    ratio: float,
    advantage: float,
    loss: float,
    gradient: float,
    is_clipped: int,
) -> None:
    # Of a completion of one token all three ratios are the same.
    if cfg.get("objective") in OWN_RATIO and ratio_name != "token":
        with pytest.raises(ConfigError, match="which computes its own ratio"):
            LossConfig(ratio=ratio_name, **cfg)
        return
    config = LossConfig(ratio=ratio_name, **cfg)
    x = of_ratios([[ratio]], [advantage], config)
    got, by_logps_BT, by_entropy_BT = gradients(x, config)
    close(got, loss)
    close(by_logps_BT, [[gradient]])
    assert by_entropy_BT is None
    assert policy_loss(x, config)[1]["loss/clipped"].tolist() == [[is_clipped]]


@pytest.mark.parametrize(
    ("cfg", "ratios", "advantage", "loss", "gradient", "clipped"),
    [
        pytest.param(
            {"ratio": "sequence", "clip_high": 9.0}, [2.0, 4.5], 1.0, -3.0, [-1.5, -1.5], [0, 0],
            id="sequence is the geometric mean: each token has half of the gradient",
        ),
        pytest.param(
            {"ratio": "sequence"}, [2.0, 0.5], 1.0, -1.0, [-0.5, -0.5], [0, 0],
            id="tokens that cancel out leave a sequence on-policy",
        ),
        pytest.param(
            {"ratio": "sequence"}, [2.0, 4.5], 1.0, -1.2, [0.0, 0.0], [1, 1],
            id="a sequence is clipped as a whole",
        ),
        pytest.param(
            {"ratio": "sequence", "dual_clip": 2.0}, [2.0, 4.5], -1.0, 2.0, [0.0, 0.0], [1, 1],
            id="dual clip of a sequence",
        ),
        pytest.param(
            {"ratio": "sequence_product"}, [2.0, 1.5], -1.0, 3.0, [3.0, 3.0], [0, 0],
            id="product: each token has all of the gradient",
        ),
        pytest.param(
            {"ratio": "sequence_product"}, [1.15, 1.15], 1.0, -1.2, [0.0, 0.0], [1, 1],
            id="a product leaves the range before its tokens do",
        ),
        pytest.param(
            {"ratio": "sequence_product"}, [math.exp(15), math.exp(15)], -1.0, E20, [0.0] * 2,
            [0, 0], id="a product's log ratio ends at 20",
        ),
        pytest.param(
            {"ratio": "sequence"}, [math.exp(25), math.exp(13)], -1.0, math.exp(19),
            [math.exp(19) / 2] * 2, [0, 0], id="the mean log ratio is clamped, not its tokens'",
        ),
        pytest.param(
            {"ratio": "token"}, [1.5, 0.5], 1.0, -0.85, [0.0, -0.25], [1, 0],
            id="tokens are clipped one by one",
        ),
        pytest.param(
            {"objective": "cispo", "ratio": "sequence", "options": {"cap": 2.5}}, [2.0, 4.5], 1.0,
            2.5, [-1.25, -1.25], [1, 1], id="cispo of a sequence: the weight has no gradient",
        ),
        pytest.param(
            {"objective": "cispo"}, [2.0, 6.0], -1.0, -3.5, [1.0, 2.5], [0, 1],
            id="cispo: a token's weight is its own",
        ),
        pytest.param(
            {"objective": "sapo", "ratio": "sequence"}, [2.0, 0.5], 3.0, -6.0, [-1.5, -1.5], [0, 0],
            id="sapo of a sequence that is on-policy",
        ),
    ],
)  # fmt: skip
def test_one_completion(
    cfg: dict[str, Any],
    ratios: list[float],
    advantage: float,
    loss: float,
    gradient: list[float],
    clipped: list[int],
) -> None:
    config = LossConfig(**cfg)
    x = of_ratios([ratios], [advantage], config)
    got, by_logps_BT, _ = gradients(x, config)
    close(got, loss)
    close(by_logps_BT, [gradient])
    assert policy_loss(x, config)[1]["loss/clipped"].tolist() == [clipped]


K3_OF_LN2 = 1 - LN2  # expm1(ln 2) - ln 2


@pytest.mark.parametrize(
    ("kl", "ratio", "gap", "penalty", "gradient", "logged"),
    [
        pytest.param("k2", 1.0, LN2, LN2**2 / 2, -LN2, K3_OF_LN2, id="k2"),
        pytest.param("k2", 1.0, -LN2, LN2**2 / 2, LN2, LN2 - 0.5, id="k2, less likely"),
        pytest.param("k3", 1.0, LN2, K3_OF_LN2, -1.0, K3_OF_LN2, id="k3"),
        pytest.param("k3", 1.0, -LN2, LN2 - 0.5, 0.5, LN2 - 0.5, id="k3, less likely"),
        pytest.param("k3", 3.0, LN2, K3_OF_LN2, -1.0, K3_OF_LN2, id="k3 knows no ratio"),
        # rho k3 has the gradient of the reverse KL: -rho x
        pytest.param("k3_ratio", 1.0, LN2, K3_OF_LN2, -LN2, K3_OF_LN2, id="k3_ratio on-policy"),
        pytest.param("k3_ratio", 3.0, LN2, 3 * K3_OF_LN2, -3 * LN2, K3_OF_LN2, id="k3_ratio"),
        pytest.param("k3", 1.0, 30.0, E20 - 21, 0.0, E20 - 21, id="the gap ends at 20"),
        pytest.param("k3", 1.0, -30.0, 1 / E20 + 19, 0.0, 1 / E20 + 19, id="and at -20"),
        pytest.param("k2", 1.0, -30.0, 200.0, 0.0, 1 / E20 + 19, id="of k2, too"),
        pytest.param("k3", 1.0, 0.0, 0.0, 0.0, 0.0, id="nothing between equals"),
    ],
)
def test_kl_penalty(
    kl: str, ratio: float, gap: float, penalty: float, gradient: float, logged: float
) -> None:
    cfg = LossConfig(kl=kl, beta=0.5)
    x = of_ratios([[ratio]], [0.0], cfg, ref=[[gap - 1]])
    loss, by_logps_BT, _ = gradients(x, cfg)
    close(loss, 0.5 * penalty)
    close(by_logps_BT, [[0.5 * gradient]])
    close(policy_loss(x, cfg)[1]["loss/kl"], [[logged]])


@pytest.mark.parametrize("ratio", RATIOS)
def test_k3_ratio_is_of_the_token_whatever_the_objective_weighs(ratio: str) -> None:
    cfg = LossConfig(kl="k3_ratio", beta=0.5, ratio=ratio)
    x = of_ratios([[2.0, 0.5]], [0.0], cfg, ref=[[LN2 - 1, LN2 - 1]])
    loss, by_logps_BT, _ = gradients(x, cfg)
    close(loss, 0.5 * (2.0 + 0.5) / 2 * K3_OF_LN2)
    close(by_logps_BT, [[-0.5 * LN2, -0.125 * LN2]])  # beta/2 times -rho x


@pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(LossConfig(beta=0.0), id="beta 0"),
        *(
            pytest.param(LossConfig(beta=0.5, kl=kl, kl_in="reward"), id=f"{kl} in the reward")
            for kl in ("k1", "k2", "k3")
        ),
    ],
)
def test_a_kl_that_is_not_in_the_loss_is_logged_as_k3(cfg: LossConfig) -> None:
    x = of_ratios([[1.0]], [2.0], cfg, ref=[[LN2 - 1]])
    loss, by_logps_BT, _ = gradients(x, cfg)
    close(loss, -2.0)
    close(by_logps_BT, [[-2.0]])
    close(policy_loss(x, cfg)[1]["loss/kl"], [[K3_OF_LN2]])


def test_without_a_reference_there_is_no_kl() -> None:
    cfg = LossConfig(beta=0.0)
    assert policy_loss(of_ratios([[1.0]], [2.0], cfg), cfg)[1].keys() == {
        "loss/policy",
        "loss/clipped",
    }


def test_what_is_logged_carries_no_gradient() -> None:
    cfg = LossConfig()
    x = of_ratios([[1.5]], [1.0], cfg, ref=[[0.0]])
    assert not any(value.requires_grad for value in policy_loss(x, cfg)[1].values())


def test_entropy_is_a_bonus() -> None:
    cfg = LossConfig(entropy=0.1)
    x = of_ratios([[1.0, 1.0]], [2.0], cfg, entropy=[[0.7, 0.3]])
    loss, by_logps_BT, by_entropy_BT = gradients(x, cfg)
    close(loss, -2.0 - 0.1 * 0.5)
    close(by_logps_BT, [[-1.0, -1.0]])
    assert by_entropy_BT is not None
    close(by_entropy_BT, [[-0.05, -0.05]])


@pytest.mark.parametrize(
    ("aggregate", "loss", "gradient"),
    [
        pytest.param("sequence_mean", -6.0, [[-2.0, 0, 0], [-4 / 3] * 3], id="(4 + 8) / 2"),
        pytest.param("token_mean", -7.0, [[-1.0, 0, 0], [-2.0] * 3], id="(4 + 3 * 8) / 4"),
        pytest.param("sequence_sum", -14.0, [[-2.0, 0, 0], [-4.0] * 3], id="(4 + 3 * 8) / 2"),
        pytest.param("fixed_length", -1.75, [[-0.25, 0, 0], [-0.5] * 3], id="(4 + 3 * 8) / 2 / 8"),
    ],
)
def test_aggregates(aggregate: str, loss: float, gradient: Rows) -> None:
    cfg = LossConfig(aggregate=aggregate)
    x = of_ratios([[1.0] * 3] * 2, [4.0, 8.0], cfg, mask=[[1, 0, 0], [1, 1, 1]])
    got, by_logps_BT, _ = gradients(x, cfg)
    close(got, loss)
    close(by_logps_BT, gradient)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        pytest.param("sequence_mean", [[1 / 10] * 2, [1 / 5, 0], [0, 0]], id="1 / (5 L_i)"),
        pytest.param("token_mean", [[1 / 16] * 2, [1 / 16, 0], [0, 0]], id="1 / 16 tokens"),
        pytest.param("sequence_sum", [[1 / 5] * 2, [1 / 5, 0], [0, 0]], id="1 / 5"),
        pytest.param("fixed_length", [[1 / 40] * 2, [1 / 40, 0], [0, 0]], id="1 / (5 * 8)"),
    ],
)
def test_weights_are_of_the_whole_step(aggregate: str, expected: Rows) -> None:
    # Three of the step's five rows: one of two tokens, one of one, one that does not count.
    mask_BT = torch.tensor([[True, True], [True, False], [False, False]])
    size = StepSize(completions=5.0, tokens=16.0, max_tokens=8)
    weights_BT = token_weights(mask_BT, size, LossConfig(aggregate=aggregate))
    torch.testing.assert_close(weights_BT, torch.tensor(expected))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_step_in_which_nothing_counts_weighs_nothing(aggregate: str) -> None:
    size = StepSize(completions=2.0, tokens=0.0, max_tokens=8)
    weights_BT = token_weights(torch.zeros(2, 3).bool(), size, LossConfig(aggregate=aggregate))
    assert torch.equal(weights_BT, torch.zeros(2, 3))


# --- every combination against the oracle

_CHOICES: dict[str, dict[str, Any]] = {
    "clipped": {"objective": "clipped"},
    "dual_clip": {"objective": "clipped", "dual_clip": 2.0},
    "cispo": {"objective": "cispo", "options": {"cap": 1.4}},
    "sapo": {"objective": "sapo"},
    "gmpo": {"objective": "gmpo"},
    "clip_cov": {"objective": "clip_cov"},
    "kl_cov": {"objective": "kl_cov", "options": {"penalty": 0.7}},
    "dppo_tv": {"objective": "dppo_tv", "clip_low": 0.04, "clip_high": 0.05},
    "dppo_kl": {"objective": "dppo_kl", "clip_low": 0.01, "clip_high": 0.02},
    "vespo": {"objective": "vespo"},
}
_FIRST = ("clipped", "dual_clip", "cispo", "sapo")
_KLS: dict[str, dict[str, Any]] = {
    "no_kl": {"beta": 0.0},
    "k2": {"beta": 0.3, "kl": "k2"},
    "k3": {"beta": 0.3, "kl": "k3"},
    "k3_ratio": {"beta": 0.3, "kl": "k3_ratio"},
}
_PAIRS = [
    (ratio, choice)
    for ratio, choice in itertools.product(RATIOS, _CHOICES)
    if ratio == "token" or choice not in OWN_RATIO
]
_MECHANISMS = [
    (*pair, kl)
    for pair, kl in itertools.product(_PAIRS, _KLS)
    if pair[1] in _FIRST or kl == "k3_ratio"  # a penalty knows nothing of the objective
]
_COMBINATIONS = [
    (*mechanism, *rest)
    for mechanism, *rest in itertools.product(_MECHANISMS, AGGREGATES, (0.0, 0.2))
]
_CORRECTED = [m for m in _MECHANISMS if m[1] in _FIRST]

# A row: how many tokens it has, its advantage, the mean of its tokens' log ratios.
_ROWS = [
    (6, +1.3, +0.4),
    (4, -0.8, -0.5),
    (0, +0.7, +0.0),
    (1, +2.1, +0.1),
    (5, -1.7, +1.1),
    (3, +0.0, +0.8),
    (6, +0.6, -0.3),
    (2, -0.4, +0.05),
    (5, -0.9, +0.35),
    (4, -0.6, +0.125),
]


def config(
    ratio: str, choice: str, kl: str, aggregate: str = "sequence_mean", entropy: float = 0.0
) -> LossConfig:
    return LossConfig(
        ratio=ratio,
        correction="none",
        aggregate=aggregate,
        entropy=entropy,
        **{"clip_high": 0.28, **_CHOICES[choice]},
        **_KLS[kl],
    )


def spread(cfg: LossConfig, *, columns: int = 6) -> LossInputs:
    """Return rows of many lengths, on both sides of every bound, with nonsense outside the mask."""
    rng = random.Random(7)
    mask = [[int(t < length) for t in range(columns)] for length, _, _ in _ROWS]
    logps, old, ref, entropy = ([[9.0, -9.0] * 3 for _ in _ROWS] for _ in range(4))
    for i, (length, _, shift) in enumerate(_ROWS):
        noise = [rng.gauss(0, 0.5) for _ in range(length)]
        for t in range(length):
            logps[i][t] = rng.gauss(-2, 0.5)
            old[i][t] = logps[i][t] - shift - noise[t] + fmean(noise)
            ref[i][t] = logps[i][t] + rng.gauss(0, 0.7)
            entropy[i][t] = rng.uniform(0, 3)
    advantages = [advantage for _, advantage, _ in _ROWS]
    given = ref if cfg.beta else None
    return inputs(logps, old, advantages, ref=given, entropy=entropy, mask=mask, cfg=cfg)


def wild(cfg: LossConfig) -> LossInputs:
    """Return rows whose log ratios, also to the reference, are inside and outside of +-20."""
    logps = [[-50.0, -50.0, -50.0], [-50.0, -50.0, -50.0], [-50.0, -49.0, 0.0]]
    old = [[-75.0, -70.5, -49.0], [-10.0, -31.0, -51.0], [-31.0, -49.5, 0.0]]
    ref = [[-20.0, -69.0, -50.1], [-31.0, -85.0, -49.0], [-71.0, -48.0, 0.0]]
    mask = [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    given = ref if cfg.beta else None
    return inputs(logps, old, [1.0, -2.0, -1.0], ref=given, mask=mask, cfg=cfg)


def equals_the_oracle(x: LossInputs, cfg: LossConfig) -> None:
    loss, values = policy_loss(x, cfg)
    leaves = (x.logps_BT, x.entropy_BT)
    got = torch.autograd.grad(loss, leaves, allow_unused=True)
    oracle = oracle_loss(x, cfg, MAX_TOKENS)
    # A loss that is all constants, as of a clipped sequence, has no gradient at all.
    expected = torch.autograd.grad(oracle.total, leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(loss, oracle.total, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-8, atol=1e-8)
    if cfg.entropy:
        torch.testing.assert_close(got[1], expected[1], rtol=1e-8, atol=1e-8)
    else:
        assert got[1] is None
    assert values["loss/clipped"][x.mask_BT].tolist() == oracle.clipped
    if cfg.beta:
        torch.testing.assert_close(
            values["loss/kl"][x.mask_BT],
            torch.tensor(oracle.kl, dtype=torch.float64),
            rtol=1e-8,
            atol=1e-8,
        )


@pytest.mark.parametrize(("ratio", "choice", "kl", "aggregate", "entropy"), _COMBINATIONS)
def test_equals_the_oracle(
    ratio: str, choice: str, kl: str, aggregate: str, entropy: float
) -> None:
    cfg = config(ratio, choice, kl, aggregate, entropy)
    equals_the_oracle(spread(cfg), cfg)


@pytest.mark.parametrize("correction", ["truncate", "mask", "sequence_mask"])
@pytest.mark.parametrize(("ratio", "choice", "kl"), _CORRECTED)
def test_equals_the_oracle_with_a_correction(
    ratio: str, choice: str, kl: str, correction: str
) -> None:
    cfg = dataclasses.replace(config(ratio, choice, kl), correction=correction)
    x = drifted(cfg)
    equals_the_oracle(x, cfg)
    _, values = policy_loss(x, cfg)
    cut = values["policy/correction_cut"][x.mask_BT].tolist()
    assert cut == oracle_loss(x, cfg, MAX_TOKENS).cut
    assert 0 < sum(cut) < len(cut), "some are cut, some are not"


def drifted(cfg: LossConfig) -> LossInputs:
    """Return the rows of `spread` with other sampled log-probabilities, near and far."""
    x = spread(cfg)
    rng = random.Random(5)
    width = [0.02, 1.2, 0.1, 2.0, 0.3]
    gaps = [[rng.gauss(0, width[i % 5]) for _ in row] for i, row in enumerate(x.mask_BT)]
    sampled_BT = x.old_logps_BT - torch.tensor(gaps, dtype=torch.float64)
    return dataclasses.replace(x, sampled_logps_BT=sampled_BT.masked_fill(~x.mask_BT, torch.nan))


@pytest.mark.parametrize(("ratio", "choice", "kl"), _MECHANISMS)
def test_equals_the_oracle_with_an_advantage_of_each_token(
    ratio: str, choice: str, kl: str
) -> None:
    """The advantages of one completion are positive, negative and 0."""
    cfg = config(ratio, choice, kl)
    x = spread(cfg)
    rng = random.Random(11)
    a_BT = torch.tensor(
        [[rng.choice([-1.3, -0.4, 0.0, 0.8, 2.1]) for _ in row] for row in x.mask_BT]
    )
    equals_the_oracle(dataclasses.replace(x, advantages_BT=a_BT.double()), cfg)


@pytest.mark.parametrize("choice", OFF_POLICY)
def test_equals_the_oracle_with_another_policy_that_sampled(choice: str) -> None:
    """Ratio and trust region refer to the policy that sampled, not to that before the step."""
    cfg = config("token", choice, "no_kl")
    x = drifted(cfg)
    x = dataclasses.replace(x, sampled_logps_BT=x.sampled_logps_BT.clamp(max=-0.05))
    equals_the_oracle(x, cfg)
    bounded = policy_loss(x, cfg)[1]["loss/clipped"][x.mask_BT].tolist()
    assert choice == "vespo" or 3 < sum(bounded) < len(bounded) - 3, "both sides of the region"


@pytest.mark.parametrize("choice", ["clipped", "gmpo", "vespo"])
def test_equals_the_oracle_where_the_objective_counts_at_forks_alone(choice: str) -> None:
    cfg = config("token", choice, "k3", entropy=0.2)
    x = spread(cfg)
    forks_BT = torch.arange(x.mask_BT.numel()).view_as(x.mask_BT) % 4 == 1
    equals_the_oracle(dataclasses.replace(x, forks_BT=forks_BT), cfg)


@pytest.mark.parametrize(("ratio", "choice", "kl"), _MECHANISMS)
def test_equals_the_oracle_beyond_the_clamp(ratio: str, choice: str, kl: str) -> None:
    cfg = config(ratio, choice, kl)
    equals_the_oracle(wild(cfg), cfg)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_data_are_on_every_side_of_every_bound(ratio: str) -> None:
    # Else the comparison with the oracle would prove nothing about clip, cap and dual clip.
    x = spread(config(ratio, "clipped", "k3"))
    sides = {"high": 0, "low": 0, "dual": 0, "cap": 0, "above, bad": 0, "below, good": 0}
    inside = {"good": 0, "bad": 0}
    for i, (length, advantage, _) in enumerate(_ROWS):
        logs = [(x.logps_BT[i, t] - x.old_logps_BT[i, t]).item() for t in range(length)]
        if logs and ratio != "token":
            logs = [sum(logs) / (length if ratio == "sequence" else 1)] * length
        for rho in map(math.exp, logs):
            good, bad = advantage > 0, advantage < 0
            sides["high"] += good and rho > 1.28
            sides["low"] += bad and rho < 0.8
            sides["dual"] += bad and rho > 2
            sides["cap"] += (good or bad) and rho > 1.4
            sides["above, bad"] += bad and 1.28 < rho < 2
            sides["below, good"] += good and rho < 0.8
            inside["good"] += good and 0.8 < rho < 1.28
            inside["bad"] += bad and 0.8 < rho < 1.28
    assert min(sides.values()) >= 3, sides
    assert min(inside.values()) >= 1, inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("ratio", "choice", "kl"), _MECHANISMS)
def test_no_log_ratio_makes_an_infinity(
    ratio: str, choice: str, kl: str, dtype: torch.dtype
) -> None:
    # exp(500) is no float64, exp(89) no float32
    cfg = config(ratio, choice, kl)
    x = inputs(
        [[0.0, -500.0], [-500.0, -500.0], [0.0, 0.0]],
        [[-500.0, 0.0], [0.0, 0.0], [-500.0, -500.0]],
        [-1.0, 1.0, -2.0],
        ref=[[-500.0, -0.0], [0.0, 0.0], [-500.0, -500.0]] if cfg.beta else None,
        cfg=cfg,
        dtype=dtype,
    )
    loss, by_logps_BT, _ = gradients(x, cfg)
    assert torch.isfinite(loss)
    assert torch.isfinite(by_logps_BT).all()


# --- what must change nothing


def part(x: LossInputs, rows: list[int], columns: int) -> LossInputs:
    """Return some rows without the columns beyond the longest of them."""
    assert x.ref_logps_BT is not None
    return LossInputs(
        logps_BT=x.logps_BT[rows, :columns],
        entropy_BT=x.entropy_BT[rows, :columns],
        old_logps_BT=x.old_logps_BT[rows, :columns],
        sampled_logps_BT=x.sampled_logps_BT[rows, :columns],
        ref_logps_BT=x.ref_logps_BT[rows, :columns],
        advantages_BT=x.advantages_BT[rows, :columns],
        mask_BT=x.mask_BT[rows, :columns],
        weights_BT=x.weights_BT[rows, :columns],
        singled_BT=None if x.singled_BT is None else x.singled_BT[rows, :columns],
    )


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("ratio", "choice"), _PAIRS)
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([[i] for i in range(10)], id="a row each"),
        pytest.param([[3, 2, 7], [5, 1, 9, 4, 8], [0, 6]], id="by length"),
    ],
)
def test_micro_batches_add_up(
    aggregate: str, ratio: str, choice: str, parts: list[list[int]]
) -> None:
    cfg = config(ratio, choice, "k3_ratio", aggregate, 0.2)
    x = spread(cfg)
    whole, by_logps_BT, by_entropy_BT = gradients(x, cfg)
    total = torch.zeros((), dtype=torch.float64)
    for rows in parts:
        longest = max(_ROWS[i][0] for i in rows)
        total = total + policy_loss(part(x, rows, longest), cfg)[0]
    summed = torch.autograd.grad(total, (x.logps_BT, x.entropy_BT))
    torch.testing.assert_close(total, whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(summed, (by_logps_BT, by_entropy_BT), rtol=0, atol=1e-10)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("ratio", "choice"), _PAIRS)
def test_padding_changes_nothing(aggregate: str, ratio: str, choice: str) -> None:
    cfg = config(ratio, choice, "k3_ratio", aggregate, 0.2)
    short: list[Rows] = [[[0.1, 0.2]], [[0.0, 0.3]], [[0.3, 0.4]], [[0.5, 0.6]]]
    padded = [[[*rows[0], *nonsense]] for rows, nonsense in zip(short, _NONSENSE, strict=True)]
    (lp, old, ref, entropy), mask = short, [[1, 1]]
    expected = gradients(inputs(lp, old, [1.5], ref=ref, entropy=entropy, cfg=cfg), cfg)
    (lp, old, ref, entropy), mask = padded, [[1, 1, 0, 0]]
    got = gradients(inputs(lp, old, [1.5], ref=ref, entropy=entropy, mask=mask, cfg=cfg), cfg)
    torch.testing.assert_close(got[0], expected[0])
    for values, wanted in zip(got[1:], expected[1:], strict=True):
        assert values is not None
        assert wanted is not None
        torch.testing.assert_close(values[:, :2], wanted)
        assert torch.equal(values[:, 2:], torch.zeros(1, 2, dtype=torch.float64))


_NONSENSE = ([9.0, 300.0], [-9.0, 40.0], [5.0, -80.0], [70.0, 2.0])


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("ratio", "choice"), _PAIRS)
def test_the_order_of_rows_changes_nothing(aggregate: str, ratio: str, choice: str) -> None:
    cfg = config(ratio, choice, "k3_ratio", aggregate, 0.2)
    x = spread(cfg)
    order = [4, 8, 0, 6, 9, 2, 7, 1, 5, 3]
    loss, by_logps_BT, _ = gradients(x, cfg)
    total, _ = policy_loss(part(x, order, 6), cfg)  # its gradient arrives at the rows of x
    torch.testing.assert_close(total, loss, rtol=0, atol=1e-12)
    (got_BT,) = torch.autograd.grad(total, x.logps_BT)
    torch.testing.assert_close(got_BT, by_logps_BT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("choice", [name for name in _CHOICES if name != "clip_cov"])
def test_on_policy_every_objective_has_the_gradient_of_reinforce(
    aggregate: str, choice: str
) -> None:
    cfg = config("token", choice, "no_kl", aggregate)
    x = spread(cfg)
    now_BT = x.logps_BT.detach()
    x = dataclasses.replace(x, old_logps_BT=now_BT, sampled_logps_BT=now_BT)
    _, by_logps_BT, _ = gradients(x, cfg)
    expected_BT = -x.advantages_BT * x.weights_BT
    torch.testing.assert_close(by_logps_BT, expected_BT, rtol=1e-12, atol=0)
    if choice in ("clipped", "dual_clip"):
        assert torch.equal(by_logps_BT, expected_BT)  # the ratio is 1, not nearly


@pytest.mark.parametrize("choice", ["clipped", "dual_clip", "sapo"])
@pytest.mark.parametrize(
    ("ratio", "share"),
    [pytest.param("sequence", 1, id="sequence"), pytest.param("sequence_product", 5, id="product")],
)
def test_on_policy_a_product_counts_once_a_token(ratio: str, share: float, choice: str) -> None:
    cfg = config(ratio, choice, "no_kl")
    logps = [[-0.1, -0.2, -0.3, -0.4, -0.5]] * 2
    x = inputs(logps, logps, [3.0, -2.0], cfg=cfg)
    _, by_logps_BT, _ = gradients(x, cfg)
    close(by_logps_BT, [[-3 / 2 / 5 * share] * 5, [2 / 2 / 5 * share] * 5])


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_completion_that_does_not_count_has_no_gradient(ratio: str) -> None:
    # Truncated and masked: its tokens stay in the mask, their weights are 0; it counts as a row.
    cfg = config(ratio, "clipped", "k3", entropy=0.2)
    x = spread(cfg)
    counted_BT = x.mask_BT.clone()
    counted_BT[4] = False
    size = StepSize(completions=10, tokens=31, max_tokens=MAX_TOKENS)
    weights_BT = token_weights(counted_BT.double(), size, cfg)
    _, before_BT, _ = gradients(x, cfg)
    _, after_BT, _ = gradients(dataclasses.replace(x, weights_BT=weights_BT), cfg)
    assert torch.equal(after_BT[4], torch.zeros(6, dtype=torch.float64))
    others = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    torch.testing.assert_close(after_BT[others], before_BT[others], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("ratio", "rho"),
    [pytest.param("sequence", 2.0, id="mean"), pytest.param("sequence_product", 4.0, id="product")],
)
def test_a_token_that_weighs_nothing_is_still_in_its_sequence(ratio: str, rho: float) -> None:
    cfg = LossConfig(ratio=ratio)
    x = of_ratios([[1.0, 4.0]], [-1.0], cfg)
    weights_BT = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    close(policy_loss(dataclasses.replace(x, weights_BT=weights_BT), cfg)[0], rho)


# --- what is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"kl": "k1"}, "kl=k1 with agent.loss.kl_in=loss", id="k1 in the loss"),
        pytest.param(
            {"kl": "k3_ratio", "kl_in": "reward"},
            "kl=k3_ratio with agent.loss.kl_in=reward",
            id="k3_ratio in the reward",
        ),
        pytest.param(
            {"objective": "cispo", "options": {"cap": 0.9}},
            "options.cap=0.9. Allowed: 1 or more",
            id="a cap below 1",
        ),
        pytest.param(
            {"objective": "cispo", "options": {"cap": "two"}},
            "options.cap=two. Allowed: 1 or more",
            id="a cap of text",
        ),
        pytest.param({"dual_clip": 1.0}, "dual_clip=1.0. Allowed: above 1", id="dual clip of 1"),
        pytest.param({"dual_clip": 0.5}, "dual_clip=0.5. Allowed: above 1", id="dual clip below"),
        pytest.param({"clip_low": 1.1}, "clip_low=1.1. Allowed: 0 to 1", id="below a ratio of 0"),
        pytest.param({"clip_low": -0.1}, "clip_low=-0.1. Allowed: 0 to 1", id="low above 1"),
        pytest.param({"clip_high": -0.1}, "clip_high=-0.1. Allowed: 0 or more", id="high below 1"),
        pytest.param(
            {"objective": "sapo", "options": {"tau_positive": 0.0}},
            "options.tau_positive=0.0. Allowed: above 0",
            id="+",
        ),
        pytest.param(
            {"objective": "sapo", "options": {"tau_negative": 0.0}},
            "options.tau_negative=0.0. Allowed: above 0",
            id="-",
        ),
        pytest.param({"beta": -0.1}, "beta=-0.1. Allowed: 0 or more", id="a reward for leaving"),
        pytest.param({"entropy": -0.1}, "entropy=-0.1. Allowed: 0 or more", id="less entropy"),
        pytest.param(
            {"objective": "vespo", "options": {"k_positive": 0}},
            "options.k_positive=0. Allowed: above 0",
            id="vespo k",
        ),
        pytest.param(
            {"objective": "vespo", "options": {"lambda_negative": -1}},
            "Allowed: above 0",
            id="vespo lambda",
        ),
        pytest.param(
            {"objective": "kl_cov", "options": {"share": 0.0}},
            "options.share=0.0. Allowed: above 0, up to 1",
            id="no share",
        ),
        pytest.param(
            {"objective": "clip_cov", "options": {"low": 5.0}},
            "options.low=5. Allowed: below high=5",
            id="no covariance",
        ),
        pytest.param(
            {"objective": "kl_cov", "options": {"penalty": -1.0}},
            "options.penalty=-1.0. Allowed: 0 or more",
            id="a push",
        ),
        pytest.param(
            {"top_entropy": 1.5}, "top_entropy=1.5. Allowed: above 0, up to 1", id="150 %"
        ),
        pytest.param({"entropy_target": 0.0}, "Allowed: above 0, or null", id="no entropy"),
        pytest.param({"entropy_step": 0.0}, "entropy_step=0.0. Allowed: above 0", id="no step"),
        pytest.param({"entropy_max": 0.0}, "entropy_max=0.0. Allowed: above 0", id="no weight"),
        pytest.param(
            {"entropy": 0.1, "entropy_target": 1.0},
            "entropy=0.1. Allowed: 0 to entropy_max=0.005",
            id="begins above the largest weight",
        ),
        pytest.param(
            {"objective": "vespo", "ratio": "sequence"}, "Allowed: token.", id="two ratios"
        ),
        pytest.param(
            {"objective": "dppo_tv", "correction": "mask"}, "Allowed: auto, none.", id="corrected"
        ),
        pytest.param({"ratio": "tokens"}, "Did you mean 'token'?", id="no such ratio"),
        pytest.param({"objective": "cipso"}, "Did you mean 'cispo'?", id="no such objective"),
        pytest.param({"kl": "k4"}, "Allowed: k1, k2, k3, k3_ratio.", id="no such estimator"),
        pytest.param({"kl_in": "rewards"}, "Did you mean 'reward'?", id="no such place"),
        pytest.param({"aggregate": "mean"}, "Did you mean 'token_mean'?", id="no such aggregate"),
    ],
)
def test_a_mistake_ends_with_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LossConfig(**given)
    assert said in str(caught.value)
    assert str(caught.value).startswith("agent.loss.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"objective": "cispo", "options": {"cap": 1}}, id="a cap of 1"),
        pytest.param({"dual_clip": 1.01}, id="dual clip above 1"),
        pytest.param({"kl": "k1", "kl_in": "reward"}, id="k1 in the reward"),
        pytest.param({"clip_low": 1.0, "clip_high": 0.0}, id="the ends of the clip range"),
    ],
)
def test_what_is_just_allowed(given: dict[str, Any]) -> None:
    LossConfig(**given)
