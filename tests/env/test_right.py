"""What accuracy is the share of: an environment's own word, or the maximum of what pays."""

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from grpo_env_mixture import MixtureEnv
from grpo_envs.env import TextEnv
from grpo_envs.env.rewards import Part, is_right
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.training.evaluation import eval_metrics
from grpo_envs.types import Problem, Reward, Turn

NAMES = ("correct", "format", "long", "accuracy")
PROBLEM = Problem(prompt="?", gold="", solution="")


class Said(TextEnv):
    """Earns what its answer says: `correct format accuracy long`."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1, "long": -0.5}

    def draw(self, rng: random.Random, split: str) -> Problem:
        return PROBLEM

    def score(self, problem: Problem, answer: str) -> Reward:
        values = [float(word) for word in answer.split()]
        return Reward(parts=dict(zip(NAMES[: len(values)], values, strict=True)))


class Judge(Said):
    """Says itself what is right; it costs and earns nothing."""

    parts: ClassVar[Mapping[str, float]] = {**Said.parts, "accuracy": 0.0}


def right(env: TextEnv, answer: str) -> bool:
    envs = GroupVectorEnv(env, 1)
    envs.reset(seed=[0])
    envs.step([answer])
    assert envs.replies[0].reward.valid, envs.replies[0].reward.error
    return is_right(envs.replies[0].reward, env.own_parts)


@pytest.mark.parametrize(
    ("rewards", "answer", "expected"),
    [
        pytest.param(None, "1 1 0", True, id="the maximum"),
        pytest.param(None, "1 1 1", True, id="penalised"),
        pytest.param(None, "1 0 0", False, id="less than the maximum"),
        pytest.param(None, "0 1 0", False, id="wrong"),
        pytest.param({"format": 0.0}, "1 0 0", True, id="a part that weighs nothing"),
        pytest.param({"format": -0.1}, "1 1 0", True, id="a part that costs"),
        pytest.param({"correct": {"scale": 0.5}}, "1 1 0", True, id="scaled down"),
        pytest.param({"correct": {"scale": 0.5}}, "0.9 1 0", False, id="not all of it"),
        pytest.param({"correct": {"clip": [0, 0.5]}}, "0.5 1 0", True, id="clipped"),
        pytest.param({"correct": 0, "format": 0}, "1 1 0", True, id="no part pays: as declared"),
        pytest.param({"correct": 0, "format": 0}, "0 1 0", False, id="no part pays: wrong"),
    ],
)
def test_right_is_the_maximum_of_what_pays(rewards: Any, answer: str, expected: bool) -> None:
    assert right(Said(rewards=rewards), answer) is expected


def test_an_environment_says_what_is_right() -> None:
    assert right(Judge(), "0 0 1 1")
    assert not right(Judge(), "1 1 0 0")
    assert not right(Judge(), "1 1 0")  # left out is 0, as of every part
    assert Judge().reward_range == Said().reward_range


def test_accuracy_is_yes_or_no() -> None:
    (reply,) = Judge().reply_batch([PROBLEM], [[Turn(action="1 1 0 0.5")]])
    assert reply.reward.error == "reward component 'accuracy' is 0.5, not 1 or 0"


@pytest.mark.parametrize("env", [Said, Judge])
def test_accuracy_is_neither_added_nor_shaped(env: type[TextEnv]) -> None:
    with pytest.raises(ConfigError, match="Allowed: a weight, where the environment has it"):
        env(rewards={"accuracy": {"scale": 0.5}})


def test_of_a_mixture_each_member_says_it() -> None:
    own = {"a/correct": Part(), "a/accuracy": Part(weight=0.0), "b/correct": Part()}
    assert is_right(Reward(parts={"a/correct": 0.0, "a/accuracy": 1.0}), own)
    assert not is_right(Reward(parts={"a/correct": 1.0, "a/accuracy": 0.0}), own)
    assert is_right(Reward(parts={"b/correct": 1.0}), own)
    row = {"decoding": "greedy", "problem": 0, "prompt": "?", "meta": {}, "valid": True}
    row |= {"parts": {"a/correct": 0.0, "a/accuracy": 1.0}, "reward": 0.0, "tokens": 1}
    assert eval_metrics([row | {"finish_reason": "stop"}], own)["eval/accuracy"] == 1.0


def test_a_member_that_leaves_parts_out_earns_0_of_them() -> None:
    env = MixtureEnv(of={"math": 1})
    inner = next(iter(env._members["math"].values()))
    problem = env.problem(0)
    inner.score_batch = lambda *_: [Reward(parts={"format": 1.0})]  # type: ignore[method-assign]
    (reply,) = env.reply_batch([problem], [[Turn(action="?")]])
    assert reply.reward.parts == {"math/correct": 0.0, "math/format": 1.0}
    assert not is_right(reply.reward, env.own_parts)
