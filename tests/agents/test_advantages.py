"""Advantages compared with numbers by hand and with plain loops (tests/support/oracle.py)."""

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from grpo_agent import advantages as module
from grpo_agent.advantages import Scores
from grpo_agent.config import AdvantageConfig
from grpo_agent.mechanisms import ADVANTAGE, resolve
from grpo_agent.part_batch import collate_parts
from grpo_envs.env import installed
from grpo_envs.errors import ConfigError
from grpo_envs.types import Completion, Group, Reward
from tests.support.oracle import oracle_advantages, oracle_gdpo

NAN = float("nan")
GROUP_WISE = ("standardized", "centered", "leave_one_out", "max_rl")
STEP_WIDE = ("batch_std", "whitened", "gdpo")
ADVANTAGES = [
    name
    for name, ep in installed.available(installed.ADVANTAGES).items()
    if ep.module == module.__name__
]


def scores(
    rewards: list[list[float]],
    valid: list[list[bool]] | None = None,
    tokens: list[list[int]] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Scores:
    rewards_PG = torch.tensor(rewards, dtype=dtype)
    counts_PG = torch.tensor(tokens or [[1] * len(row) for row in rewards])
    most = int(counts_PG.max())
    return Scores(
        rewards_PG=rewards_PG,
        valid_PG=torch.ones_like(rewards_PG).bool() if valid is None else torch.tensor(valid),
        mask_PGT=torch.arange(most) < counts_PG[..., None],
    )


def advantages(
    s: Scores, name: str = "standardized", *, eps: float = 1e-4, ddof: int = 1
) -> Tensor:
    cfg = AdvantageConfig(name=name, eps=eps, ddof=ddof)
    return module.advantages(s, resolve(ADVANTAGE, cfg))


def close(got: Tensor, expected: list[list[float]], tolerance: float = 1e-12) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


ONE_IN_8 = [1.0] + [0.0] * 7


@pytest.mark.parametrize(
    ("name", "success", "failure"),
    [
        # mean 1/8, unbiased std sqrt(7/8 * 1/7) = sqrt(1/8) = 0.353553: 7/8 / (0.353553 + 1e-4)
        pytest.param("standardized", 2.474174, -0.353453, id="standardized"),
        pytest.param("centered", 7 / 8, -1 / 8, id="centered"),
        pytest.param("leave_one_out", 1.0, -1 / 7, id="leave_one_out"),
        pytest.param("batch_std", 2.474174, -0.353453, id="batch_std of a single group"),
        pytest.param("whitened", 2.474174, -0.353453, id="whitened, completions of one length"),
        pytest.param("max_rl", 7.0, -1.0, id="max_rl"),
    ],
)
def test_one_success_in_eight(name: str, success: float, failure: float) -> None:
    close(advantages(scores([ONE_IN_8]), name), [[success] + [failure] * 7], 1e-6)


@pytest.mark.parametrize(
    ("name", "ddof", "expected"),
    [
        # Groups (1 0 0 0) and (3 1 2 2), means 1/4 and 2. Sums of squares: of the groups 3/4 and 2;
        # of all eight about their mean 9/8: 19 - 81/8 = 71/8; of the centred eight: 11/4.
        pytest.param("standardized", 1, [[1.5, -0.5, -0.5, -0.5],
            [math.sqrt(1.5), -math.sqrt(1.5), 0, 0]], id="standardized, std sqrt(1/4), sqrt(2/3)"),
        pytest.param("standardized", 0, [[math.sqrt(3)] + [-math.sqrt(1 / 3)] * 3,
            [math.sqrt(2), -math.sqrt(2), 0, 0]], id="standardized, std sqrt(3/16), sqrt(1/2)"),
        pytest.param("centered", 1, [[0.75, -0.25, -0.25, -0.25], [1, -1, 0, 0]], id="centered"),
        pytest.param("leave_one_out", 1, [[1, -1 / 3, -1 / 3, -1 / 3], [4 / 3, -4 / 3, 0, 0]],
            id="leave_one_out"),
        pytest.param("batch_std", 1, [[x / math.sqrt(71 / 56) for x in row]
            for row in ([0.75, -0.25, -0.25, -0.25], [1, -1, 0, 0])], id="batch_std, 71/8/7"),
        pytest.param("batch_std", 0, [[x / math.sqrt(71 / 64) for x in row]
            for row in ([0.75, -0.25, -0.25, -0.25], [1, -1, 0, 0])], id="batch_std, 71/8/8"),
        pytest.param("whitened", 1, [[x / math.sqrt(11 / 28) for x in row]
            for row in ([0.75, -0.25, -0.25, -0.25], [1, -1, 0, 0])], id="whitened, 11/4/7"),
        pytest.param("whitened", 0, [[x / math.sqrt(11 / 32) for x in row]
            for row in ([0.75, -0.25, -0.25, -0.25], [1, -1, 0, 0])], id="whitened, 11/4/8"),
        pytest.param("max_rl", 1, [[3, -1, -1, -1], [0.5, -0.5, 0, 0]], id="max_rl"),
    ],
)  # fmt: skip
def test_two_groups(name: str, ddof: int, expected: list[list[float]]) -> None:
    s = scores([[1, 0, 0, 0], [3, 1, 2, 2]])
    close(advantages(s, name, eps=0.0, ddof=ddof), expected)


def test_whitening_counts_a_completion_as_often_as_it_has_tokens() -> None:
    # Centred +1 and -1 with 3 tokens and 1: mean 1/2, squares about it 3 * 1/4 + 9/4 = 3.
    s = scores([[2, 0]], tokens=[[3, 1]])
    close(advantages(s, "whitened", eps=0.0, ddof=1), [[0.5, -1.5]])  # std sqrt(3/3)
    close(advantages(s, "whitened", eps=0.0, ddof=0), [[x / math.sqrt(0.75) for x in (0.5, -1.5)]])


@pytest.mark.parametrize(
    ("name", "success"),
    [
        pytest.param("standardized", 1 / (math.sqrt(2) + 0.5), id="standardized"),
        pytest.param("centered", 1.0, id="centered has none"),
        pytest.param("leave_one_out", 2.0, id="leave_one_out has none"),
        pytest.param("batch_std", 1 / (math.sqrt(2) + 0.5), id="batch_std"),
        pytest.param("whitened", 1 / (math.sqrt(2) + 0.5), id="whitened"),
        pytest.param("max_rl", 1.0, id="max_rl has none"),
    ],
)
def test_eps_is_added_to_a_std(name: str, success: float) -> None:
    # Rewards 2 and 0: centred +-1, std sqrt(2)
    close(advantages(scores([[2, 0]]), name, eps=0.5), [[success, -success]])


@pytest.mark.parametrize(
    "rewards",
    [
        pytest.param([-1.0, 1.0, 0.0], id="mean 0"),
        pytest.param([-1.0, -2.0, 0.0], id="mean below 0"),
    ],
)
def test_max_rl_is_zero_where_the_mean_is_not_positive(rewards: list[float]) -> None:
    # The other group is not touched: its mean is 1/3.
    got = advantages(scores([rewards, [1, 0, 0]]), "max_rl")
    assert torch.equal(got[0], torch.zeros(3, dtype=torch.float64))
    close(got[1:], [[2, -1, -1]])


def test_leave_one_out_is_less_the_mean_of_the_others() -> None:
    rewards = [3.0, 1.0, 7.0, -2.0]
    others = [(1 + 7 - 2) / 3, (3 + 7 - 2) / 3, (3 + 1 - 2) / 3, (3 + 1 + 7) / 3]
    expected = [r - mean for r, mean in zip(rewards, others, strict=True)]
    close(advantages(scores([rewards]), "leave_one_out"), [expected])


# --- against the oracle


def random_scores(seed: int) -> Scores:
    """Return groups of binary and real rewards, with invalid members and all completion lengths."""
    rng = random.Random(seed)
    groups, members = 7, 6
    rewards = [[rng.gauss(0.3, 1) for _ in range(members)] for _ in range(groups)]
    rewards[1] = [float(rng.random() < 0.4) for _ in range(members)]
    rewards[2] = [0.3] * members  # flat
    rewards[3] = [r - 3 for r in rewards[3]]  # of negative mean
    valid = [[rng.random() < 0.75 for _ in range(members)] for _ in range(groups)]
    valid[0] = [True] * members
    valid[4] = [False, True, False, False, False, False]  # one left
    valid[5] = [False] * members
    rewards[6][0], valid[6][0] = NAN, False
    tokens = [[rng.randint(0, 9) for _ in range(members)] for _ in range(groups)]
    return scores(rewards, valid, tokens)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_equals_the_oracle(name: str, ddof: int, eps: float, seed: int) -> None:
    s = random_scores(seed)
    cfg = AdvantageConfig(name=name, eps=eps, ddof=ddof)
    expected = oracle_advantages(
        s.rewards_PG.tolist(), s.valid_PG.tolist(), s.tokens_PG.tolist(), cfg
    )
    close(module.advantages(s, resolve(ADVANTAGE, cfg)), expected, 1e-8)
    assert any(a > 0 for row in expected for a in row)


# --- groups that teach nothing, members that do not count


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_flat_group_gets_exact_zeros(name: str) -> None:
    # The mean of eight 0.3 in float32 is not 0.3: only comparing rewards finds such a group flat.
    s = scores([[0.3] * 8] * 3, dtype=torch.float32)
    assert (s.rewards_PG - s.rewards_PG.mean(dim=1, keepdim=True)).abs().max() > 0
    assert torch.equal(advantages(s, name, eps=0.0), torch.zeros(3, 8))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_flat_group_beside_others_gets_exact_zeros(name: str) -> None:
    # Whitening would give it the mean of the others, with the other sign.
    got = advantages(scores([[0.3] * 4, [1, 0, 0, 0]], tokens=[[5] * 4, [9, 1, 1, 1]]), name)
    assert torch.equal(got[0], torch.zeros(4, dtype=torch.float64))
    assert got[1].abs().min() > 0


@pytest.mark.parametrize("name", ADVANTAGES)
def test_invalid_members_leave_the_statistics(name: str) -> None:
    tokens = [[4, 2, 1, 50], [2, 3, 1, 2]]
    valid = [[True, True, True, False], [True] * 4]
    got = advantages(scores([[1, 0, 0, 99], [4, 3, 2, 1]], valid, tokens), name)
    small = advantages(
        scores(
            [[1, 0, 0, 0], [4, 3, 2, 1]],
            valid,
            [[4, 2, 1, 0], [2, 3, 1, 2]],
        ),
        name,
    )
    torch.testing.assert_close(got, small)
    assert got[0, 3] == 0
    alone = advantages(scores([[1, 0, 0, 99]], valid[:1], tokens[:1]), name)
    expected = advantages(scores([[1, 0, 0]], tokens=[[4, 2, 1]]), name)
    torch.testing.assert_close(alone[:, :3], expected)


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("odd", [NAN, math.inf, -math.inf], ids=["nan", "inf", "minus inf"])
def test_what_an_invalid_member_has_does_not_spread(name: str, odd: float) -> None:
    valid = [[True, True, False], [True, True, True]]
    got = advantages(scores([[1, 0, odd], [2, 0, 0]], valid), name)
    assert torch.equal(got, advantages(scores([[1, 0, 0], [2, 0, 0]], valid), name))
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_fewer_than_two_valid_members_teach_nothing(name: str) -> None:
    valid = [[True, False, False], [False, False, False], [True, True, False]]
    s = scores([[1, 0, 0], [1, 0, 0], [1, 0, 1]], valid)
    got = advantages(s, name)
    assert torch.equal(got[:2], torch.zeros(2, 3, dtype=torch.float64))
    assert got[2, 0] > 0 > got[2, 1]
    assert module.flat(s).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("rewards", "valid", "is_flat"),
    [
        pytest.param([1, 1, 1], [True, True, True], True, id="all equal"),
        pytest.param([1, 1, 0], [True, True, True], False, id="one differs"),
        pytest.param([1, 1, 0], [True, True, False], True, id="the one that differs is invalid"),
        pytest.param([1, 0, 0], [True, True, False], False, id="two that differ"),
        pytest.param([-2, -2, 0], [True, True, False], True, id="below what is put for invalid"),
        pytest.param([1, 1 + 1e-15, 1], [True, True, True], True, id="equal but for the last bit"),
        pytest.param([1, 1 + 1e-6, 1], [True, True, True], False, id="close, and not equal"),
    ],
)
def test_flat(rewards: list[float], valid: list[bool], is_flat: bool) -> None:
    assert module.flat(scores([rewards], [valid])).tolist() == [is_flat]


# --- which groups touch which


ONE, OTHER = [1.0, 0.0, 0.0, 1.0], [5.0, 6.0, 7.0, 9.0]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_groups_touch_each_other_only_by_the_step_wide_rules(name: str) -> None:
    both = advantages(scores([ONE, OTHER]), name)[:1]
    alone = advantages(scores([ONE]), name)
    assert torch.allclose(both, alone) == (name in GROUP_WISE)
    assert {*GROUP_WISE, *STEP_WIDE} == {*ADVANTAGES}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_order_of_groups_and_members_is_that_of_their_advantages(name: str) -> None:
    s = random_scores(3)
    groups, members = torch.tensor([3, 0, 6, 5, 1, 4, 2]), torch.tensor([2, 5, 0, 1, 4, 3])
    moved = Scores(
        rewards_PG=s.rewards_PG[groups][:, members],
        valid_PG=s.valid_PG[groups][:, members],
        mask_PGT=s.mask_PGT[groups][:, members],
    )
    expected = advantages(s, name)[groups][:, members]
    torch.testing.assert_close(advantages(moved, name), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ddof", [0, 1])
def test_whitened_tokens_have_mean_0_and_std_1(ddof: int) -> None:
    s = scores([[1, 0, 0], [4, 3, 7]], tokens=[[4, 2, 0], [9, 3, 1]])
    got = advantages(s, "whitened", eps=0.0, ddof=ddof).flatten()
    tokens_N = got.repeat_interleave(s.tokens_PG.flatten())
    assert tokens_N.mean().item() == pytest.approx(0, abs=1e-12)
    assert tokens_N.std(correction=ddof).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "name", ["standardized", "centered", "leave_one_out", "batch_std", "max_rl"]
)
def test_the_advantages_of_a_group_add_up_to_0(name: str) -> None:
    got = advantages(random_scores(1), name)
    torch.testing.assert_close(got.sum(dim=1), torch.zeros(7).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_type_is_that_of_the_rewards(name: str) -> None:
    assert advantages(scores([ONE, OTHER], dtype=torch.float32), name).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"name": "standardised"}, "Did you mean 'standardized'?", id="no such rule"),
        pytest.param({"eps": -1.0}, "agent.advantage.eps=-1.0. Allowed: 0 or more", id="eps"),
        pytest.param({"ddof": 2}, "agent.advantage.ddof=2. Allowed: 0, 1", id="ddof"),
    ],
)
def test_a_mistake_ends_with_one_line(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AdvantageConfig(**given)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- parts of rewards


def test_each_part_is_compared_by_itself() -> None:
    # One group, two parts: A is right in 1 of 4, B in 2 of 4. With the totals 2, 1, 1, 0 members 1
    # and 2 would be alike; the rarer part counts more: (3/4) / (1/2) = 1.5 beside sqrt(3)/2.
    a, b = [1, 0, 0, 0], [1, 1, 1, 0]
    parts: list[list[dict[str, float] | None]]
    parts = [[{"a": float(x), "b": float(y)} for x, y in zip(a, b, strict=True)]]
    close(by_parts(parts, {}, eps=0.0), oracle_gdpo(parts, AdvantageConfig(name="gdpo", eps=0.0)))
    raw = [1.5 + 0.5, -0.5 + 0.5, -0.5 + 0.5, -0.5 - 1.5]
    spread = math.sqrt(8 / 3)  # of 2, 0, 0, -2
    close(by_parts(parts, {}, eps=0.0), [[x / spread for x in raw]])


def by_parts(
    parts: list[list[dict[str, float] | None]], weights: dict[str, float], *, eps: float
) -> Tensor:
    """Return the advantages of rewards with these components; a member that is None is invalid."""
    groups = [
        Group(
            key=p,
            prompt="",
            prompt_ids=(1,),
            completions=(Completion(text=""),) * len(row),
            rewards=tuple(
                Reward(valid=False) if m is None else Reward(parts=m, weights=weights) for m in row
            ),
        )
        for p, row in enumerate(parts)
    ]
    s = scores([[r.total for r in g.rewards] for g in groups])
    valid = torch.tensor([[r.valid for r in g.rewards] for g in groups])
    s = replace(s, valid_PG=valid, parts=partial(collate_parts, groups, s.rewards_PG))
    return module.advantages(s, resolve(ADVANTAGE, AdvantageConfig(name="gdpo", eps=eps)))


@pytest.mark.parametrize("name", ["standardized", "leave_one_out", "whitened", "gdpo"])
def test_parts_are_put_into_tensors_for_the_rule_that_asks(name: str) -> None:
    asked = []

    def parts() -> tuple[Tensor, Tensor]:
        asked.append(name)
        return torch.rand(1, 3, 2), torch.ones(1, 3, 2)

    s = replace(scores([[0.0, 1.0, 1.0]]), parts=parts)
    module.advantages(s, resolve(ADVANTAGE, AdvantageConfig(name=name)))
    assert bool(asked) == (name == "gdpo")


@pytest.mark.parametrize("seed", range(6))
def test_parts_equal_the_oracle(seed: int) -> None:
    """Weights have both signs; components are absent or constant; some members are invalid."""
    rng = random.Random(seed)
    parts: list[list[dict[str, float] | None]] = []
    for p in range(5):
        parts.append([])
        for _ in range(6):
            member = {"right": float(rng.random() < 0.4), "form": 1.0, "length": rng.random()}
            if p == 2:
                member["tools"] = rng.random()
            if p == 3 and rng.random() < 0.5:
                del member["length"]
            parts[-1].append(None if rng.random() < 0.15 else member)
    weights = {"right": 1.0, "form": 0.1, "length": -0.3}
    expected = oracle_gdpo(parts, AdvantageConfig(name="gdpo"), weights)
    close(by_parts(parts, weights, eps=1e-4), expected, 1e-8)
