"""The learner without GRPO: a loss of rows in, optimiser steps out."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_scheduler

from grpo_policy.batch import Batch, collate
from grpo_policy.learner import Learner, LearnerSettings, OutOfMemory, Scored
from grpo_policy.optimizers import share_of_peak
from grpo_policy.policy import Policy
from tests.agents.test_agent import made, same, weights

LENGTHS = [3, 9, 5, 2, 7, 4]
REWARDS = [1.0, -0.5, 0.25, 0.0, -1.0, 0.5]


def batch_of(policy: Policy) -> Batch:
    return collate([made(LENGTHS, REWARDS)], policy.pad_id, policy.device)


def learner_of(policy: Policy, **changes: Any) -> Learner:
    settings = LearnerSettings(**{"lr": 1e-3, "max_grad_norm": 1e9, **changes})
    return Learner(policy, settings, Accelerator(cpu=True))


def reinforce(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
    """-r log pi, a mean over the six completions."""
    rewards_B = torch.tensor(REWARDS, dtype=scored.logps_BT.dtype)[scored.rows_B]
    loss = -(rewards_B[:, None] * scored.logps_BT).sum() / len(REWARDS)
    return loss, {"policy/entropy": scored.entropy_BT.detach()}


def caught(learner: Learner) -> dict[str, Tensor]:
    """What the last gradient was, once there is one."""
    found: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        for name, p in learner.policy.model.named_parameters():
            assert p.grad is not None
            found[name] = p.grad.clone()

    learner.optimizer.register_step_pre_hook(keep)
    return found


@pytest.mark.parametrize("tokens", [1, 30, 10_000], ids=["a row each", "some rows", "all"])
def test_the_gradient_is_that_of_the_loss_in_one_piece(random_policy: Policy, tokens: int) -> None:
    """Rows come in any order and number, and each knows its place."""
    batch = batch_of(random_policy)
    logps_BT, entropy_BT = random_policy(batch, 0.7)
    everything = torch.arange(len(REWARDS))
    total, _ = reinforce(
        Scored(rows_B=everything, batch=batch, logps_BT=logps_BT, entropy_BT=entropy_BT)
    )
    total.backward()
    named = random_policy.model.named_parameters()
    expected = {name: p.grad.clone() for name, p in named if p.grad is not None}
    random_policy.zero_grad()

    learner = learner_of(random_policy, temperature=0.7, micro_batch_tokens=tokens)
    got = caught(learner)
    metrics = learner.learn([(batch, reinforce)])
    same(got, expected)
    assert metrics["loss/total"] == pytest.approx(total.item())
    by_hand = entropy_BT.sum().item() / sum(LENGTHS)
    assert metrics["policy/entropy"] == pytest.approx(by_hand)
    assert metrics["optim/updates"] == 1


def test_reinforce_in_ten_lines_trains_a_policy(random_policy: Policy) -> None:
    """What an agent of another kind needs: no group, no advantage, no reference."""
    batch = batch_of(random_policy)
    learner = learner_of(random_policy, lr=3e-3)

    def likelihood() -> list[float]:
        with torch.no_grad():
            logps_BT, _ = random_policy(batch, 1.0)
        return [float(x) for x in logps_BT.sum(dim=1)]

    before = likelihood()
    for _ in range(5):
        learner.learn([(batch, reinforce)])
    change = [after - b for after, b in zip(likelihood(), before, strict=True)]
    assert change[0] > 0 > change[4]  # rewards 1 and -1
    assert learner.reference_logps(batch, torch.arange(6)) is None
    assert random_policy.version == 5


def test_a_step_has_an_update_for_each_batch_and_moves_the_schedule_once(
    random_policy: Policy,
) -> None:
    batch = batch_of(random_policy)
    learner = learner_of(random_policy, warmup_steps=3)
    metrics = learner.learn([(batch, reinforce)] * 3)
    assert (metrics["optim/updates"], metrics["optim/lr"]) == (3, 2.5e-4)
    assert (learner.steps, learner.schedule.last_epoch, random_policy.version) == (1, 1, 3)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_learning_rate_falls_as_transformers_has_it(random_policy: Policy, name: str) -> None:
    """Without a warm-up it is that of `get_scheduler` from the first step to the last."""
    batch = batch_of(random_policy)
    learner = learner_of(random_policy, lr_schedule=name, steps=6)
    rates = [learner.learn([(batch, reinforce)])["optim/lr"] for _ in range(6)]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    oracle = get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=6)
    expected = []
    for _ in range(6):
        expected.append(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    assert rates == pytest.approx(expected)
    assert rates[0] == 1e-3


def test_a_warm_up_is_a_share_of_the_steps_and_the_fall_ends_where_it_should() -> None:
    numbers: dict[str, Any] = {
        "lr": 1.0,
        "lr_schedule": "linear",
        "steps": 10,
        "lr_end": 0.2,
        "warmup_steps": 0.2,
    }
    settings = LearnerSettings(**numbers)
    shares = [share_of_peak(step, settings) for step in (0, 1, 2, 6, 9, 10, 11)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 0.6, 0.3, 0.2, 0.2])
    constant = dataclasses.replace(settings, lr_schedule="constant")
    assert [share_of_peak(step, constant) for step in (1, 2, 9)] == [2 / 3, 1.0, 1.0]


def test_adam_is_made_with_the_betas_and_the_epsilon(random_policy: Policy) -> None:
    learner = learner_of(random_policy, adam_betas=(0.8, 0.95), adam_eps=1e-3)
    (group,) = learner.optimizer.param_groups
    assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-3)


def test_the_version_counts_updates_that_changed_weights(random_policy: Policy) -> None:
    batch = batch_of(random_policy)
    learner = learner_of(random_policy)
    before = weights(random_policy)

    def spoiled(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = reinforce(scored)
        return loss * torch.nan, values

    assert learner.learn([(batch, spoiled)])["optim/skipped"] == 1
    assert random_policy.version == 0
    assert all(value.equal(before[name]) for name, value in weights(random_policy).items())
    assert learner.learn([(batch, spoiled), (batch, reinforce)])["optim/skipped"] == 1
    assert random_policy.version == 1


def test_entropy_has_a_gradient_where_the_settings_ask_for_it(random_policy: Policy) -> None:
    def entropy(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
        return scored.logps_BT.sum() * 0 - scored.entropy_BT.sum(), {}

    def gradient(*, entropy_grad: bool) -> float:
        learner = learner_of(random_policy, lr=0.0, entropy_grad=entropy_grad)
        return learner.learn([(batch_of(random_policy), entropy)])["optim/grad_norm"]

    assert gradient(entropy_grad=False) == 0
    assert gradient(entropy_grad=True) > 0.1


# --- memory


def small_device(policy: Policy, tokens: int) -> Callable[[], None]:
    """Let a pass of more than `tokens` tokens run out of memory; return what ends that."""

    def refuse(module: object, args: tuple[Batch, float]) -> None:
        if args[0].input_ids_BL.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return policy.register_forward_pre_hook(refuse).remove


def test_an_update_that_does_not_fit_is_made_in_halves(
    random_policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    """The first two rows fit; their gradient is made again with the rest."""
    batch = batch_of(random_policy)  # rows of 5, 6; 7, 8; 10; 12 tokens
    start = weights(random_policy)
    straight = learner_of(random_policy, micro_batch_tokens=10)
    straight.learn([(batch, reinforce)])
    expected = weights(random_policy)
    random_policy.model.load_state_dict(start, strict=False)

    learner = learner_of(random_policy, micro_batch_tokens=20)
    end = small_device(random_policy, 15)
    with caplog.at_level(logging.WARNING):
        metrics = learner.learn([(batch, reinforce)])
    end()
    assert learner.micro_batch_tokens == 10
    assert "from now on micro-batches have 10 tokens, half of before" in caplog.text
    assert metrics["optim/updates"] == 1
    for name, value in weights(random_policy).items():
        assert value.equal(expected[name])  # nothing of the broken attempt is left in a gradient


def test_an_update_that_does_not_fit_in_halves_ends_with_one_line(random_policy: Policy) -> None:
    learner = learner_of(random_policy, micro_batch_tokens=60, memory_keys=("agent.critic=none",))
    end = small_device(random_policy, 3)
    with pytest.raises(OutOfMemory) as raised:
        learner.learn([(batch_of(random_policy), reinforce)])
    end()
    assert str(raised.value) == (
        "out of memory with micro-batches of 30 tokens, half of agent.micro_batch_tokens=60. Turn "
        "that down, or model.gradient_checkpointing=true, model.lora.rank=16, agent.critic=none. "
        "If memory/process of metrics.jsonl rises with the steps, it is a leak."
    )


def test_another_error_is_no_lack_of_memory(random_policy: Policy) -> None:
    def broken(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
        raise RuntimeError("shapes differ")

    learner = learner_of(random_policy)
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        learner.learn([(batch_of(random_policy), broken)])
    assert learner.micro_batch_tokens == LearnerSettings(lr=1.0).micro_batch_tokens


def test_settings_are_decided_and_stay_so() -> None:
    settings = LearnerSettings(lr=1e-5)
    assert not [f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) is None]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lr = 1.0  # type: ignore[misc]
