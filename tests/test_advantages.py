"""Advantages against numbers worked out by hand."""

import pytest
import torch

from grpo_agent import advantages as module
from grpo_agent.advantages import ADVANTAGES, Scores
from grpo_agent.config import AdvantageConfig


def rewards(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def scores(rewards_PG: torch.Tensor, valid_PG: torch.Tensor) -> Scores:
    return Scores(
        rewards_PG=rewards_PG, valid_PG=valid_PG, tokens_PG=torch.ones_like(rewards_PG).long()
    )


def advantages(
    rewards_PG: torch.Tensor, valid_PG: torch.Tensor, cfg: AdvantageConfig
) -> torch.Tensor:
    return module.advantages(scores(rewards_PG, valid_PG), cfg)


def everyone(rewards_PG: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(rewards_PG, dtype=torch.bool)


def test_one_success_in_eight() -> None:
    r = rewards([1, 0, 0, 0, 0, 0, 0, 0])
    # mean 1/8, unbiased std sqrt(7/8 * 1/7) = sqrt(1/8): 7/8 / (0.353553 + 1e-4) = 2.47417
    got = advantages(r, everyone(r), AdvantageConfig())
    assert got[0, 0].item() == pytest.approx(2.474174, abs=1e-5)
    assert got[0, 1].item() == pytest.approx(-0.353453, abs=1e-5)


def test_population_std() -> None:
    r = rewards([1, 0, 0, 0])
    # mean 1/4, population std sqrt(3)/4: 3/4 / (sqrt(3)/4) = sqrt(3)
    got = advantages(r, everyone(r), AdvantageConfig(ddof=0, eps=0.0))
    torch.testing.assert_close(got[0, 0].item(), 3**0.5)


def test_centered() -> None:
    r = rewards([1, 0, 0, 0], [2, 4, 0, 2])
    got = advantages(r, everyone(r), AdvantageConfig(name="centered"))
    torch.testing.assert_close(got, rewards([0.75, -0.25, -0.25, -0.25], [0, 2, -2, 0]))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_flat_group_gets_exact_zeros(name: str) -> None:
    # The mean of eight 0.3 in float32 is not 0.3: only comparing rewards finds such a group flat.
    r = torch.full((3, 8), 0.3, dtype=torch.float32)
    assert (r - r.mean(dim=1, keepdim=True)).abs().max() > 0
    got = advantages(r, everyone(r), AdvantageConfig(name=name, eps=0.0))
    assert torch.equal(got, torch.zeros(3, 8))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_invalid_members_leave_the_statistics(name: str) -> None:
    cfg = AdvantageConfig(name=name)
    r = rewards([1, 0, 0, 99])
    valid = torch.tensor([[True, True, True, False]])
    got = advantages(r, valid, cfg)
    small = rewards([1, 0, 0])
    torch.testing.assert_close(got[:, :3], advantages(small, everyone(small), cfg))
    assert got[0, 3] == 0


def test_an_invalid_nan_does_not_spread() -> None:
    r = rewards([1, 0, float("nan")])
    got = advantages(r, torch.tensor([[True, True, False]]), AdvantageConfig())
    assert torch.isfinite(got).all()


def test_fewer_than_two_valid_members_teach_nothing() -> None:
    r = rewards([1, 0, 0], [1, 0, 0])
    valid = torch.tensor([[True, False, False], [False, False, False]])
    assert torch.equal(advantages(r, valid, AdvantageConfig()), torch.zeros(2, 3).double())
    assert module.flat(scores(r, valid)).tolist() == [True, True]


def test_groups_do_not_touch_each_other() -> None:
    one, other = rewards([1, 0, 0, 1]), rewards([5, 6, 7, 8])
    both = torch.cat([one, other])
    got = advantages(both, everyone(both), AdvantageConfig())
    torch.testing.assert_close(got[:1], advantages(one, everyone(one), AdvantageConfig()))
