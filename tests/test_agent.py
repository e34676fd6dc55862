"""The update: what must not change it, what must, and what it says about itself."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import AdvantageConfig, GrpoConfig, LossConfig, SamplerConfig
from grpo_agent.policy import Policy
from grpo_agent.sampler import Decoding, sample
from grpo_envs.types import Group, Reward

SCORES = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5]]


def groups(policy: Policy, scores: Sequence[Sequence[float]] = SCORES) -> list[Group]:
    """Real samples of the policy, of different lengths, with the given rewards."""
    found = []
    for p, row in enumerate(scores):
        prompt = policy.render("What is 1+2?" + "+3" * p)
        seeds = [100 * p + i for i in range(len(row))]
        completions = sample(policy, [prompt], seeds, Decoding(max_new_tokens=6 + 3 * p))
        rewards = tuple(Reward(parts={"correct": score}) for score in row)
        found.append(
            Group(
                key=p,
                prompt="",
                prompt_ids=prompt,
                completions=tuple(completions),
                rewards=rewards,
            )
        )
    return found


def agent_of(policy: Policy, **changes: object) -> GrpoAgent:
    cfg = replace(GrpoConfig(lr=1e-3, group_size=4, warmup_steps=0), **changes)  # type: ignore[arg-type]
    return GrpoAgent(policy, cfg, Accelerator(cpu=True), SamplerConfig(max_new_tokens=12))


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def gradient(policy: Policy, given: Sequence[Group], **changes: object) -> dict[str, Tensor]:
    """The gradient of one update, caught on its way into the optimiser."""
    agent = agent_of(policy, max_grad_norm=1e9, **changes)
    caught: dict[str, Tensor] = {}

    def catch(*_: object) -> None:
        for name, value in policy.model.named_parameters():
            assert value.grad is not None
            caught[name] = value.grad.clone()

    agent.optimizer.register_step_pre_hook(catch)
    before = weights(policy)
    agent.update(given)
    policy.model.load_state_dict(before, strict=False)
    return caught


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", [1, 100, 150])
def test_the_micro_batch_changes_nothing(random_policy: Policy, tokens: int) -> None:
    given = groups(random_policy)
    whole = gradient(random_policy, given, micro_batch_tokens=10_000)
    assert max(value.abs().max().item() for value in whole.values()) > 1e-3
    same(whole, gradient(random_policy, given, micro_batch_tokens=tokens))


def test_the_order_of_groups_changes_nothing(random_policy: Policy) -> None:
    given = groups(random_policy)
    same(gradient(random_policy, given), gradient(random_policy, given[::-1]))


def test_equals_a_plain_policy_gradient(random_policy: Policy) -> None:
    """On-policy and without KL, eq. 3 is: minus the mean over rows of A times the mean lp."""
    given = groups(random_policy)
    cfg = AdvantageConfig(name="centered")
    got = gradient(random_policy, given, advantage=cfg, loss=LossConfig(beta=0.0))
    random_policy.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for group in given:
        mean = sum(r.total for r in group.rewards) / 4
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
            logits = random_policy.model(input_ids=ids).logits[0]
            picked = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            lp = picked[len(group.prompt_ids) - 1 :].mean()
            loss = loss - (reward.total - mean) * lp / 12
    loss.backward()
    expected = {n: p.grad for n, p in random_policy.model.named_parameters() if p.grad is not None}
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


def test_good_answers_become_likelier_and_bad_ones_less_likely(random_policy: Policy) -> None:
    given = groups(random_policy, [[1.0, 0.0, 0.0, 0.0]])
    agent = agent_of(random_policy, loss=LossConfig(beta=0.0))
    before = [_logp(random_policy, given[0], i) for i in range(4)]
    _, advantages = agent.update(given)
    change = [_logp(random_policy, given[0], i) - before[i] for i in range(4)]
    assert advantages[0][0] > 0 > advantages[0][1]
    assert change[0] > 0
    assert sum(change[1:]) < 0


def _logp(policy: Policy, group: Group, member: int) -> float:
    completion = group.completions[member]
    ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logps = policy.model(input_ids=ids).logits[0].log_softmax(-1)[:-1]
    start = len(group.prompt_ids) - 1
    return float(logps[start:].gather(1, ids[0, start + 1 :, None]).sum())


def test_flat_groups_leave_the_policy_alone(random_policy: Policy) -> None:
    given = groups(random_policy, [[0.1] * 4, [1.1] * 4])
    before = weights(random_policy)
    agent_of(random_policy, loss=LossConfig(beta=0.0)).update(given)
    assert all(torch.equal(before[n], w) for n, w in weights(random_policy).items())


def test_an_invalid_member_weighs_nothing(random_policy: Policy) -> None:
    """Whatever the reward of a member whose grader failed, nothing changes."""
    given = groups(random_policy)
    broken = Reward(valid=False, error="sandbox down")
    rewards = (*given[0].rewards[:3], broken)
    _, advantages = agent_of(random_policy).update([replace(given[0], rewards=rewards)])
    assert advantages[0][3] == 0
    assert sum(advantages[0]) == pytest.approx(0, abs=1e-6)


def test_on_policy_the_sampler_and_the_scorer_agree(random_policy: Policy) -> None:
    metrics, _ = agent_of(random_policy).update(groups(random_policy))
    assert metrics["policy/sample_gap"] < 1e-5
    assert metrics["loss/clipped"] == 0
    assert metrics["loss/kl"] == pytest.approx(0, abs=1e-12)
    assert metrics["policy/entropy"] > 0


def test_a_second_epoch_meets_the_clip(random_policy: Policy) -> None:
    """The ratio is against the sampling policy: after a large first update it leaves its bounds."""
    given = groups(random_policy)
    metrics, _ = agent_of(random_policy, epochs=2, lr=3e-2).update(given)
    assert metrics["loss/clipped"] > 0.05  # a mean over two updates, the first has ratio 1
    assert metrics["policy/sample_gap"] < 1e-5  # of the first update: what sampling got wrong


def test_the_reference_stays_where_it_was(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, lr=1e-2)
    agent.update(given)
    metrics, _ = agent.update(given)
    assert metrics["loss/kl"] > 1e-4
    assert agent.reference is not None
    assert not any(p.requires_grad for p in agent.reference.parameters())


def test_without_a_penalty_there_is_no_reference(random_policy: Policy) -> None:
    agent = agent_of(random_policy, loss=LossConfig(beta=0.0))
    metrics, _ = agent.update(groups(random_policy))
    assert agent.reference is None
    assert "loss/kl" not in metrics


def test_warm_up_is_linear(random_policy: Policy) -> None:
    agent = agent_of(random_policy, lr=4e-4, warmup_steps=3)
    given = groups(random_policy, [[1.0, 0.0, 0.0, 0.0]])
    rates = [agent.update(given)[0]["optim/lr"] for _ in range(5)]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4])


def test_gradients_are_clipped(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, max_grad_norm=1e-3)
    norms = []

    def catch(*_: object) -> None:
        norms.append(
            torch.stack(
                [p.grad.norm() for p in random_policy.parameters() if p.grad is not None]
            ).norm()
        )

    agent.optimizer.register_step_pre_hook(catch)
    metrics, _ = agent.update(given)
    assert metrics["optim/grad_norm"] > 1e-2
    assert norms[0].item() == pytest.approx(1e-3, rel=1e-2)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy)
    before = weights(random_policy)
    head = random_policy.model.get_input_embeddings()
    handle = head.weight.register_hook(lambda grad: grad * float("nan"))
    metrics, _ = agent.update(given)
    handle.remove()
    assert metrics["optim/skipped"] == 1
    assert all(torch.equal(before[n], w) for n, w in weights(random_policy).items())


def test_state_survives_a_round_trip(random_policy: Policy) -> None:
    given = groups(random_policy)
    first = agent_of(random_policy, warmup_steps=4)
    first.update(given)
    model, state = weights(random_policy), deepcopy(first.state_dict())
    first.update(given)
    expected = weights(random_policy)
    random_policy.model.load_state_dict(model, strict=False)
    second = agent_of(random_policy, warmup_steps=4)
    second.reference = first.reference
    second.load_state_dict(state)
    second.update(given)
    same(expected, weights(random_policy))
