"""The teacher's term of advantages, a moving reference, and the weight of the entropy bonus."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.config import AdvantageConfig, LossConfig
from grpo_envs.errors import ConfigError
from grpo_envs.types import Group
from grpo_policy.batch import collate
from grpo_policy.learner import Learner, LearnerSettings
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.teacher import load_teacher
from tests.agents.test_agent import agent_of, chosen, groups, logps_of, made, move, same, weights
from tests.support.oracle import oracle_advantages

FLAT = [[0.3, 0.3, 0.3, 0.3], [1.0, 0.0, 0.0, 1.0]]


@pytest.fixture
def teacher(random_policy: Policy, tmp_path: Path) -> tuple[str, Policy]:
    """Return the folder of another model with the same tokenizer, and that model."""
    other = random_policy.frozen_copy()
    move(other, 5)
    other.save(tmp_path / "teacher")
    return str(tmp_path / "teacher"), other


def gaps_of(teacher: Policy, given: list[Group], temperature: float) -> list[list[Tensor]]:
    """Return log(teacher / policy) of each member's tokens, from the teacher's full logits."""
    return [
        [
            chosen(teacher, group, i, temperature).detach() - torch.tensor(c.logprobs)
            for i, c in enumerate(group.completions)
        ]
        for group in given
    ]


@pytest.mark.parametrize(("rewards", "weight"), [(0.0, 1.0), (0.5, 2.0)])
def test_each_token_is_moved_towards_the_teacher(
    random_policy: Policy, teacher: tuple[str, Policy], rewards: float, weight: float
) -> None:
    """The advantages of an update equal plain loops over the teacher's full logits."""
    path, model = teacher
    given = groups(random_policy, FLAT, temperature=0.7)
    agent = agent_of(random_policy, temperature=0.7, loss=LossConfig(beta=0.0))
    agent = agent_of(
        random_policy,
        replace(agent.cfg, teacher=path, teacher_weight=weight, reward_weight=rewards),
        temperature=0.7,
    )
    seen: list[Tensor] = []
    learn = agent._learn

    def look(step: Any, parts: Any) -> dict[str, float]:
        seen.append(step.advantages_BT)
        return learn(step, parts)

    agent._learn = look  # type: ignore[method-assign]
    metrics, shown = agent.update(given)
    gaps = gaps_of(model, given, 0.7)
    own = oracle_advantages(FLAT, [[True] * 4] * 2, [[1] * 4] * 2, AdvantageConfig())
    flat = [rewards * a + weight * gap for row, gs in zip(own, gaps, strict=True)
            for a, gap in zip(row, gs, strict=True)]  # fmt: skip
    for got_T, expected in zip(seen[0], flat, strict=True):
        torch.testing.assert_close(got_T[: len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert not got_T[len(expected) :].any()
    every = torch.cat([gap for row in gaps for gap in row])
    assert metrics["policy/teacher_kl"] == pytest.approx(-every.mean().item(), abs=1e-5)
    assert [a for row in shown for a in row] == pytest.approx(
        [each.mean().item() for each in flat], abs=1e-5
    )
    assert not agent.cfg.flat(given[0]), "a group of equal rewards is taught by the teacher"


def test_a_policy_comes_near_its_teacher(
    random_policy: Policy, teacher: tuple[str, Policy]
) -> None:
    path, model = teacher
    given = groups(random_policy)

    @torch.no_grad()
    def kl() -> float:
        """Return the reverse KL over the whole vocabulary, at the tokens of `given`."""
        total = 0.0
        for group in given:
            for i in range(len(group.completions)):
                ours, theirs = (logps_of(each, group, i, 1.0) for each in (random_policy, model))
                total += (ours.exp() * (ours - theirs)).sum().item()
        return total

    cfg = agent_of(random_policy, loss=LossConfig(beta=0.0), lr=1e-3).cfg
    agent = agent_of(random_policy, replace(cfg, teacher=path, reward_weight=0.0))
    before = kl()
    for _ in range(20):
        agent.update(groups(random_policy))
    assert kl() < 0.8 * before, (before, kl())


def test_a_teacher_with_other_tokens_is_refused_in_one_line(tmp_path: Path) -> None:
    policy = load_policy(str(TINY))
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    one, other = list(vocab)[10:12]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError) as caught:
        load_teacher(str(folder), policy)
    assert str(caught.value).startswith(f"agent.teacher={folder}: its token ")
    assert "of a model with the same tokens." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load_teacher(str(TINY), policy).size == policy.size


def test_a_teacher_that_is_not_there_is_refused_in_one_line(random_policy: Policy) -> None:
    with pytest.raises(ConfigError) as caught:
        load_teacher("/nowhere/at/all", random_policy)
    assert str(caught.value).startswith("agent.teacher=/nowhere/at/all: ")
    assert str(caught.value).endswith("Allowed: a folder of Transformers, a run, or a hub id.")
    assert "model.path" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- a reference that is a moving average


def test_a_reference_is_the_moving_average_of_the_policy(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, lr=1e-2, sync_reference_every=2, sync_reference_decay=0.75)
    expected = weights(random_policy)
    for step in range(1, 6):
        agent.update(given)
        if step % 2 == 0:
            now = weights(random_policy)
            expected = {n: 0.75 * v + 0.25 * now[n] for n, v in expected.items()}
        assert agent.learner.reference is not None
        same(weights(agent.learner.reference), expected, 1e-12)
        assert not any(p.requires_grad for p in agent.learner.reference.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bf16"])
def test_a_moving_average_survives_a_round_trip_to_the_bit(
    random_policy: Policy, dtype: torch.dtype
) -> None:
    """It also holds in bf16, although a step of the average is smaller than bf16's resolution."""
    policy = random_policy
    if dtype != torch.float64:
        policy.model.to(torch.float32)
        policy.compute_in(dtype)
    batch = collate([made([3, 5, 2, 4], [1.0, 0.0, 0.0, 1.0])], policy.pad_id, policy.device)
    rows_B = torch.arange(4)

    def learner() -> Learner:
        settings = LearnerSettings(
            lr=1e-3, reference=True, sync_reference_every=1, sync_reference_decay=0.999
        )
        return Learner(policy, settings, Accelerator(cpu=True))

    def loss(scored: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return -scored.logps_BT.sum(), {"policy/entropy": scored.entropy_BT.detach()}

    first = learner()
    assert first.reference is not None
    start = weights(first.reference)
    for _ in range(40):
        first.learn([(batch, loss)])
    moved = weights(first.reference)
    assert any((moved[n] != start[n]).any() for n in start), "small steps add up"
    state = deepcopy(first.state_dict())
    second = learner()
    second.load_state_dict(state)
    for each in (first, second):
        with torch.no_grad():  # the same policy for both
            each.reference_logps(batch, rows_B)
    assert second.reference is not None
    same(weights(second.reference), moved, 0)
    assert state["average"].keys() == (first._average or {}).keys()
    for name, value in (second._average or {}).items():
        assert torch.equal(value, state["average"][name])
    assert bool(state["average"]) == (dtype != torch.float64)


# --- the weight of the entropy


def test_the_entropy_weight_is_paid_below_its_target_and_survives_a_round_trip(
    random_policy: Policy,
) -> None:
    given = groups(random_policy)
    loss = LossConfig(beta=0.0, entropy_target=100.0, entropy_step=0.1, entropy_max=0.25)
    agent = agent_of(random_policy, loss=loss)
    paid = [agent.update(given)[0]["loss/entropy_weight"] for _ in range(2)]
    again = agent_of(random_policy, loss=loss)
    again.load_state_dict(deepcopy(agent.state_dict()))
    paid += [again.update(given)[0]["loss/entropy_weight"] for _ in range(2)]
    assert paid == pytest.approx([0.1, 0.2, 0.25, 0.25])
    high = agent_of(random_policy, loss=replace(loss, entropy_target=1e-3))
    assert high.update(given)[0]["loss/entropy_weight"] == 0


def test_a_bonus_that_is_paid_changes_the_update(random_policy: Policy) -> None:
    given = groups(random_policy)
    start = weights(random_policy)
    found = []
    for target in (100.0, 1e-3):
        loss = LossConfig(beta=0.0, entropy_target=target, entropy_step=5.0, entropy_max=5.0)
        agent_of(random_policy, loss=loss).update(given)
        found.append(weights(random_policy))
        random_policy.model.load_state_dict(start, strict=False)
        random_policy.masters.publish()
    loss = LossConfig(beta=0.0, entropy=5.0)
    agent_of(random_policy, loss=loss).update(given)
    same(found[0], weights(random_policy), 1e-12)
    assert any((found[0][n] - found[1][n]).abs().max() > 1e-6 for n in start)
