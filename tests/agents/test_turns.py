"""Rewards of turns to the tokens of turns: by hand, against the oracle, and in whole updates."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_agent.advantages import Episodes, turn_advantages
from grpo_agent.config import AdvantageConfig, GrpoConfig, LossConfig, OverlongConfig
from grpo_agent.mechanisms import ADVANTAGE, Mechanism, resolve
from grpo_agent.turn_batch import collate_turns
from grpo_agent.turns import flat_turns
from grpo_envs.errors import ConfigError
from grpo_envs.runs.groups import from_text, to_text
from grpo_envs.runs.metrics import group_metrics
from grpo_envs.types import Completion, Group, Reward, Turn
from grpo_policy.policy import Policy
from tests.agents.test_advantages import ADVANTAGES
from tests.agents.test_agent import agent_of, chosen, gradient, made, move, same, size_of, weights
from tests.support.oracle import oracle_turn_advantages

Members = Sequence[Sequence[float]]
CENTERED = AdvantageConfig(name="centered")
REPLY = 2
"""Tokens of each reply."""


def talked(members: Members, tokens: int = 3, *, key: int = 0, totals: Any = None) -> Group:
    """A group by hand: the rewards of each member's turns, each an answer of `tokens` tokens.

    Replies have two tokens, which are masked. `totals` are the rewards of whole episodes.
    """
    completions = []
    for i, rewards in enumerate(members):
        mask = ([True] * tokens + [False] * REPLY) * len(rewards)
        mask = mask[: len(mask) - REPLY]
        starts = tuple(range(0, len(mask), tokens + REPLY))
        completions.append(
            Completion(
                text="",
                token_ids=tuple(20 + (7 * i + t) % 60 for t in range(len(mask))),
                logprobs=tuple(-1.0 if flag else 0.0 for flag in mask),
                mask=tuple(mask),
                turns=tuple(Turn(action="", reward=r) for r in rewards),
                turn_lengths=(tokens,) * len(rewards),
                turn_starts=starts,
            )
        )
    totals = [sum(rewards) for rewards in members] if totals is None else totals
    return Group(
        key=key,
        prompt="",
        prompt_ids=(5, 6, 7 + key),
        completions=tuple(completions),
        rewards=tuple(Reward(parts={"correct": total}) for total in totals),
    )


def cfg_of(turns: str, discount: float = 1.0, name: str = "centered") -> AdvantageConfig:
    return AdvantageConfig(name=name, turns=turns, discount=discount)


def advantages_of(group: Group, cfg: AdvantageConfig) -> list[list[float]]:
    """The advantage of each turn of each member, read off its first token."""
    tokens = max(len(c.token_ids) for c in group.completions)
    turns = collate_turns([group], tokens, torch.empty(0, dtype=torch.float64), apart=True)
    mask = torch.zeros(len(group.completions), tokens, dtype=torch.bool)
    for i, c in enumerate(group.completions):
        mask[i, : len(c.mask)] = torch.tensor(c.mask)
    episodes = Episodes(
        rewards_PGK=turns.rewards_BK[None],
        taken_PGK=turns.taken_BK[None],
        valid_PG=torch.tensor([[r.valid for r in group.rewards]]),
        mask_PGT=mask[None],
        turn_PGT=turns.turn_BT[None],
    )
    found = turn_advantages(episodes, resolve(ADVANTAGE, cfg), cfg)[0]
    return [
        [found[i, start].item() for start in c.turn_starts] for i, c in enumerate(group.completions)
    ]


THREE = [[0.0, 1.0], [0.0, 0.0], [1.0]]
"""The first earns in its second turn, the last in its only one."""


@pytest.mark.parametrize(
    ("turns", "discount", "expected"),
    [
        # Returns of the first turn 1, 0, 1; of the second, of those that took it, 1, 0.
        pytest.param("discounted", 1.0, [[1 / 3, 0.5], [-2 / 3, -0.5], [1 / 3]], id="to go"),
        # 1/2, 0, 1
        pytest.param("discounted", 0.5, [[0.0, 0.5], [-0.5, -0.5], [0.5]], id="discounted"),
        pytest.param("discounted", 0.0, [[-1 / 3, 0.5], [-1 / 3, -0.5], [2 / 3]], id="its own"),
        # Rewards of the first turn 0, 0, 1, then the advantage of the second.
        pytest.param("per_turn", 1.0, [[1 / 6, 0.5], [-5 / 6, -0.5], [2 / 3]], id="per turn"),
        pytest.param("per_turn", 0.5, [[-1 / 12, 0.5], [-7 / 12, -0.5], [2 / 3]], id="half"),
        pytest.param("per_turn", 0.0, [[-1 / 3, 0.5], [-1 / 3, -0.5], [2 / 3]], id="alone"),
    ],
)
def test_by_hand(turns: str, discount: float, expected: list[list[float]]) -> None:
    got = advantages_of(talked(THREE), cfg_of(turns, discount))
    for row, wanted in zip(got, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-12)


def test_a_turn_that_one_member_took_is_compared_with_nothing() -> None:
    group = talked([[0.0, 0.0, 5.0], [1.0], [0.0, 2.0]])
    got = advantages_of(group, cfg_of("discounted", 0.0))
    assert got[0][2] == 0
    assert got[0][1] == -got[2][1] == -1
    assert advantages_of(group, cfg_of("per_turn"))[0] == pytest.approx([-4 / 3, -1, 0])


def test_what_a_total_has_beside_its_turns_is_the_last_turns() -> None:
    """A reward of the whole conversation, such as one that sees the group."""
    more = talked([[0.0, 1.0], [0.0, 0.0]], totals=[1.5, 0.0])
    assert advantages_of(more, cfg_of("per_turn", 0.0)) == [[0, 0.75], [0, -0.75]]


# --- against the oracle


def random_episodes(seed: int) -> tuple[Episodes, list[Any]]:
    """Groups whose members took one to four turns of one to three tokens."""
    rng = random.Random(seed)
    groups, members, most = 6, 5, 4
    rewards = [
        [
            [rng.choice([0.0, 0.5, 1.0, rng.gauss(0, 1)]) for _ in range(rng.randint(1, most))]
            for _ in range(members)
        ]
        for _ in range(groups)
    ]
    rewards[1] = [[0.25] * len(member) for member in rewards[1]]  # flat, each turn alone
    rewards[2] = [[0.0] * (len(m) - 1) + [1.0] for m in rewards[2]]  # flat as a whole
    valid = [[rng.random() < 0.8 for _ in range(members)] for _ in range(groups)]
    tokens = [[[rng.randint(1, 3) for _ in member] for member in group] for group in rewards]
    length = most * (3 + REPLY)
    shape = (groups, members)
    rewards_PGK, taken_PGK = torch.zeros(*shape, most).double(), torch.zeros(*shape, most).bool()
    mask_PGT, turn_PGT = torch.zeros(*shape, length).bool(), torch.zeros(*shape, length).long()
    for p, g in ((p, g) for p in range(groups) for g in range(members)):
        at = 0
        for k, (reward, count) in enumerate(zip(rewards[p][g], tokens[p][g], strict=True)):
            rewards_PGK[p, g, k], taken_PGK[p, g, k] = reward, True
            mask_PGT[p, g, at : at + count] = True
            turn_PGT[p, g, at:] = k
            at += count + REPLY
    valid_PG = torch.tensor(valid)
    rewards_PGK[~valid_PG] = torch.nan  # no rule may look at it
    episodes = Episodes(
        rewards_PGK=rewards_PGK,
        taken_PGK=taken_PGK,
        valid_PG=valid_PG,
        mask_PGT=mask_PGT,
        turn_PGT=turn_PGT,
    )
    return episodes, [rewards, valid, tokens]


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("turns", ["discounted", "per_turn"])
@pytest.mark.parametrize("discount", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_every_rule_equals_plain_loops(name: str, turns: str, discount: float, seed: int) -> None:
    e, (rewards, valid, tokens) = random_episodes(seed)
    cfg = AdvantageConfig(name=name, turns=turns, discount=discount)
    got_PGT = turn_advantages(e, resolve(ADVANTAGE, cfg), cfg)
    expected_PGT = torch.zeros_like(got_PGT)
    for p, group in enumerate(oracle_turn_advantages(rewards, valid, tokens, cfg)):
        for g, member in enumerate(group):
            for k, advantage in enumerate(member):
                expected_PGT[p, g, e.mask_PGT[p, g] & (e.turn_PGT[p, g] == k)] = advantage
    torch.testing.assert_close(got_PGT, expected_PGT, rtol=1e-8, atol=1e-8)
    assert got_PGT.isfinite().all()
    assert any(len(row[row != 0].unique()) > 1 for row in got_PGT.flatten(0, 1))


def test_a_rule_that_tells_tokens_apart_adds_the_mean_of_later_turns() -> None:
    """Tokens count up in each turn: 1, 2, 3 times the centred reward."""

    def rising(s: Any) -> Tensor:
        a_PG = s.rewards_PG - s.rewards_PG.mean(dim=1, keepdim=True)
        a_PGT: Tensor = a_PG[..., None] * s.mask_PGT.cumsum(dim=-1)
        return a_PGT

    cfg = cfg_of("per_turn", 0.5)
    group = talked([[1.0, 2.0], [0.0, 0.0]])
    turns = collate_turns([group], 8, torch.empty(0, dtype=torch.float64), apart=True)
    e = Episodes(
        rewards_PGK=turns.rewards_BK[None],
        taken_PGK=turns.taken_BK[None],
        valid_PG=torch.ones(1, 2).bool(),
        mask_PGT=torch.tensor([[c.mask for c in group.completions]]),
        turn_PGT=turns.turn_BT[None],
    )
    got = turn_advantages(e, Mechanism("agent.advantage.name=rising", rising), cfg)
    first = [0.5 * n + 0.5 * 1.0 * 2 for n in (1, 2, 3)]  # the mean of 1, 2, 3 is 2
    assert got[0, 0, :3].tolist() == first
    assert got[0, 0, 5:].tolist() == [1.0, 2.0, 3.0]


# --- in an update


GIVEN = [talked(THREE), talked([[0.5, 0.0, 1.0], [0.0, 0.25], [0.0]], key=1)]


@pytest.mark.parametrize("turns", ["discounted", "per_turn"])
def test_answers_of_one_turn_are_credited_as_episodes(random_policy: Policy, turns: str) -> None:
    """Bit for bit, in the gradient and in what is logged, with every shaping of rewards."""
    given = [made([3, 6, 5, 2], [1.0, 0.0, 0.25, 0.0], truncated=[1])]
    given.append(made([4, 4, 1, 6], [0.0, 0.0, 1.0, 0.5], key=1))
    how: dict[str, Any] = {
        "loss": LossConfig(beta=0.1, kl="k1", kl_in="reward"),
        "overlong": OverlongConfig(buffer=0.5),
        "max_tokens": 8,
    }
    one = gradient(random_policy, given, advantage=cfg_of("episode"), **how)
    other = gradient(random_policy, given, advantage=cfg_of(turns, 0.3), **how)
    assert size_of(one) > 1e-3
    assert all(value.equal(other[name]) for name, value in one.items())
    logged = [
        agent_of(random_policy, advantage=cfg_of(t), lr=0.0, **how).update(given)[1]
        for t in ("episode", turns)
    ]
    assert logged[0] == logged[1]


@pytest.mark.parametrize(("turns", "discount"), [("discounted", 0.5), ("per_turn", 1.0)])
def test_the_tokens_of_a_turn_move_by_its_advantage(
    random_policy: Policy, turns: str, discount: float
) -> None:
    """The gradient of -A_k lp, summed by hand over the tokens of each turn."""
    cfg, loss = cfg_of(turns, discount), LossConfig(beta=0.0)
    cut = [replace(g, completions=g.completions[:3], rewards=g.rewards[:3]) for g in GIVEN]
    got = gradient(random_policy, cut, advantage=cfg, loss=loss, group_size=3)
    before = weights(random_policy)
    move(random_policy, 2)  # as `gradient` does
    random_policy.zero_grad()
    for group in cut:
        for i, row in enumerate(advantages_of(group, cfg)):
            logps_T = chosen(random_policy, group, i, 1.0)
            count = sum(group.completions[i].mask)
            for k, start in enumerate(group.completions[i].turn_starts):
                (-row[k] * logps_T[start : start + 3].sum() / count / 6).backward(retain_graph=True)
    named = random_policy.model.named_parameters()
    expected = {name: p.grad.clone() for name, p in named if p.grad is not None}
    random_policy.model.load_state_dict(before, strict=False)
    same(got, expected, 1e-6)
    whole = gradient(random_policy, cut, advantage=CENTERED, loss=loss, group_size=3)
    assert max((got[n] - whole[n]).abs().max() for n in got) > 1e-3


def test_what_is_logged_of_a_member_is_the_mean_over_its_tokens(random_policy: Policy) -> None:
    agent = agent_of(random_policy, advantage=cfg_of("discounted"), group_size=3)
    metrics, logged = agent.update(GIVEN)
    assert logged[0] == pytest.approx([5 / 12, -7 / 12, 1 / 3])
    # Of six turns one was taken by a single member; all others differ.
    assert metrics["group/turns_flat"] == pytest.approx(1 / 5)
    assert "group/turns_flat" not in agent_of(random_policy, group_size=3).update(GIVEN)[0]


@pytest.mark.parametrize("tokens", [1, 60])
def test_the_micro_batch_changes_nothing(random_policy: Policy, tokens: int) -> None:
    cfg = cfg_of("per_turn", 0.9)
    how: dict[str, Any] = {"epochs": 1, "group_size": 3}
    whole = gradient(random_policy, GIVEN, advantage=cfg, micro_batch_tokens=10_000, **how)
    same(whole, gradient(random_policy, GIVEN, advantage=cfg, micro_batch_tokens=tokens, **how))


# --- shaping


def test_a_turn_pays_for_its_own_length(random_policy: Policy) -> None:
    """An episode pays for its longest answer, wherever it is."""
    group = talked([[0.0, 0.0], [0.0, 0.0]])
    long = replace(group.completions[0], turn_lengths=(8, 3))  # of at most 8: the whole penalty
    group = replace(group, completions=(long, group.completions[1]))
    how: dict[str, Any] = {"overlong": OverlongConfig(buffer=0.5), "max_tokens": 8, "group_size": 2}
    apart = agent_of(random_policy, advantage=cfg_of("per_turn", 0.0), **how)
    assert apart.update([group])[1] == [[pytest.approx(-0.25), pytest.approx(0.25)]]
    whole = agent_of(random_policy, advantage=CENTERED, **how)
    assert whole.update([group])[1] == [[-0.5, 0.5]]


def test_a_conversation_that_is_cut_pays_in_its_last_turn(random_policy: Policy) -> None:
    group = talked([[0.0, 0.0], [0.0, 0.0]])
    cut = replace(group.completions[0], finish_reason="length")
    group = replace(group, completions=(cut, group.completions[1]))
    how: dict[str, Any] = {"overlong": OverlongConfig(truncated="penalise"), "group_size": 2}
    agent = agent_of(random_policy, advantage=cfg_of("per_turn", 0.0), **how)
    assert agent.update([group])[1] == [[pytest.approx(-0.25), pytest.approx(0.25)]]


def test_a_turn_pays_for_its_own_kl(random_policy: Policy) -> None:
    """k1 of the tokens of each turn, by hand from what was sampled and the reference."""
    loss = LossConfig(beta=0.5, kl="k1", kl_in="reward")
    group = talked([[0.0, 0.0], [0.0, 0.0]])
    agent = agent_of(random_policy, advantage=cfg_of("per_turn", 0.0), loss=loss, group_size=2)
    assert agent.learner.reference is not None
    move(agent.learner.reference, 1)
    _, logged = agent.update([group])
    paid = []
    for i, c in enumerate(group.completions):
        with torch.no_grad():
            ref = chosen(agent.learner.reference, group, i, 1.0)
        paid.append([0.5 * sum(-1 - ref[s + n].item() for n in range(3)) for s in c.turn_starts])
    by_hand = sum(paid[1][k] - paid[0][k] for k in range(2)) / 4  # the mean of two centred turns
    assert abs(by_hand) > 1e-3
    assert logged == [[pytest.approx(by_hand, abs=1e-5), pytest.approx(-by_hand, abs=1e-5)]]


# --- what teaches nothing


@pytest.mark.parametrize(
    ("members", "turns", "discount", "flat"),
    [
        pytest.param([[0, 1], [1, 0]], "episode", 1.0, [True], id="equal totals"),
        pytest.param([[0, 1], [1, 0]], "discounted", 1.0, [True, False], id="to go"),
        pytest.param([[0, 1], [1, 0]], "per_turn", 1.0, [False, False], id="per turn"),
        pytest.param([[0, 1], [0]], "episode", 1.0, [False], id="other totals"),
        pytest.param([[0, 1], [0]], "discounted", 1.0, [False, True], id="other totals to go"),
        pytest.param([[0, 1], [0]], "per_turn", 1.0, [True, True], id="none to compare with"),
        pytest.param([[0, 1], [1, 0]], "discounted", 0.5, [False, False], id="later counts less"),
        pytest.param([[0.1, 0.2], [0.3 - 0.2, 0.2]], "per_turn", 1.0, [True, True], id="last bits"),
    ],
)
def test_a_group_is_flat_where_all_its_turns_are(
    members: Members, turns: str, discount: float, flat: list[bool]
) -> None:
    cfg, group = cfg_of(turns, discount), talked(members)
    assert flat_turns(group, cfg) == flat
    agent = GrpoConfig(advantage=cfg)
    assert agent.flat(group) == all(flat)
    assert group_metrics([group], agent.flat)["group/zero_std"] == all(flat)
    if turns != "episode":
        some = [a for row in advantages_of(group, cfg) for a in row]
        assert any(some) != all(flat)  # flat exactly where every advantage is 0


def test_invalid_members_are_compared_with_nobody() -> None:
    group = talked([[0.0, 1.0], [1.0, 0.0]])
    broken = replace(group, rewards=(group.rewards[0], Reward(valid=False, error="down")))
    cfg = cfg_of("per_turn")
    assert flat_turns(broken, cfg) == [True, True]
    nobody = replace(group, rewards=(Reward(valid=False, error="down"),) * 2)
    assert flat_turns(nobody, cfg) == [True]


# --- what is written down


def test_the_places_of_turns_survive_a_checkpoint() -> None:
    (back,) = from_text(to_text([GIVEN[0]]))
    assert back == GIVEN[0]
    older = to_text([GIVEN[0]]).replace(', "turn_starts": [0, 5]', "")
    assert '"turn_starts": [0, 5]' not in older
    assert from_text(older)[0].completions[0].turn_starts == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"turns": "per-turn"}, "agent.advantage.turns=per-turn. Allowed: episode, discounted, "),
        ({"turns": "per_turn", "discount": 1.5}, "agent.advantage.discount=1.5. Allowed: 0 to 1."),
        ({"discount": 0.9}, "agent.advantage.discount=0.9 with agent.advantage.turns=episode"),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AdvantageConfig(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- learning


def steps_to_learn(cfg: AdvantageConfig, seed: int, turns: int = 8, most: int = 400) -> int:
    """Updates of a table of logits until it earns nine tenths, by -A log pi and nothing else.

    In each turn one of four actions earns 1/K, whatever was done in the others; a group of eight
    members. A turn's credit is thus its own reward, and those of the other turns are noise in it.
    """
    noise = torch.Generator().manual_seed(seed)
    right_K = torch.randint(4, (turns,), generator=noise)
    logits_KA = torch.zeros(turns, 4, dtype=torch.float64, requires_grad=True)
    rule, places_K = resolve(ADVANTAGE, cfg), torch.arange(turns)
    for step in range(most):
        logps_KA = logits_KA.log_softmax(-1)
        if logps_KA[places_K, right_K].exp().mean() > 0.9:
            return step
        actions_KG = torch.multinomial(logps_KA.detach().exp(), 8, True, generator=noise)
        earned_GK = (actions_KG == right_K[:, None]).double().T / turns
        apart = cfg.turns != "episode"
        a_PGT = turn_advantages(
            Episodes(
                rewards_PGK=(earned_GK if apart else earned_GK.sum(1, keepdim=True))[None],
                taken_PGK=torch.ones(1, 8, turns if apart else 1).bool(),
                valid_PG=torch.ones(1, 8).bool(),
                mask_PGT=torch.ones(1, 8, turns).bool(),
                turn_PGT=(places_K if apart else torch.zeros_like(places_K)).expand(1, 8, -1),
            ),
            rule,
            cfg,
        )
        a_GK = a_PGT[0] if apart else a_PGT[0, :, None].expand(8, turns)
        logps_GK = logps_KA.gather(1, actions_KG).T
        (gradient_KA,) = torch.autograd.grad(-(a_GK * logps_GK).mean(0).sum(), logits_KA)
        with torch.no_grad():
            logits_KA -= 0.3 * gradient_KA
    return most


def test_credit_of_turns_learns_from_fewer_samples() -> None:
    """Three seeds each way: the less of the other turns is in a turn's credit, the sooner."""
    ways = (("episode", 1.0), ("discounted", 1.0), ("per_turn", 0.0))
    episode, to_go, own = [
        [steps_to_learn(cfg_of(*way, name="standardized"), seed) for seed in range(3)]
        for way in ways
    ]
    assert max(own) < min(to_go) <= max(to_go) < min(episode)
