"""Reward functions that see the group, or what an answer has earned so far."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

import grpo_envs
from grpo_envs import GroupVectorEnv
from grpo_envs.env import reward_functions
from grpo_envs.env.reward_functions import length_among_right
from grpo_envs.errors import ConfigError, ContractBroken
from grpo_envs.interop.rows import environment_of, require_each_alone
from grpo_envs.interop.trl import Task
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Problem, Reply, Reward, Turn
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from tests.support.scripted import Scripted, letters


class Words(grpo_envs.TextEnv):
    """Say yes, as often as you like."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "polite": 0.25}

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"Yes to {rng.random()}?", gold="yes", solution="yes")

    def score(self, problem: Problem, answer: str) -> Reward:
        if answer == "down":
            raise OSError("sandbox down")
        right, polite = answer.startswith("yes"), answer.endswith("please")
        return Reward(parts={"correct": float(right), "polite": float(polite)})


class Talk(Words):
    """Goes on until an answer ends with a full stop, three times at most."""

    max_turns = 3

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        said = turns[-1].action
        reward = self.score(problem, said.removesuffix("."))
        return Reply(reward=reward, observation="go on", done=said.endswith("."))


@grpo_envs.grouped
def brief(
    problem: Problem,
    completions: list[str],
    rewards: list[float],
    parts: list[dict[str, float]],
    *,
    most: float = 1.0,
) -> list[float]:
    """1 to the shortest of the best, else 0."""
    calls.append((problem.gold, [*completions], rewards, [dict(each) for each in parts]))
    best = [text for text, reward in zip(completions, rewards, strict=True) if reward > 0.9]
    shortest = min(map(len, best), default=-1)
    return [most * (len(text) == shortest and text in best) for text in completions]


@grpo_envs.grouped
async def ranked(rewards: list[float]) -> list[float]:
    await asyncio.sleep(0)
    return [sum(other < reward for other in rewards) for reward in rewards]


@grpo_envs.grouped
def count_turns(episodes: list[list[Turn]], rewards: list[float]) -> list[float]:
    return [len(turns) * (reward > 0.9) for turns, reward in zip(episodes, rewards, strict=True)]


@grpo_envs.grouped
def broken(completions: list[str]) -> Any:
    if "raise" in completions:
        raise OSError("no connection")
    if "short" in completions:
        return [1.0]
    if "number" in completions:
        return 0.5
    return [{"none": None, "nan": float("nan"), "word": "many"}.get(x, 1.0) for x in completions]


@grpo_envs.batched
def above_mean(
    problems: list[Problem], answers: list[str], rewards: list[float], parts: list[Any]
) -> list[float | None]:
    """Over all answers of a step; it does not apply to impolite ones."""
    calls.append((answers, rewards, parts))
    mean = sum(rewards) / len(rewards)
    pairs = zip(rewards, parts, strict=True)
    return [float(reward > mean) if each["polite"] else None for reward, each in pairs]


@grpo_envs.batched
def fails_on_no(problems: list[Problem], answers: list[str], right: list[bool]) -> list[float]:
    if "no" in answers:
        raise OSError("no connection")
    return [float(each) for each in right]


@grpo_envs.batched
def miscounts(problems: list[Problem], answers: list[str], right: list[bool]) -> list[float]:
    return [1.0]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "brief": brief,
    "ranked": ranked,
    "count_turns": count_turns,
    "broken": broken,
    "above_mean": above_mean,
    "fails_on_no": fails_on_no,
    "miscounts": miscounts,
    "length_among_right": length_among_right,
    "length": reward_functions.length,
}
calls: list[Any] = []


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_functions, "available", lambda _: FUNCTIONS)
    monkeypatch.setattr(reward_functions, "load", lambda _, name: FUNCTIONS[name])
    calls.clear()


def played(env: grpo_envs.TextEnv, *groups: Sequence[str]) -> GroupVectorEnv:
    """One step of groups of one size."""
    size = len(groups[0])
    members = GroupVectorEnv(env, len(groups) * size, size)
    members.reset(seed=[*range(len(groups))])
    members.step([answer for group in groups for answer in group])
    return members


# A step


def test_a_function_sees_each_group_once_with_what_its_members_have_earned() -> None:
    env = Words(rewards={"brief": {"weight": 0.5, "most": 2.0}, "length": -0.1})
    members = played(env, ["yes", "yes please", "no"], ["no", "yes, yes", "yes!"])
    own = {"correct": 1.0, "polite": 0.0, "length": 0.0}
    wrong = {**own, "correct": 0.0}
    assert calls == [
        (
            "yes",
            ["yes", "yes please", "no"],
            [1.0, 1.25, 0.0],
            [own, {**own, "polite": 1.0}, wrong],
        ),
        ("yes", ["no", "yes, yes", "yes!"], [0.0, 1.0, 1.0], [wrong, own, own]),
    ]
    earned = members.episode_rewards
    assert [reward.parts["brief"] for reward in earned] == [2.0, 0.0, 0.0, 0.0, 0.0, 2.0]
    assert [reward.total for reward in earned] == [2.0, 1.25, 0.0, 0.0, 1.0, 2.0]
    assert len(calls) == 2  # nobody is asked again


def test_a_step_returns_the_part_as_any_other() -> None:
    members = GroupVectorEnv(Words(rewards={"brief": 0.5}), 4, 2)
    members.reset(seed=[1, 2])
    _, rewards, _, _, infos = members.step(["yes", "no", "no", "no"])
    assert rewards.tolist() == [1.5, 0.0, 0.0, 0.0]
    assert infos["reward/brief"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert infos["_reward/brief"].all()
    assert members.replies[0].reward.parts == {"correct": 1.0, "polite": 0.0, "brief": 1.0}
    members.reset(seed=[1, 2])
    assert members.step(["no", "yes", "no", "no"])[1].tolist() == [0.0, 1.5, 0.0, 0.0]


def test_the_part_is_scaled_clipped_and_weighed_and_has_no_say_in_what_is_right() -> None:
    env = Words(rewards={"ranked": {"weight": -0.5, "scale": 0.5, "clip": [0, 0.75]}})
    earned = played(env, ["no", "yes", "yes please"]).episode_rewards
    assert [reward.parts["ranked"] for reward in earned] == [0.0, 0.5, 0.75]
    assert [reward.total for reward in earned] == [0.0, 0.75, 0.875]
    assert env.own_parts.keys() == {"correct", "polite"}


def test_a_member_whose_grading_failed_is_not_seen() -> None:
    earned = played(Words(rewards={"ranked": 1.0, "brief": 1.0}), ["no", "down", "yes"])
    assert calls[0][1] == ["no", "yes"]
    found = earned.episode_rewards
    assert [reward.valid for reward in found] == [True, False, True]
    assert found[1].error == "OSError: sandbox down"
    assert [found[i].parts["ranked"] for i in (0, 2)] == [0.0, 1.0]
    calls.clear()
    played(Words(rewards={"brief": 1.0}), ["down", "down"])
    assert calls == []


@pytest.mark.parametrize(
    ("answers", "errors"),
    [
        pytest.param(
            ["raise", "yes"], ["broken: OSError: no connection"] * 2, id="an exception is all's"
        ),
        pytest.param(
            ["short", "yes"], ["broken returned 1 rewards for a group of 2"] * 2, id="too few"
        ),
        pytest.param(["number", "yes"], ["broken returned 0.5, no list"] * 2, id="no list"),
        pytest.param(["none", "yes"], ["broken returned None, no number", ""], id="None"),
        pytest.param(["nan", "yes"], ["reward component 'broken' is nan", ""], id="NaN"),
        pytest.param(["word", "yes"], ["broken returned 'many', no number", ""], id="a word"),
    ],
)
def test_what_is_no_number_makes_the_reward_invalid(answers: list[str], errors: list[str]) -> None:
    members = played(Words(rewards={"broken": 1.0}), answers, ["yes", "no"])
    found = members.episode_rewards
    assert [reward.error for reward in found] == [*errors, "", ""]
    assert [reward.valid for reward in found] == [not error for error in [*errors, "", ""]]
    assert [reward.parts.get("broken") for reward in found[2:]] == [1.0, 1.0]


def test_a_problem_by_itself_is_a_group_of_one() -> None:
    env = Words(rewards={"brief": 0.5})
    env.reset(seed=3)
    _, total, _, _, info = env.step("yes please")
    assert (total, info["reward/brief"]) == (1.75, 1.0)
    assert calls == [("yes", ["yes please"], [1.25], [{"correct": 1.0, "polite": 1.0}])]


@pytest.mark.parametrize("where", ["none", "threads", "processes"])
def test_others_are_graded_where_they_were_and_ahead(where: str) -> None:
    env = grpo_envs.make("math", rewards={"length_among_right": -0.5})
    assert env.grades_each_alone
    members = GroupVectorEnv(env, 6, 3)
    members.grade_in(where)
    members.reset(seed=[1, 2])
    one, two = (env.problem(seed).solution for seed in (1, 2))
    answers = [one, f"So: {one}", f"So:    {one}", two, "no", ""]
    members.score_ahead(dict(enumerate(answers[:3])))
    rewards = members.step(answers)[1]
    gap = len(answers[2]) - len(answers[0])
    parts = [0.0, (len(answers[1]) - len(answers[0])) / gap, 1.0, 0.0, 0.0, 0.0]
    assert [reward.parts["length_among_right"] for reward in members.episode_rewards] == parts
    plain = GroupVectorEnv(grpo_envs.make("math"), 6, 3)
    plain.reset(seed=[1, 2])
    bare = plain.step(answers)[1]
    assert rewards.tolist() == pytest.approx(
        [x - 0.5 * y for x, y in zip(bare, parts, strict=True)]
    )
    members.close()


# Conversations


def test_a_conversation_is_seen_when_all_members_are_over() -> None:
    members = GroupVectorEnv(Talk(rewards={"brief": 0.5, "count_turns": 1.0}), 3, 3)
    members.reset(seed=[1])
    assert members.step(["yes.", "no", "no"])[1].tolist() == [1.0, 0.0, 0.0]
    assert calls == []
    assert members.step(["", "yes.", "no"])[1].tolist() == [0.0, 1.0, 0.0]
    _, rewards, terminated, truncated, infos = members.step(["", "", "yes"])
    assert [*terminated, *truncated] == [True, True, False, False, False, True]
    assert calls[0][1:3] == (["yes.", "no\n\nyes.", "no\n\nno\n\nyes"], [1.0, 1.0, 1.0])
    assert rewards.tolist() == [1.5, 2.0, 4.0]  # what the others earn comes with the last step
    assert infos["reward/brief"].tolist() == [1.0, 0.0, 0.0]
    assert [reward.total for reward in members.episode_rewards] == [2.5, 3.0, 4.0]
    assert members.episode_rewards[0].parts == {
        **{"correct": 1.0, "polite": 0.0},
        **{"brief": 1.0, "count_turns": 1.0},
    }


def test_a_group_that_truncate_ended_is_seen_too() -> None:
    members = GroupVectorEnv(Talk(rewards={"count_turns": 1.0, "brief": 0.0}), 4, 2)
    members.reset(seed=[1, 2])
    members.step(["yes.", "yes", "yes", "no"])
    members.truncate([1])
    assert [reward.total for reward in members.episode_rewards[:2]] == [2.0, 2.0]
    assert "count_turns" not in members.episode_rewards[2].parts
    members.truncate([2, 3])
    assert [reward.total for reward in members.episode_rewards[2:]] == [2.0, 0.0]
    assert len(calls) == 2


def test_a_conversation_by_itself_is_seen_at_its_end() -> None:
    env = Talk(rewards={"count_turns": 1.0})
    env.reset(seed=0)
    assert [env.step(answer)[1] for answer in ("no", "yes.")] == [0.0, 3.0]


def test_a_rollout_has_them_in_its_groups() -> None:
    envs, chat = GroupVectorEnv(Talk(rewards={"brief": 0.5, "count_turns": 1.0}), 4, 2), letters()

    def say(context: str, place: int) -> str:
        return "yes." if place % 2 or context.count("go on") == 1 else "no"

    sampler = Scripted(chat, say)
    groups = Rollout(envs, chat, sampler, Decoding(max_new_tokens=20), seed=0)([1, 2], Timer())
    for group in groups:
        assert [len(c.turns) or 1 for c in group.completions] == [2, 1]
        assert [reward.total for reward in group.rewards] == [1.0 + 2.0, 1.0 + 0.5 + 1.0]


# A mixture


def test_a_mixture_has_its_own_and_those_of_its_members() -> None:
    own = {"length_among_right": -0.5, "brief": 0}
    of = {"sums": {"env": "math", "rewards": own}, "countdown": 1}
    env = grpo_envs.make("mixture", of=of, rewards={"ranked": 0.1})
    seeds = range(20)
    sums = next(seed for seed in seeds if env.problem(seed).meta["env"] == "sums")
    game = next(seed for seed in seeds if env.problem(seed).meta["env"] == "countdown")
    members = GroupVectorEnv(env, 6, 3)
    members.reset(seed=[sums, game])
    right = env.problem(sums).solution
    rewards = members.step([f"It is {right}", right, "no", "no", env.problem(game).solution, "no"])[
        1
    ]
    found = members.episode_rewards
    parts = [reward.parts.get("sums/length_among_right") for reward in found]
    assert parts == [1.0, 0.0, 0.0, None, None, None]
    assert [reward.parts["ranked"] for reward in found] == [1.0, 1.0, 0.0, 0.0, 2.0, 0.0]
    alone = grpo_envs.make("math")
    bare = alone.reply_batch([alone.problem(0)], [[Turn(action=alone.problem(0).solution)]])
    assert rewards[1] == pytest.approx(bare[0].reward.total + 0.1)
    assert rewards[0] == pytest.approx(bare[0].reward.total + 0.1 - 0.5)
    total = bare[0].reward.total
    assert calls[0][2] == [total, total, 0.0]  # by the weights of its own environment
    assert list(calls[0][3][0]) == ["correct", "format"]


# Batched functions that ask


def test_a_batched_function_may_ask_what_answers_have_earned() -> None:
    env = Words(rewards={"above_mean": 1.0, "length": {"weight": -1.0, "most": 3, "slope": 10}})
    members = played(env, ["yes please", "no please"], ["down", "yes"])
    answers, rewards, parts = calls[0]
    assert answers == ["yes please", "no please", "yes"]
    assert rewards == pytest.approx([1.25 - 0.7, 0.25 - 0.6, 1.0])
    assert parts[1] == {"correct": 0.0, "polite": 1.0, "length": 0.6}
    found = members.episode_rewards
    assert [reward.parts.get("above_mean") for reward in found] == [1.0, 0.0, None, None]
    assert [reward.valid for reward in found] == [True, True, False, True]


def test_its_failure_costs_the_answers_that_it_fails_on() -> None:
    members = played(
        Words(rewards={"fails_on_no": 1.0}), ["yes please", "no"], ["down", "yes please"]
    )
    found = members.episode_rewards
    assert [reward.error for reward in found] == [
        *("", "OSError: no connection", "OSError: sandbox down", "")
    ]
    assert [reward.parts.get("fails_on_no") for reward in found] == [1.0, None, None, 1.0]
    played(Words(rewards={"fails_on_no": 1.0}), ["down", "down"])
    with pytest.raises(ContractBroken, match=r"^miscounts returned 1 rewards for 2 answers"):
        played(Words(rewards={"miscounts": 1.0}), ["yes", "no"])


# Mistakes


def test_what_a_function_is_told_is_no_option() -> None:
    with pytest.raises(ConfigError) as caught:
        Words(rewards={"brief": {"rewards": 1}})
    assert str(caught.value).startswith("no env.rewards.brief.rewards. Allowed: ")
    assert "env.rewards.brief.most, env.rewards.brief.weight" in str(caught.value)
    with pytest.raises(ConfigError, match=r"env\.rewards\.brief\.most=long\. Allowed: a number"):
        Words(rewards={"brief": {"most": "long"}})
    with pytest.raises(ConfigError, match=r"no env\.rewards\.above_mean\.parts"):
        Words(rewards={"above_mean": {"parts": 1}})


def test_trainers_that_have_no_group_refuse_it() -> None:
    keywords = {"rewards": {"length_among_right": -0.1}}
    env, _ = environment_of("math", keywords)
    with pytest.raises(ConfigError) as caught:
        require_each_alone("math", env, "verl")
    assert str(caught.value) == (
        "env=math: env.rewards has a function that sees the group; verl grades each alone."
    )
    with pytest.raises(ConfigError, match=r"sees the group; TRL may split groups\.$"):
        Task("math", **keywords)
