"""What is taken off a reward, by hand."""

import math
from typing import Any

import pytest
import torch

from grpo_agent.config import LossConfig, OverlongConfig
from grpo_agent.shaping import kl_penalty, overlong_penalty
from grpo_envs.errors import ConfigError

LN2 = math.log(2)

# Of at most 100 tokens: the longest ran out of them, the one before just ended in time.
LENGTHS = [[1, 50, 80], [85, 90, 95], [99, 100, 100]]
TRUNCATED = [[False, False, False], [False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        pytest.param({}, [[0] * 3] * 3, id="score: nothing is taken off"),
        pytest.param({"truncated": "mask"}, [[0] * 3] * 3, id="mask: nothing either"),
        pytest.param(
            {"truncated": "penalise"}, [[0] * 3, [0] * 3, [0, 0, 1]], id="only what was truncated"
        ),
        pytest.param(
            {"truncated": "penalise", "penalty": 0.5},
            [[0] * 3, [0] * 3, [0, 0, 0.5]],
            id="by how much",
        ),
        # The last fifth, 20 tokens: from 80 on, 1/20 a token
        pytest.param(
            {"buffer": 0.2}, [[0, 0, 0], [0.25, 0.5, 0.75], [0.95, 1, 1]], id="DAPO's buffer"
        ),
        pytest.param(
            {"buffer": 0.2, "penalty": 4.0},
            [[0, 0, 0], [1, 2, 3], [3.8, 4, 4]],
            id="DAPO's buffer, heavier",
        ),
        pytest.param(
            {"buffer": 1.0},
            [[0.01, 0.5, 0.8], [0.85, 0.9, 0.95], [0.99, 1, 1]],
            id="the buffer is everything",
        ),
        pytest.param(
            {"buffer": 0.2, "truncated": "mask"},
            [[0, 0, 0], [0.25, 0.5, 0.75], [0.95, 1, 1]],
            id="a buffer beside mask",
        ),
        pytest.param({"buffer": 0.2, "penalty": 0.0}, [[0] * 3] * 3, id="a penalty of nothing"),
    ],
)
def test_overlong_penalty(cfg: dict[str, Any], expected: list[list[float]]) -> None:
    got = overlong_penalty(
        torch.tensor(LENGTHS), torch.tensor(TRUNCATED), 100, OverlongConfig(**cfg)
    )
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float32))


def test_beyond_the_limit_the_penalty_stays() -> None:
    # A length can only exceed the limit by a mistake elsewhere; the penalty must not grow with it.
    lengths_PG, truncated_PG = torch.tensor([[150]]), torch.tensor([[True]])
    got = overlong_penalty(lengths_PG, truncated_PG, 100, OverlongConfig(buffer=0.2))
    assert got.item() == 1


def test_a_buffer_need_not_be_whole_tokens() -> None:
    # 10 tokens, buffer 2.5 of them: 8 is 0.5 into it, 9 is 1.5.
    lengths_PG = torch.tensor([[7, 8, 9, 10]])
    got = overlong_penalty(lengths_PG, lengths_PG == 10, 10, OverlongConfig(buffer=0.25))
    torch.testing.assert_close(got, torch.tensor([[0, 0.2, 0.6, 1]]))


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        # y = log pi_ref - log pi: row 1 has +ln 2 and -ln 2, row 2 has +ln 2 and padding
        pytest.param("k1", [0.0, -LN2], id="k1: -y"),
        pytest.param("k2", [LN2**2, LN2**2 / 2], id="k2: y^2 / 2"),
        pytest.param("k3", [0.5, 1 - LN2], id="k3: (1 - ln 2) + (ln 2 - 1/2)"),
    ],
)
@pytest.mark.parametrize("beta", [1.0, 0.04])
def test_kl_penalty(kl: str, beta: float, expected: list[float]) -> None:
    logps_BT = torch.tensor([[-1.0, -1.0], [-3.0, 9.0]], dtype=torch.float64)
    gaps_BT = torch.tensor([[LN2, -LN2], [LN2, -5.0]], dtype=torch.float64)
    mask_BT = torch.tensor([[True, True], [True, False]])
    cfg = LossConfig(kl=kl, kl_in="reward", beta=beta)
    got = kl_penalty(logps_BT, logps_BT + gaps_BT, mask_BT, cfg)
    torch.testing.assert_close(got, beta * torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("kl", "gap", "expected"),
    [
        pytest.param("k1", 50.0, -20.0, id="k1, much less likely"),
        pytest.param("k1", -50.0, 20.0, id="k1, much likelier"),
        pytest.param("k2", 50.0, 200.0, id="k2"),
        pytest.param("k3", 50.0, math.exp(20) - 21, id="k3"),
        pytest.param("k3", -50.0, math.exp(-20) + 19, id="k3, much likelier"),
    ],
)
def test_a_wild_token_costs_no_more_than_a_gap_of_20(kl: str, gap: float, expected: float) -> None:
    logps_BT = torch.tensor([[-1.0]], dtype=torch.float64)
    cfg = LossConfig(kl=kl, kl_in="reward", beta=1.0)
    got = kl_penalty(logps_BT, logps_BT + gap, torch.ones(1, 1).bool(), cfg)
    torch.testing.assert_close(got, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"truncated": "penalize"}, "Did you mean 'penalise'?", id="no such choice"),
        pytest.param({"buffer": 1.5}, "buffer=1.5. Allowed: 0 to 1", id="more than everything"),
        pytest.param({"penalty": -1.0}, "penalty=-1.0. Allowed: 0 or more", id="a reward"),
        pytest.param(
            {"truncated": "penalise", "buffer": 0.2}, "would be penalised twice", id="two penalties"
        ),
        pytest.param({"in_baseline": False}, "is in its baseline", id="in the loss, not in it"),
    ],
)
def test_a_mistake_ends_with_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OverlongConfig(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
