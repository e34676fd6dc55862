"""Rollouts: who gets which prompt, noise and reward."""

from collections.abc import Sequence

import pytest

import grpo_envs
from grpo_agent.policy import Policy
from grpo_agent.rollout import Rollout
from grpo_agent.sampler import Decoding
from grpo_envs.errors import ConfigError
from grpo_envs.timing import Timer
from grpo_envs.types import Problem, Reply, Reward, Turn
from grpo_envs.vector import GroupVectorEnv


def rollout(policy: Policy, problems: int, group_size: int) -> Rollout:
    envs = GroupVectorEnv(grpo_envs.make("math"), problems * group_size, group_size)
    return Rollout(envs, policy, Decoding(max_new_tokens=40), seed=3)


def test_each_completion_has_the_reward_of_its_own_text(tiny: Policy) -> None:
    env = grpo_envs.make("math")
    timer = Timer()
    groups = rollout(tiny, 4, 6)([11, 12, 13, 14], timer)
    assert [group.key for group in groups] == [11, 12, 13, 14]
    for group in groups:
        problem = env.problem(group.key)
        assert group.prompt == problem.prompt
        assert group.prompt_ids == tiny.render(problem.prompt, env.system_prompt)
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            assert reward.parts == env.score(problem, completion.text).parts
            assert completion.text == tiny.decode(completion.token_ids)
    totals = {reward.total for group in groups for reward in group.rewards}
    assert len(totals) > 1, "the test needs answers that differ in reward"
    assert set(timer.seconds) == {"sample", "score"}


def test_members_and_problems_have_noise_of_their_own(tiny: Policy) -> None:
    """Two problems with one prompt are two groups: equal seeds of noise would make them equal."""
    made = rollout(tiny, 2, 6)
    same = grpo_envs.make("math").problem(1)
    made.env.env.problem = lambda seed, split=None: same  # type: ignore[method-assign]
    one, other = made([1, 2], Timer())
    assert one.prompt == other.prompt
    assert [c.token_ids for c in one.completions] != [c.token_ids for c in other.completions]
    assert len({c.token_ids for c in one.completions}) > 1


def test_sampling_in_parts_changes_nothing(tiny: Policy) -> None:
    whole = rollout(tiny, 4, 3)([1, 2, 3, 4], Timer())
    small = rollout(tiny, 4, 3)
    small.batch_size = 5  # one group at a time
    parts = small([1, 2, 3, 4], Timer())
    for one, other in zip(whole, parts, strict=True):
        assert [c.token_ids for c in one.completions] == [c.token_ids for c in other.completions]


def test_an_invalid_reward_keeps_its_cause(tiny: Policy) -> None:
    made = rollout(tiny, 1, 2)

    def broken(problem: Problem, answer: str) -> Reward:
        raise OSError("sandbox down")

    made.env.env.score = broken  # type: ignore[method-assign]
    (group,) = made([1], Timer())
    assert not any(reward.valid for reward in group.rewards)
    assert {reward.error for reward in group.rewards} == {"OSError: sandbox down"}


class Talk(grpo_envs.TextEnv):
    """Two turns."""

    max_turns = 2

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        return Reply(reward=Reward(parts={"correct": 0.0}), done=False)


def test_conversations_are_refused(tiny: Policy) -> None:
    with pytest.raises(ConfigError, match=r"2 turns per episode. Allowed: 1"):
        Rollout(GroupVectorEnv(Talk(), 2), tiny, Decoding(max_new_tokens=4), seed=0)
