"""The loss against numbers by hand and against an oracle in plain loops over tokens (float64)."""

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights


def inputs(
    logps: list[list[float]],
    old: list[list[float]],
    advantages: list[float],
    *,
    ref: list[list[float]] | None = None,
    mask: list[list[int]] | None = None,
    cfg: LossConfig | None = None,
) -> LossInputs:
    logps_BT = torch.tensor(logps, dtype=torch.float64, requires_grad=True)
    mask_BT = torch.tensor(mask or [[1] * len(row) for row in logps], dtype=torch.bool)
    rows = len(logps)
    size = StepSize(completions=rows, tokens=float(mask_BT.sum()), max_tokens=8)
    return LossInputs(
        logps_BT=logps_BT,
        entropy_BT=torch.zeros_like(logps_BT),
        old_logps_BT=torch.tensor(old, dtype=torch.float64),
        ref_logps_BT=None if ref is None else torch.tensor(ref, dtype=torch.float64),
        advantages_B=torch.tensor(advantages, dtype=torch.float64),
        mask_BT=mask_BT,
        weights_BT=token_weights(mask_BT.double(), size, cfg or LossConfig()),
    )


def close(got: Tensor, expected: float) -> None:
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        pytest.param(1.0, +2.0, -2.0, id="on-policy is minus the advantage"),
        pytest.param(1.5, +1.0, -1.2, id="good action, moved up too far: clipped"),
        pytest.param(0.5, +1.0, -0.5, id="good action, moved down: not clipped"),
        pytest.param(1.5, -1.0, +1.5, id="bad action, moved up: not clipped"),
        pytest.param(0.5, -1.0, +0.8, id="bad action, moved down too far: clipped"),
    ],
)
def test_clipping(ratio: float, advantage: float, expected: float) -> None:
    x = inputs([[math.log(ratio)] * 2], [[0.0, 0.0]], [advantage])
    loss, metrics = policy_loss(x, LossConfig())
    close(loss, expected)
    clipped = abs(expected) != abs(ratio * advantage)
    close(metrics["loss/clipped"].mean().double(), float(clipped))


def test_clip_bounds_are_separate() -> None:
    x = inputs([[math.log(1.5)]], [[0.0]], [1.0])
    close(policy_loss(x, LossConfig(clip_high=0.28))[0], -1.28)
    x = inputs([[math.log(0.5)]], [[0.0]], [-1.0])
    close(policy_loss(x, LossConfig(clip_low=0.1))[0], 0.9)


def test_kl_is_k3_and_weighted_by_beta() -> None:
    # x = ref - lp = ln 2: k3 = 2 - ln 2 - 1
    x = inputs([[-math.log(2)]], [[-math.log(2)]], [0.0], ref=[[0.0]])
    loss, metrics = policy_loss(x, LossConfig(beta=0.5))
    close(metrics["loss/kl"].mean(), 1 - math.log(2))
    close(loss, 0.5 * (1 - math.log(2)))


def test_a_long_and_a_short_completion_count_the_same() -> None:
    zeros = [[0.0] * 3] * 2
    x = inputs(zeros, zeros, [1.0, 2.0], mask=[[1, 1, 1], [1, 0, 0]])
    close(policy_loss(x, LossConfig())[0], -(1.0 + 2.0) / 2)


def test_padding_never_matters() -> None:
    short = inputs([[0.1, 0.2]], [[0.0, 0.0]], [1.0], ref=[[0.3, 0.3]])
    padded = inputs(
        [[0.1, 0.2, 9.0]], [[0.0, 0.0, -9.0]], [1.0], ref=[[0.3, 0.3, 5.0]], mask=[[1, 1, 0]]
    )
    torch.testing.assert_close(
        policy_loss(short, LossConfig())[0], policy_loss(padded, LossConfig())[0]
    )


def test_wild_log_ratios_stay_finite() -> None:
    x = inputs([[0.0, 0.0]], [[-500.0, 500.0]], [-1.0], ref=[[300.0, -300.0]])
    loss, _ = policy_loss(x, LossConfig())
    loss.backward()
    assert torch.isfinite(loss)
    assert x.logps_BT.grad is not None
    assert torch.isfinite(x.logps_BT.grad).all()


def oracle(
    lp: Tensor, old: Tensor, ref: Tensor | None, adv: Tensor, mask: Tensor, cfg: LossConfig
) -> Tensor:
    """DeepSeekMath eq. 3, token by token, with nothing of the implementation in it."""
    total = torch.zeros((), dtype=torch.float64)
    rows = lp.shape[0]
    for i in range(rows):
        length = int(mask[i].sum())
        for t in range(lp.shape[1]):
            if not mask[i, t]:
                continue
            rho = torch.exp(lp[i, t] - old[i, t])
            low, high = 1 - cfg.clip_low, 1 + cfg.clip_high
            bound = (
                rho
                if low <= rho <= high
                else torch.tensor(low if rho < low else high, dtype=torch.float64)
            )
            surrogate = torch.min(rho * adv[i], bound * adv[i])
            kl = torch.zeros(())
            if ref is not None:
                quotient = torch.exp(ref[i, t]) / torch.exp(lp[i, t])
                kl = quotient - torch.log(quotient) - 1
            total = total - (surrogate - cfg.beta * kl) / length / rows
    return total


_GRID = list(itertools.product((0.0, 0.04, 1.0), (0.2, 0.1), (0.2, 0.28), range(3)))


@pytest.mark.parametrize(("beta", "low", "high", "seed"), _GRID)
def test_equals_the_oracle_in_value_and_gradient(
    beta: float, low: float, high: float, seed: int
) -> None:
    rng = random.Random(seed)
    rows, tokens = 4, 5
    lengths = [rng.randint(1, tokens) for _ in range(rows)]
    mask = [[int(t < n) for t in range(tokens)] for n in lengths]
    lp, old, ref = (
        [[rng.gauss(-2, 0.4) for _ in range(tokens)] for _ in range(rows)] for _ in range(3)
    )
    cfg = LossConfig(beta=beta, clip_low=low, clip_high=high)
    x = inputs(
        lp,
        old,
        [rng.gauss(0, 1) for _ in range(rows)],
        ref=ref if beta else None,
        mask=mask,
        cfg=cfg,
    )
    loss, _ = policy_loss(x, cfg)
    (gradient,) = torch.autograd.grad(loss, x.logps_BT)
    lp_oracle = x.logps_BT.detach().clone().requires_grad_()
    expected = oracle(lp_oracle, x.old_logps_BT, x.ref_logps_BT, x.advantages_B, x.mask_BT, cfg)
    (expected_gradient,) = torch.autograd.grad(expected, lp_oracle)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)
