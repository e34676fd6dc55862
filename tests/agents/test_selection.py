"""The tokens that a loss selects, and what must not change the selection."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.entropy import EntropyWeight
from grpo_agent.selection import covariance, forks, highest, noise, singled_out
from grpo_agent.step import Step
from grpo_policy.batch import Batch
from tests.support.oracle import oracle_covariances, oracle_highest

LENGTHS = [6, 4, 1, 5, 3, 6, 2]


def step_of(seed: int = 0, *, columns: int = 6) -> Step:
    """Return rows of many lengths with nonsense outside the mask; the third does not count."""
    rng = random.Random(seed)
    mask_BT = torch.tensor([[t < length for t in range(columns)] for length in LENGTHS])
    counted_BT = mask_BT.clone()
    counted_BT[2] = False

    def numbers(low: float, high: float) -> Tensor:
        rows = [[rng.uniform(low, high) for _ in range(6)] + [9.0] * (columns - 6) for _ in LENGTHS]
        return torch.where(mask_BT, torch.tensor(rows, dtype=torch.float64), 99.0)

    ids_BT = torch.tensor([[7 * i + t for t in range(columns)] for i in range(len(LENGTHS))])
    batch = Batch(
        input_ids_BL=torch.cat([torch.ones_like(ids_BT[:, :1]), ids_BT], dim=1),
        prompt_lengths_B=torch.ones(len(LENGTHS), dtype=torch.long),
        token_ids_BT=ids_BT,
        mask_BT=mask_BT,
        sampled_logps_BT=numbers(-5, 0),
        groups_B=torch.zeros(len(LENGTHS), dtype=torch.long),
    )
    return Step(
        batch=batch,
        counted_BT=counted_BT,
        ref_logps_BT=None,
        old_logps_BT=None,
        advantages_BT=numbers(-2, 2),
        entropy_BT=numbers(0, 3),
    )


def places(mask_BT: Tensor | None) -> set[tuple[int, int]]:
    assert mask_BT is not None
    return {(int(i), int(t)) for i, t in mask_BT.nonzero()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.2, 0.5, 1.0])
def test_equal_plain_loops(seed: int, share: float) -> None:
    step = step_of(seed)
    logps, a = (v.tolist() for v in (step.batch.sampled_logps_BT, step.advantages_BT))
    expected = oracle_covariances(logps, a, step.counted_BT.tolist())
    got_BT = covariance(step.batch.sampled_logps_BT, step.advantages_BT, step.counted_BT)
    for (i, t), value in expected.items():
        assert got_BT[i, t].item() == pytest.approx(value, abs=1e-12)
    kl_cov = LossConfig(objective="kl_cov", options={"share": share})
    assert places(singled_out(step, kl_cov, 0)) == oracle_highest(expected, share)
    assert step.entropy_BT is not None
    entropies = {place: step.entropy_BT[place].item() for place in expected}
    got = places(forks(step, LossConfig(top_entropy=share)))
    assert got == oracle_highest(entropies, share)
    assert len(got) == max(1, int(share * len(expected) + 1e-9))


@pytest.mark.parametrize("share", [1e-6, 0.2, 1.0])
def test_clip_cov_draws_within_its_bounds(share: float) -> None:
    step = step_of()
    cfg = LossConfig(objective="clip_cov", options={"share": share, "low": 0.1, "high": 2.0})
    logps, a = (v.tolist() for v in (step.batch.sampled_logps_BT, step.advantages_BT))
    values = oracle_covariances(logps, a, step.counted_BT.tolist())
    within = {place for place, value in values.items() if 0.1 < value < 2.0}
    drawn = [places(singled_out(step, cfg, number)) for number in range(30)]
    wanted = min(len(within), max(1, int(share * len(values))))
    assert {len(each) for each in drawn} == {wanted}
    assert set().union(*drawn) == within, "each of them is drawn in some step"
    assert drawn == [places(singled_out(step, cfg, number)) for number in range(30)]
    assert (len({frozenset(each) for each in drawn}) == 1) == (share == 1.0)
    none = replace(cfg, options={"share": share, "low": 100.0, "high": 200.0})
    assert places(singled_out(step, none, 0)) == set()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(
            {"objective": "clip_cov", "options": {"share": 0.2, "low": 0.1}}, id="clip_cov"
        ),
        pytest.param({"objective": "kl_cov", "options": {"share": 0.2}}, id="kl_cov"),
        pytest.param({"top_entropy": 0.2}, id="forks"),
    ],
)
def test_neither_order_nor_padding_changes_what_is_chosen(given: dict[str, Any]) -> None:
    cfg = LossConfig(**given)

    def chosen(step: Step) -> Tensor:
        found = forks(step, cfg) if cfg.top_entropy < 1 else singled_out(step, cfg, 3)
        assert found is not None
        return found

    step = step_of()
    expected = chosen(step)
    order = torch.tensor([3, 0, 6, 5, 2, 1, 4])
    assert torch.equal(chosen(step.rows(order)), expected[order])
    assert torch.equal(chosen(step_of(columns=9))[:, :6], expected)
    assert not chosen(step_of(columns=9))[:, 6:].any()


def test_other_losses_treat_no_token_apart() -> None:
    step = replace(step_of(), entropy_BT=None)
    assert singled_out(step, LossConfig(), 0) is None
    assert forks(step, LossConfig()) is None


def test_nothing_is_chosen_of_nothing() -> None:
    none_BT = torch.zeros(2, 3, dtype=torch.bool)
    assert not highest(torch.ones(2, 3), none_BT, 0.5).any()


def test_equal_values_are_all_in() -> None:
    values_BT = torch.tensor([[1.0, 3.0, 3.0], [3.0, 0.0, 2.0]])
    assert highest(values_BT, torch.ones(2, 3).bool(), 0.2).tolist() == [
        [False, True, True],
        [True, False, False],
    ]


def test_the_draw_is_of_the_completion_and_the_step() -> None:
    batch = step_of().batch
    one, other = noise(batch, 1), noise(batch, 2)
    assert 0 <= one.min() < one.max() < 1
    assert (one != other)[batch.mask_BT].all()
    assert torch.equal(noise(batch.rows(torch.tensor([4, 1])), 1)[1, :4], one[1, :4])


def test_the_weight_of_the_entropy_follows_its_target() -> None:
    cfg = LossConfig(entropy_target=0.5, entropy_step=0.1, entropy_max=0.25)
    weight = EntropyWeight(0.0)
    entropies = [0.4, 0.3, 0.2, 0.6, 0.5, 0.4, 0.9, 0.9, 0.9, 0.1]
    got = [weight.follow(entropy, cfg) for entropy in entropies]
    # It grows to its largest value, shrinks at the target and above, where no bonus is paid.
    assert got == pytest.approx([0.1, 0.2, 0.25, 0.0, 0.0, 0.15, 0.0, 0.0, 0.0, 0.1])
    assert weight.value == pytest.approx(0.1)
