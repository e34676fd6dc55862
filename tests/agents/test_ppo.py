"""PPO: advantages, value loss and whole updates compared with plain loops, for both bodies."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grpo_agent.losses import LossInputs
from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import ConfigError
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.adapters import add_adapters
from grpo_policy.batch import collate
from grpo_policy.merging import merged_of
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.value_head import add_value_head
from grpo_ppo.agent import PpoAgent
from grpo_ppo.config import CriticConfig, PpoConfig
from grpo_ppo.critic import Critic
from grpo_ppo.gae import advantages, token_rewards, whitened
from grpo_ppo.value_loss import explained_variance, value_loss
from tests.agents.test_agent import MAX_TOKENS, apart, chosen, groups, made, move, same, size_of
from tests.support.oracle import oracle_gae, oracle_loss, oracle_value_loss

BODIES = pytest.mark.parametrize("body", ["own", "shared"])
SCORES = [[1.0], [0.0], [0.3], [1.0], [0.0], [0.5]]
Gradients = dict[str, Tensor]


def config(body: str = "own", **changes: Any) -> PpoConfig:
    critic = CriticConfig(body=body, **changes.pop("critic", {}))
    usual = {"lr": 1e-3, "warmup_steps": 0, "minibatches": 1, "max_grad_norm": 1e9}
    return PpoConfig(**{**usual, **changes}, critic=critic)


def without_kl(cfg: PpoConfig) -> PpoConfig:
    return replace(cfg, loss=replace(cfg.loss, beta=0.0))


def agent_of(policy: Policy, cfg: PpoConfig, temperature: float = 1.0) -> PpoAgent:
    decoding = Decoding(max_new_tokens=MAX_TOKENS, temperature=temperature)
    return PpoAgent(policy, cfg, Accelerator(cpu=True), decoding)


def critic_of(agent: PpoAgent) -> Policy:
    """Return the policy that has the value head."""
    return agent.policy if agent.critic is None else agent.critic.policy


def everything(agent: PpoAgent) -> dict[str, Tensor]:
    """Return copies of all trained weights, of the policy and of a critic."""
    own = {} if agent.critic is None else agent.critic.policy.trained_weights()
    found = {**agent.policy.trained_weights(), **{f"critic.{n}": v for n, v in own.items()}}
    return {name: value.clone() for name, value in found.items()}


def move_all(agent: PpoAgent, seed: int) -> None:
    """Change every weight a little; the value head more, as it is 0 at first."""
    move(agent.policy, seed)
    if agent.critic is not None:
        move(agent.critic.policy, seed + 1)
    noise = torch.Generator().manual_seed(seed)
    head = critic_of(agent).value_head
    assert head is not None
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype))


def catch(agent: PpoAgent) -> list[Gradients]:
    """Return a list to which each update appends its gradients: the policy's, then a critic's."""
    caught: list[Gradients] = []
    for learner in [agent.learner] if agent.critic is None else [agent.learner, agent.critic]:

        def keep(*_: object, policy: Policy = learner.policy) -> None:
            named = policy.masters.trained().items()
            caught.append({n: p.grad.clone() for n, p in named if p.grad is not None})

        learner.optimizer.register_step_pre_hook(keep)
    return caught


# --- advantages


def rows(seed: int, count: int = 5, tokens: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Return rewards, values and a mask with gaps (B, T); each row has at least one token."""
    random = torch.Generator().manual_seed(seed)
    shape = (count, tokens)
    rewards_BT, values_BT = (
        torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2)
    )
    mask_BT = torch.rand(shape, generator=random) < 0.7
    mask_BT[:, 0] = True
    return rewards_BT * mask_BT, values_BT, mask_BT


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_advantages_are_the_sum_of_the_paper(gamma: float, lam: float) -> None:
    rewards_BT, values_BT, mask_BT = rows(0)
    got = advantages(rewards_BT, values_BT, mask_BT, gamma=gamma, lam=lam)
    for i, row in enumerate(mask_BT.tolist()):
        own = [t for t, chosen in enumerate(row) if chosen]
        r, v = ([float(x[i, t]) for t in own] for x in (rewards_BT, values_BT))
        assert [float(got[i, t]) for t in own] == pytest.approx(
            oracle_gae(r, v, gamma, lam), abs=1e-12
        )
    assert not got[~mask_BT].any()


def test_advantages_by_hand() -> None:
    """With lambda 1 it is the discounted return minus the value: 0.81 - 0.5, 0.9 - 0.2, 1 - 0.4."""
    rewards_BT = torch.tensor([[0.0, 0.0, 1.0]])
    values_BT = torch.tensor([[0.5, 0.2, 0.4]])
    mask_BT = torch.ones(1, 3, dtype=torch.bool)
    got = advantages(rewards_BT, values_BT, mask_BT, gamma=0.9, lam=1.0)
    torch.testing.assert_close(got, torch.tensor([[0.31, 0.7, 0.6]]))
    got = advantages(rewards_BT, values_BT, mask_BT, gamma=1.0, lam=0.0)
    torch.testing.assert_close(got, torch.tensor([[-0.3, 0.2, 0.6]]))


def test_what_the_environment_writes_takes_no_time() -> None:
    rewards_BT, values_BT, _ = rows(1, tokens=4)
    whole = advantages(rewards_BT, values_BT, torch.ones(5, 4).bool(), gamma=0.9, lam=0.8)
    places = [0, 1, 5, 7]
    spread = torch.full((3, 5, 9), 7.0, dtype=torch.float64)
    spread[0][:, places], spread[1][:, places] = rewards_BT, values_BT
    mask_BT = torch.zeros(5, 9, dtype=torch.bool)
    mask_BT[:, places] = True
    got = advantages(spread[0], spread[1], mask_BT, gamma=0.9, lam=0.8)
    torch.testing.assert_close(got[:, places], whole)


def test_the_last_own_token_earns_and_each_pays_its_kl() -> None:
    mask_BT = torch.tensor([[True, False, True, False], [True, True, True, True]])
    kl_BT = torch.tensor([[0.1, 0.0, -0.2, 0.0], [0.0, 0.1, 0.2, 0.3]])
    got = token_rewards(torch.tensor([1.0, 2.0]), kl_BT, mask_BT)
    expected = torch.tensor([[-0.1, 0.0, 1.2, 0.0], [0.0, -0.1, -0.2, 1.7]])
    torch.testing.assert_close(got, expected)
    alone = token_rewards(torch.tensor([1.0, 2.0]), None, mask_BT)
    assert alone.tolist() == [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]]


def test_whitened_advantages_have_mean_0_and_std_1_over_what_counts() -> None:
    values_BT, _, mask_BT = rows(2)
    got = whitened(values_BT, mask_BT)
    counted = got[mask_BT].tolist()
    assert fmean(counted) == pytest.approx(0, abs=1e-12)
    assert pstdev(counted) == pytest.approx(1, abs=1e-6)
    assert not got[~mask_BT].any()
    ones = torch.ones_like(values_BT)
    assert not whitened(ones, mask_BT).any()
    assert not whitened(values_BT, torch.zeros_like(mask_BT)).any()


# --- the value loss


@pytest.mark.parametrize("clip", [None, 0.2, 1.0])
def test_the_value_loss_and_its_gradient_are_those_of_the_equation(clip: float | None) -> None:
    returns_BT, old_BT, _ = rows(3)
    moved = torch.randn(old_BT.shape, generator=torch.Generator().manual_seed(4)).double()
    values_BT = (old_BT + 0.5 * moved).requires_grad_()
    loss_BT, decides_BT = value_loss(values_BT, old_BT, returns_BT, clip)
    (gradient,) = torch.autograd.grad(loss_BT.sum(), values_BT)
    flat = zip(*(x.flatten().tolist() for x in (values_BT, old_BT, returns_BT)), strict=True)
    plain = [oracle_value_loss(v, old, target, clip) for v, old, target in flat]
    assert loss_BT.flatten().tolist() == pytest.approx([x.loss for x in plain], abs=1e-12)
    assert gradient.flatten().tolist() == pytest.approx([x.gradient for x in plain], abs=1e-12)
    assert decides_BT.flatten().tolist() == [float(x.clipped) for x in plain]
    assert (clip is None) == (not decides_BT.any())


def test_the_explained_variance_by_hand() -> None:
    returns_BT = torch.tensor([[0.0, 1.0], [2.0, 9.0]])
    counted_BT = torch.tensor([[True, True], [True, False]])

    def share(*values: float) -> float | None:
        values_BT = torch.tensor([[*values[:2]], [values[2], 5.0]])
        return explained_variance(values_BT, returns_BT, counted_BT)

    assert share(0.0, 1.0, 2.0) == 1.0
    assert share(5.0, 5.0, 5.0) == 0.0  # a constant explains nothing
    assert share(5.0, 6.0, 7.0) == 1.0  # an offset is no variance
    assert share(2.0, 1.0, 0.0) == pytest.approx(-3.0)  # errors -2, 0, 2 of returns -1, 0, 1
    assert explained_variance(returns_BT, torch.ones(2, 2), counted_BT) is None
    assert explained_variance(returns_BT, returns_BT, counted_BT & False) is None


# --- whole updates against plain loops


def plain_values(policy: Policy, group: Group) -> Tensor:
    """Return the value before each token of a completion, from one unpadded row."""
    prompt, completion = group.prompt_ids, group.completions[0].token_ids
    ids = torch.tensor([[*prompt, *completion]])
    hidden = policy.model.model(input_ids=ids).last_hidden_state[0]
    assert policy.value_head is not None
    linear = policy.value_head.linear
    found: Tensor = (hidden[len(prompt) - 1 : -1] * linear.weight[0]).sum(dim=1) + linear.bias[0]
    return found


Before = tuple[list[Tensor], list[Tensor], list[list[float]], list[list[float]]]


def before(agent: PpoAgent, given: Sequence[Group]) -> Before:
    """Return log-probabilities, values, advantages and returns before the step."""
    cfg, reference = agent.cfg, agent.learner.reference
    temperature = agent.learner.settings.temperature
    old = [chosen(agent.policy, g, 0, temperature).detach() for g in given]
    values = [plain_values(critic_of(agent), g).detach() for g in given]
    raw: list[list[float]] = []
    for group, v in zip(given, values, strict=True):
        stored = group.completions[0].logprobs
        rewards = [0.0] * len(stored)
        if reference is not None and cfg.loss.kl_in == "reward":
            ref = chosen(reference, group, 0, temperature).tolist()
            rewards = [-cfg.loss.beta * (lp - r) for lp, r in zip(stored, ref, strict=True)]
        rewards[-1] += group.rewards[0].total
        raw.append(oracle_gae(rewards, v.tolist(), cfg.gamma, cfg.lam))
    every = [a for row in raw for a in row]
    mean, std = (fmean(every), pstdev(every)) if cfg.whiten else (0.0, 1.0)
    whitened = [[(a - mean) / std for a in row] for row in raw]
    returns = [
        [a + float(x) for a, x in zip(row, v, strict=True)]
        for row, v in zip(raw, values, strict=True)
    ]
    return old, values, whitened, returns


def plain_losses(
    agent: PpoAgent, given: Sequence[Group], known: Before, *, on_policy: bool
) -> tuple[Tensor, Tensor]:
    """Return the policy's and the critic's loss of one update."""
    old, values, whitened, returns = known
    temperature = agent.learner.settings.temperature
    lps = [chosen(agent.policy, g, 0, temperature) for g in given]
    logps_BT = pad_sequence(lps, batch_first=True)
    stored = [torch.tensor(g.completions[0].logprobs, dtype=torch.float64) for g in given]
    reference = agent.learner.reference
    refs = [chosen(reference, g, 0, temperature).detach() for g in given] if reference else []
    x = LossInputs(
        logps_BT=logps_BT,
        entropy_BT=torch.zeros_like(logps_BT),
        old_logps_BT=logps_BT.detach() if on_policy else pad_sequence(old, batch_first=True),
        sampled_logps_BT=pad_sequence(stored, batch_first=True),
        ref_logps_BT=pad_sequence(refs, batch_first=True) if refs else None,
        advantages_BT=pad_sequence([torch.tensor(a).double() for a in whitened], batch_first=True),
        mask_BT=pad_sequence([torch.ones(len(lp), dtype=torch.bool) for lp in lps], True),
        weights_BT=torch.zeros_like(logps_BT),  # the oracle has its own
    )
    clip, tokens = agent.cfg.critic.clip, sum(map(len, lps))
    value = torch.zeros((), dtype=torch.float64)
    for group, olds, targets in zip(given, values, returns, strict=True):
        for v, o, target in zip(plain_values(critic_of(agent), group), olds, targets, strict=True):
            error = (v - target) ** 2
            if clip is not None:
                near = o + max(min(v - o, v * 0 + clip), v * 0 - clip)
                error = max(error, (near - target) ** 2)
            value = value + error / 2 / tokens
    return oracle_loss(x, agent.cfg.loss, MAX_TOKENS).total, agent.cfg.critic.coef * value


def plain_gradients(
    agent: PpoAgent, given: Sequence[Group], known: Before, *, on_policy: bool
) -> list[Gradients]:
    """Return the gradients that `catch` should find in one update."""
    policy_loss, loss_of_values = plain_losses(agent, given, known, on_policy=on_policy)
    (policy_loss + loss_of_values).backward()
    found = []
    for each in [agent.policy] if agent.critic is None else [agent.policy, agent.critic.policy]:
        named = each.masters.trained().items()
        found.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        each.zero_grad()
    return found


@BODIES
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as shipped"),
        pytest.param({"gamma": 0.9, "lam": 0.5, "whiten": False}, id="no whitening, a discount"),
        pytest.param({"critic": {"clip": None, "coef": 1.0}}, id="no clip of values"),
        pytest.param({"critic": {"clip": 0.01}}, id="a narrow clip of values"),
        pytest.param({"kl": ("k3", "loss")}, id="the KL in the loss"),
    ],
)
def test_updates_equal_plain_loops(
    random_policy: Policy, body: str, changes: dict[str, Any]
) -> None:
    """The first update is on-policy; the weights have changed before the second."""
    changes = dict(changes)
    kl, place = changes.pop("kl", ("k1", "reward"))
    cfg = config(body, epochs=2, lr=0.0, **{"critic": {}, **changes})
    cfg.critic.lr = 0.0  # the test moves them
    cfg.loss = replace(cfg.loss, beta=0.3, kl=kl, kl_in=place)
    agent = agent_of(random_policy, cfg, 0.7)
    given = groups(random_policy, SCORES, temperature=0.7)
    assert agent.learner.reference is not None
    move(agent.learner.reference, 1)
    move_all(agent, 2)
    known = before(agent, given)
    expected = [plain_gradients(agent, given, known, on_policy=True)]
    caught = catch(agent)
    move_after_the_first(agent)
    metrics, shown = agent.update(given)
    expected.append(plain_gradients(agent, given, known, on_policy=False))
    by_learner = len(expected[0])
    ordered = [expected[e][n] for n in range(by_learner) for e in range(2)]
    assert len(caught) == 2 * by_learner
    for got, plain in zip(caught, ordered, strict=True):
        assert got.keys() == plain.keys()
        # What was stored and the reference's log-probabilities are float32.
        assert apart(got, plain) < 1e-5 * size_of(plain)
    assert apart(caught[0], caught[1]) > 1e-4
    assert [a for (a,) in shown] == pytest.approx([fmean(row) for row in known[2]], abs=1e-5)
    flat = [r for row in known[3] for r in row]
    assert metrics["critic/return"] == pytest.approx(fmean(flat), abs=1e-5)


def move_after_the_first(agent: PpoAgent) -> None:
    """Change the weights of each learner after its first update."""
    learners = [agent.learner] if agent.critic is None else [agent.learner, agent.critic]
    for number, learner in enumerate(learners):
        seeds = iter([30 + number])

        def stepped(*_: object, policy: Policy = learner.policy, seeds: Any = seeds) -> None:
            for seed in seeds:
                move(policy, seed)
                if policy.value_head is not None:
                    with torch.no_grad():
                        policy.value_head.linear.bias.add_(0.05)

        learner.optimizer.register_step_post_hook(stepped)


@BODIES
def test_the_micro_batch_and_the_order_of_groups_change_nothing(
    random_policy: Policy, body: str
) -> None:
    given = groups(random_policy, SCORES)

    def gradients(given: Sequence[Group], tokens: int) -> list[Gradients]:
        policy = deepcopy(random_policy)
        policy.masters.model = policy.model
        agent = agent_of(policy, config(body, epochs=2, micro_batch_tokens=tokens))
        move_all(agent, 5)
        caught = catch(agent)
        agent.update(given)
        return caught

    whole = gradients(given, 10_000)
    assert min(map(size_of, whole)) > 1e-6
    for other in (gradients(given, 1), gradients(given[::-1], 100)):
        for one, two in zip(whole, other, strict=True):
            same(one, two, 1e-8)


# --- what the critic is


def test_a_critic_of_its_own_begins_as_the_policy_and_has_no_head_for_words(tiny: Policy) -> None:
    before = tiny.trained_weights()
    critic = Critic.of(tiny)
    weights = critic.trained_weights()
    assert {n for n in weights if not n.startswith("value_head")} == before.keys()
    for name, value in before.items():
        assert weights[name].equal(value)
        assert weights[name].data_ptr() != value.data_ptr()
    assert [n for n, _ in critic.model.named_parameters() if "lm_head" in n] == []


def test_a_critic_of_adapters_shares_the_weights_beneath(tiny: Policy) -> None:
    add_adapters(tiny, LoraConfig(rank=4), torch.float32)
    critic = Critic.of(tiny)
    theirs = dict(tiny.model.named_parameters())
    for name, p in critic.model.named_parameters():
        if p.requires_grad:
            assert p.data_ptr() != theirs[name].data_ptr()
        else:
            assert p is theirs[name]
    assert merged_of(tiny.model)
    assert not merged_of(critic.model)
    critic.masters.publish()
    assert not merged_of(critic.model)


def test_the_gradient_of_a_value_head_is_taken_with_those_of_the_model(tiny: Policy) -> None:
    """Gradients that are taken are summed over processes; the others stay in each process."""
    add_value_head(tiny)
    assert tiny.value_head is not None
    batch = collate([made([3], [1.0])], tiny.pad_id, tiny.device)
    sum(value.sum() for value in tiny(batch, 1.0)).backward()
    found = tiny.masters.take_gradients()
    assert found.keys() == tiny.masters.trained().keys()
    assert {name for name in found if name.startswith("value_head")}
    assert [p.grad for p in tiny.value_head.parameters()] == [None, None]


@BODIES
def test_before_training_every_state_is_worth_nothing(random_policy: Policy, body: str) -> None:
    agent = agent_of(random_policy, without_kl(config(body, whiten=False, lam=1.0)))
    metrics, shown = agent.update([made([3], [1.0]), made([5], [0.25], key=1)])
    assert metrics["critic/value"] == 0.0
    assert shown == [[1.0], [0.25]]


@BODIES
def test_values_become_the_returns(tiny: Policy, body: str) -> None:
    """The critic learns to distinguish six answers with different rewards."""
    cfg = config(body, lr=1e-6, max_grad_norm=1.0, lam=1.0, critic={"lr": 3e-3, "clip": None})
    if body == "shared":  # the body has the policy's rate
        cfg.lr = 1e-3
    agent = agent_of(tiny, without_kl(cfg))
    given = [made([4], [float(key % 2)], key=key) for key in range(6)]
    seen = [agent.update(given)[0] for _ in range(12)]
    assert seen[0]["critic/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert seen[-1]["critic/explained_variance"] > 0.5
    assert seen[-1]["critic/loss"] < 0.5 * seen[0]["critic/loss"]


@BODIES
def test_an_invalid_reward_teaches_neither(random_policy: Policy, body: str) -> None:
    good = [made([3], [1.0]), made([5], [0.0], key=1)]
    failed = replace(made([4], [0.0], key=2), rewards=(Reward(valid=False, error="e"),))

    def run(reward: Reward) -> tuple[dict[str, float], list[Gradients], list[list[float]]]:
        policy = deepcopy(random_policy)
        policy.masters.model = policy.model
        agent = agent_of(policy, without_kl(config(body)))
        move_all(agent, 5)
        caught = catch(agent)
        metrics, shown = agent.update([*good, replace(failed, rewards=(reward,))])
        return metrics, caught, shown

    one, caught, shown = run(Reward(valid=False, error="e"))
    other, again, _ = run(Reward(parts={"correct": 50.0}, valid=False, error="e"))
    assert shown[2] == [0.0]
    assert one["critic/return"] == other["critic/return"]
    for a, b in zip(caught, again, strict=True):
        same(a, b)


def test_a_masked_completion_teaches_the_critic_alone(random_policy: Policy) -> None:
    cfg = without_kl(config(whiten=False))
    cfg.overlong.truncated = "mask"
    agent = agent_of(random_policy, cfg)
    caught = catch(agent)
    agent.update([made([3], [1.0], [0])])
    assert size_of(caught[0]) == 0
    assert size_of(caught[1]) > 0


# --- resume


@BODIES
@pytest.mark.parametrize("how", ["fp32", "bf16", "adapters"])
def test_a_resumed_agent_ends_as_one_that_was_left_alone(tiny: Policy, body: str, how: str) -> None:
    given = [made([4], [float(key % 2)], key=key) for key in range(6)]

    def begin() -> PpoAgent:
        policy = deepcopy_of(tiny, how)
        return agent_of(policy, config(body, minibatches=2, epochs=2, sync_reference_every=0))

    straight = begin()
    straight.update(given)
    state = deepcopy(straight.state_dict())
    weights = {n: v.clone() for n, v in straight.policy.trained_weights().items()}
    straight.update(given)

    resumed = begin()
    with resumed.policy.masters.in_place():
        resumed.policy.model.load_state_dict(
            {n: v for n, v in weights.items() if not n.startswith("value_head")}, strict=False
        )
    resumed.policy.masters.publish()
    resumed.load_state_dict(state)
    resumed.update(given)
    found = everything(resumed)
    for name, value in everything(straight).items():
        assert found[name].equal(value), name


def deepcopy_of(tiny: Policy, how: str) -> Policy:
    policy = Policy(deepcopy(tiny.model), tiny.tokenizer)
    if how == "adapters":
        add_adapters(policy, LoraConfig(rank=4), torch.float32)
    if how == "bf16":
        policy.compute_in(torch.bfloat16)
    return policy


# --- configuration


def test_the_defaults_are_those_of_rlhf_and_no_group_is_needed() -> None:
    run = compose_run(["agent=ppo"])
    assert isinstance(run.agent, PpoConfig)
    assert (run.agent.group_size, run.agent.critic_body) == (1, "own")
    assert (run.agent.loss.kl, run.agent.loss.kl_in) == ("k1", "reward")
    assert compose_run(["agent=ppo", "agent.group_size=4"]).agent.group_size == 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["agent.critic.body=onw"], "agent.critic.body=onw. Allowed: own, shared. Did you mean"),
        (["agent.critic.lr=-1"], "agent.critic.lr=-1.0. Allowed: 0 or more, or null"),
        (["agent.critic.coef=0"], "agent.critic.coef=0.0. Allowed: above 0"),
        (["agent.critic.clip=0"], "agent.critic.clip=0.0. Allowed: above 0, or null"),
        (["agent.gamma=1.5"], "agent.gamma=1.5. Allowed: 0 to 1"),
        (["agent.lam=-0.1"], "agent.lam=-0.1. Allowed: 0 to 1"),
        (["agent.group_size=0"], "agent.group_size=0. Allowed: 1 or more"),
        (["agent.advantage.name=centered"], "advantage"),
        (["agent.minibatches=20"], "trainer.prompts_per_step=16"),
        (["trainer.shard=full"], "trainer.shard=full with agent=ppo"),
        (["agent.critic.body=shared", "trainer.shard=optimizer"], "critic.body=shared in shards"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose_run(["agent=ppo", *overrides])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_conversation_is_learnt_from_the_policys_own_tokens(random_policy: Policy) -> None:
    mask = (True, True, False, False, True)
    completion = Completion(
        text="", token_ids=(20, 21, 22, 23, 24), logprobs=(-1.0, -1.0, 0.0, 0.0, -1.0), mask=mask
    )
    group = replace(made([5], [1.0]), completions=(completion,))
    agent = agent_of(random_policy, without_kl(config(whiten=False, lam=1.0)))
    metrics, _ = agent.update([group])
    assert metrics["critic/return"] == pytest.approx(1.0)
    assert math.isclose(metrics["critic/loss"], 0.5)
