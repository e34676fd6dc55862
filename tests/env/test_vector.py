"""GroupVectorEnv: groups share a problem, rewards keep the order of the actions."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import grpo_envs
from grpo_envs import GroupVectorEnv, Problem, Reply, Reward, TextEnv, Turn
from grpo_envs.errors import ConfigError, ResetNeeded, UnknownName


class Adding(TextEnv):
    """Pays `near` for closeness, so that rewards of one group are all different."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "near": 0.5}

    def draw(self, rng: random.Random, split: str) -> Problem:
        a, b = rng.randrange(10**6), rng.randrange(10**6)
        return Problem(prompt=f"{a} + {b}?", gold=a + b, solution=str(a + b))

    def score(self, problem: Problem, answer: str) -> Reward:
        off = abs(int(answer) - problem.gold)
        # A part that is an int now and a float then, as authors write it.
        return Reward(parts={"correct": int(off == 0), "near": 1 / (1 + off) if off else 1})


class Guessing(TextEnv):
    """Three turns to guess a number below ten; counts what it is asked."""

    max_turns = 3

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.asked: list[str] = []

    def draw(self, rng: random.Random, split: str) -> Problem:
        gold = rng.randrange(10)
        return Problem(prompt=f"Guess {rng.random()}.", gold=gold, solution=str(gold))

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        self.asked.append(turns[-1].action)
        guess = int(turns[-1].action)
        reward = Reward(parts={"correct": float(guess == problem.gold)})
        if guess == problem.gold:
            return Reply(reward=reward)
        hint = "higher" if guess < problem.gold else "lower"
        return Reply(reward=reward, observation=hint, done=False)


def make_vec(**arguments: Any) -> Any:
    return gymnasium.make_vec(
        "grpo_envs/math-v0", vectorization_mode="vector_entry_point", **arguments
    )


def shifted(env: TextEnv, seeds: Sequence[int], by: Sequence[int]) -> list[str]:
    """One answer a member: the right one plus an offset."""
    return [str(env.problem(seed).gold + off) for seed, off in zip(seeds, by, strict=True)]


# Made by Gymnasium


def test_gymnasium_makes_groups() -> None:
    vector = make_vec(num_envs=6, group_size=3, level=2, split="eval")
    assert isinstance(vector, GroupVectorEnv)
    assert (vector.num_envs, vector.group_size) == (6, 3)
    prompts, info = vector.reset(seed=[1, 2])
    single = grpo_envs.make("math", level=2, split="eval")
    one, two = single.problem(1), single.problem(2)
    assert prompts == (one.prompt,) * 3 + (two.prompt,) * 3
    assert info["system_prompt"].tolist() == [single.system_prompt] * 6
    assert info["meta"].tolist() == [{}] * 6
    assert info["_meta"].all()
    assert prompts in vector.observation_space
    wrong = "<answer>no</answer>"
    answers = [wrong, one.solution, wrong, two.solution, "", one.solution]
    observations, rewards, terminated, truncated, _ = vector.step(answers)
    # correct 1 + format 0.1; a wrong answer in the right form earns the form.
    np.testing.assert_allclose(rewards, [0.1, 1.1, 0.1, 1.1, 0.0, 0.1])
    assert observations == ("",) * 6
    assert terminated.all()
    assert not truncated.any()
    vector.close()


def test_gymnasium_is_told_that_nothing_resets_by_itself() -> None:
    assert make_vec(num_envs=2).metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert GroupVectorEnv(Adding(), 2).metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_the_vector_env_tells_what_an_agent_needs() -> None:
    vector = GroupVectorEnv(Guessing(render_mode="ansi"), 4, 2)
    assert vector.weights == {"correct": 1.0}
    assert vector.system_prompt == ""
    assert vector.max_turns == 3
    assert vector.render_mode == "ansi"
    assert vector.single_action_space == Guessing().action_space
    assert ("a", "你好", "", "\U0001f600") in vector.action_space


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"num_envs": 7, "group_size": 3},
            "num_envs=7, group_size=3. Allowed: whole groups, 1 or more.",
            id="a group would be cut",
        ),
        pytest.param(
            {"num_envs": 6, "group_size": 0},
            "num_envs=6, group_size=0. Allowed: whole groups, 1 or more.",
            id="empty groups",
        ),
        pytest.param(
            {"num_envs": 0, "group_size": 3},
            "num_envs=0, group_size=3. Allowed: whole groups, 1 or more.",
            id="no groups",
        ),
        pytest.param(
            {"num_envs": 2, "group_size": 4},
            "num_envs=2, group_size=4. Allowed: whole groups, 1 or more.",
            id="less than a group",
        ),
    ],
)
def test_wrong_counts_are_one_line(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_vec(**arguments)
    assert str(caught.value) == message


def test_a_misspelt_keyword_is_one_line() -> None:
    with pytest.raises(UnknownName, match=r"^no env\.levle\. .* Did you mean 'level'\?$"):
        make_vec(num_envs=6, group_size=3, levle=2)


def test_a_misspelt_group_size_is_told_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'group_size'"):
        make_vec(num_envs=6, grup_size=3)


def test_an_unknown_concurrency_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adding, "concurrency", "thread")
    message = r"^Adding\.concurrency='thread'\. Allowed: auto, none, threads, processes\.$"
    with pytest.raises(ConfigError, match=message):
        GroupVectorEnv(Adding(), 2)


# Seeds

SEEDS = [
    pytest.param([5, 9], id="one a group"),
    pytest.param([5, 5, 5, 9, 9, 9], id="one a member"),
    pytest.param((5, 9), id="a tuple"),
    pytest.param(np.array([5, 9]), id="an array"),
]


@pytest.mark.parametrize("seeds", SEEDS)
def test_seeds_are_problem_numbers(seeds: Any) -> None:
    env = Adding()
    prompts, _ = GroupVectorEnv(env, 6, 3).reset(seed=seeds)
    assert prompts == (env.problem(5).prompt,) * 3 + (env.problem(9).prompt,) * 3


def test_without_groups_each_member_has_its_seed() -> None:
    env = Adding()
    prompts, _ = GroupVectorEnv(env, 3).reset(seed=[4, 4, 8])
    assert prompts == tuple(env.problem(seed).prompt for seed in (4, 4, 8))


@pytest.mark.parametrize("seed", [0, 3, None])
def test_members_share_and_groups_differ(seed: int | None) -> None:
    prompts, _ = GroupVectorEnv(Adding(), 60, 3).reset(seed=seed)
    groups = [prompts[i : i + 3] for i in range(0, 60, 3)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len(set(prompts)) == 20


def test_one_number_is_hashed_to_groups() -> None:
    def prompts(seed: int) -> set[str]:
        return set(GroupVectorEnv(Adding(), 60, 3).reset(seed=seed)[0])

    assert prompts(3) == prompts(3)
    # With `seed + i`, nineteen of these twenty would be the same.
    assert not prompts(3) & prompts(4)


def test_no_seed_is_another_problem_each_time_and_follows_the_last_seed() -> None:
    def walk(vector: GroupVectorEnv) -> list[str]:
        return [vector.reset(seed=3)[0][0], *(vector.reset()[0][0] for _ in range(4))]

    first = walk(GroupVectorEnv(Adding(), 6, 3))
    assert len(set(first)) == 5
    assert walk(GroupVectorEnv(Adding(), 6, 3)) == first
    unseeded = [GroupVectorEnv(Adding(), 6, 3).reset()[0] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        pytest.param([1, 2, 3], "seed: 3 seeds. Allowed: 2, one for each group.", id="too many"),
        pytest.param([1], "seed: 1 seeds. Allowed: 2, one for each group.", id="too few"),
        pytest.param([], "seed: 0 seeds. Allowed: 2, one for each group.", id="none at all"),
        pytest.param(
            [1, 1, 1, 2, 2, 3],
            "seed: members of one group have different seeds.",
            id="a group is torn apart",
        ),
        pytest.param(
            [1, 2, 1, 2, 1, 2],
            "seed: members of one group have different seeds.",
            id="groups interleaved",
        ),
        pytest.param(
            [1, None, 2],
            "seed: 3 seeds. Allowed: 2, one for each group.",
            id="None counts",
        ),
    ],
)
def test_seeds_that_do_not_fit_are_one_line(seeds: list[int | None], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GroupVectorEnv(Adding(), 6, 3).reset(seed=seeds)
    assert str(caught.value) == message


def test_none_in_a_list_is_a_random_problem() -> None:
    env = Adding()
    prompts, _ = GroupVectorEnv(env, 6, 3).reset(seed=[5, None])
    assert prompts[:3] == (env.problem(5).prompt,) * 3
    assert len(set(prompts[3:])) == 1


def test_a_numpy_number_is_a_number() -> None:
    seed: Any = np.int64(3)
    assert (
        GroupVectorEnv(Adding(), 6, 3).reset(seed=seed)[0]
        == GroupVectorEnv(Adding(), 6, 3).reset(seed=3)[0]
    )


def test_a_mask_resets_whole_groups_and_leaves_the_others() -> None:
    env = Adding()
    vector = GroupVectorEnv(env, 6, 3)
    vector.reset(seed=[1, 2])
    vector.step(["0"] * 6)
    mask = np.array([False] * 3 + [True] * 3)
    prompts, _ = vector.reset(seed=[7, 8], options={"reset_mask": mask})
    assert prompts[3:] == (env.problem(8).prompt,) * 3
    # The first group's episodes are still over: it is masked.
    _, rewards, _, _, info = vector.step(shifted(env, [1, 1, 1, 8, 8, 8], [0] * 6))
    np.testing.assert_array_equal(rewards, [0, 0, 0, 1.5, 1.5, 1.5])
    np.testing.assert_array_equal(info["_reward_valid"], mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        pytest.param(
            [True, False, False, True, True, True],
            "reset_mask: it marks a part of a group. Allowed: whole groups.",
            id="half a group",
        ),
        pytest.param([True, False], "reset_mask: shape (2,). Allowed: (6,).", id="one a group"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_line(mask: list[bool], message: str) -> None:
    vector = GroupVectorEnv(Adding(), 6, 3)
    vector.reset(seed=[1, 2])
    with pytest.raises(ConfigError) as caught:
        vector.reset(options={"reset_mask": np.array(mask)})
    assert str(caught.value) == message


# Rewards


def test_rewards_come_back_in_the_order_of_the_actions() -> None:
    env = Adding()
    vector = GroupVectorEnv(env, 6, 3)
    vector.reset(seed=[1, 2])
    _, rewards, _, _, info = vector.step(shifted(env, [1, 1, 1, 2, 2, 2], [3, 0, 1, 1, 3, 0]))
    # Off by d earns 0.5 / (1 + d), exact earns 1 + 0.5.
    np.testing.assert_allclose(rewards, [0.125, 1.5, 0.25, 0.25, 0.125, 1.5], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(info["reward/correct"], [0, 1, 0, 0, 0, 1])


def test_columns_keep_their_fractions() -> None:
    # Gymnasium takes a column's dtype from the first row: an int 1, then 0.5, would become 0.
    env = Adding()
    vector = GroupVectorEnv(env, 3, 3)
    vector.reset(seed=[1])
    _, rewards, _, _, info = vector.step(shifted(env, [1, 1, 1], [0, 1, 3]))
    assert rewards.dtype == np.float64
    floats = [key for key in info if not key.startswith("_") and key != "detail"]
    assert sorted(floats) == ["reward/correct", "reward/near", "reward_valid"]
    assert {info[key].dtype for key in floats} == {np.dtype(np.float64)}
    assert info["reward/near"].tolist() == [1.0, 0.5, 0.25]
    assert {info[f"_{key}"].dtype for key in (*floats, "detail")} == {np.dtype(np.bool_)}


def test_one_answer_that_raises_costs_that_answer_only() -> None:
    env = Adding()
    vector = GroupVectorEnv(env, 6, 3)
    vector.reset(seed=[1, 2])
    actions = shifted(env, [1, 1, 1, 2, 2, 2], [0] * 6)
    actions[4] = "many"
    _, rewards, terminated, _, info = vector.step(actions)
    np.testing.assert_array_equal(rewards, [1.5, 1.5, 1.5, 1.5, 0, 1.5])
    np.testing.assert_array_equal(info["reward_valid"], [1, 1, 1, 1, 0, 1])
    assert info["detail"][4].startswith("ValueError: invalid literal for int()")
    assert list(info["detail"][:4]) == [""] * 4
    assert terminated.all()


@pytest.mark.parametrize("count", [0, 5, 7])
def test_one_action_for_each_member(count: int) -> None:
    vector = GroupVectorEnv(Adding(), 6, 3)
    vector.reset(seed=1)
    with pytest.raises(ConfigError) as caught:
        vector.step(["1"] * count)
    assert str(caught.value) == f"{count} actions for 6 members."


def test_step_needs_reset_before_and_after() -> None:
    vector = GroupVectorEnv(Adding(), 2, 2)
    with pytest.raises(ResetNeeded):
        vector.step(["1", "2"])
    vector.reset(seed=1)
    vector.step(["1", "2"])
    with pytest.raises(ResetNeeded):
        vector.step(["1", "2"])


# The same as single environments


@pytest.mark.parametrize("level", [1, 4, 5])
def test_members_are_single_environments(level: int) -> None:
    seeds = [3, 3, 4, 4, 5, 5]
    vector = make_vec(num_envs=6, group_size=2, level=level)
    prompts, _ = vector.reset(seed=seeds)
    solutions = [vector.env.problem(seed).solution for seed in seeds]
    answers = [text[:-1] if i % 2 else text for i, text in enumerate(solutions)]
    answers[2] = "<answer>-1</answer>"
    observations, rewards, terminated, truncated, info = vector.step(answers)
    for i, (seed, answer) in enumerate(zip(seeds, answers, strict=True)):
        single = grpo_envs.make("math", level=level)
        assert single.reset(seed=seed)[0] == prompts[i]
        expected = single.step(answer)
        assert expected[:4] == (observations[i], rewards[i], terminated[i], truncated[i])
        assert expected[4] == {key: info[key][i] for key in expected[4]}
    assert len(set(rewards)) > 1


# Several turns


def golds(vector: GroupVectorEnv, seeds: Sequence[int]) -> list[int]:
    return [vector.env.problem(seed).gold for seed in seeds]


def test_finished_members_are_masked_and_not_stepped() -> None:
    env = Guessing()
    vector = GroupVectorEnv(env, 3, 3)
    vector.reset(seed=[1])
    (gold,) = golds(vector, [1])
    wrong = str((gold + 1) % 10)

    _, rewards, terminated, truncated, _ = vector.step([wrong, str(gold), wrong])
    assert rewards.tolist() == [0.0, 1.0, 0.0]
    assert terminated.tolist() == [False, True, False]
    assert not truncated.any()

    # int("done already") would raise: nobody may look at it.
    env.asked.clear()
    step = vector.step([str(gold), "done already", wrong])
    observations, rewards, terminated, truncated, info = step
    assert env.asked == [str(gold), wrong]
    assert rewards.tolist() == [1.0, 0.0, 0.0]
    assert terminated.tolist() == [True, True, False]
    assert not truncated.any()
    assert observations[1] == ""
    assert info["_reward/correct"].tolist() == [True, False, True]
    assert info["_reward_valid"].tolist() == [True, False, True]

    _, rewards, terminated, truncated, info = vector.step(["x", "x", wrong])
    assert rewards.tolist() == [0.0, 0.0, 0.0]
    assert truncated.tolist() == [False, False, True]
    assert terminated.tolist() == [True, True, False]
    assert info["reward_valid"][2] == 1.0
    with pytest.raises(ResetNeeded):
        vector.step([wrong] * 3)


def test_conversations_are_single_environments() -> None:
    vector = GroupVectorEnv(Guessing(), 4, 2)
    seeds = [1, 1, 2, 2]
    vector.reset(seed=seeds)
    singles = [Guessing() for _ in seeds]
    for single, seed in zip(singles, seeds, strict=True):
        single.reset(seed=seed)
    over = [False] * 4
    for turn in ("4", "5", "6"):
        observations, rewards, terminated, truncated, _ = vector.step([turn] * 4)
        for i, single in enumerate(singles):
            if over[i]:
                continue
            expected = single.step(turn)
            assert expected[:4] == (observations[i], rewards[i], terminated[i], truncated[i])
            over[i] = expected[2] or expected[3]
    assert all(over)


def test_members_that_are_truncated_from_outside_are_left_alone() -> None:
    env = Guessing()
    vector = GroupVectorEnv(env, 3, 3)
    vector.reset(seed=[1])
    (gold,) = golds(vector, [1])
    wrong = str((gold + 1) % 10)
    vector.step([wrong, str(gold), wrong])
    vector.truncate([0, 1])  # 1 has ended by itself, and stays so
    env.asked.clear()
    observations, rewards, terminated, truncated, info = vector.step(["a phantom", "x", str(gold)])
    assert env.asked == [str(gold)]
    assert (observations[0], rewards.tolist()) == ("", [0.0, 0.0, 1.0])
    assert terminated.tolist() == [False, True, True]
    assert truncated.tolist() == [True, False, False]
    assert info["_reward_valid"].tolist() == [False, False, True]
    assert list(vector.replies) == [2]
    with pytest.raises(ResetNeeded):
        vector.step([wrong] * 3)
    vector.reset(seed=[1])
    assert vector.replies == {}
    assert vector.step([wrong] * 3)[3].tolist() == [False] * 3


@pytest.mark.parametrize("ahead", [False, True])
def test_the_replies_of_a_step_hold_its_rewards(ahead: bool) -> None:
    env = Adding(rewards={"near": {"weight": 0.25, "scale": 2}})
    vector = GroupVectorEnv(env, 4, 2)
    vector.reset(seed=[1, 2])
    actions = shifted(env, [1, 1, 2, 2], [0, 1, 0, 3])
    actions[2] = "many"
    if ahead:
        vector.score_ahead({0: actions[0], 1: actions[1]})
    _, rewards, _, _, info = vector.step(actions)
    found = [vector.replies[i].reward for i in range(4)]
    assert [reward.total for reward in found] == rewards.tolist()
    assert [reward.valid for reward in found] == [True, True, False, True]
    assert [reward.detail for reward in found] == info["detail"].tolist()
    assert found[2].parts == {}
    for i in (0, 1, 3):
        assert found[i].parts == {name: info[f"reward/{name}"][i] for name in ("correct", "near")}
        assert found[i].weights == env.weights
    vector.close()


def test_earlier_turns_have_their_rewards_and_the_one_that_is_graded_has_none() -> None:
    seen: list[list[float]] = []

    class Paying(Guessing):
        parts: ClassVar[Mapping[str, float]] = {"correct": 3.0}

        def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
            seen.append([turn.reward for turn in turns])
            return Reply(reward=Reward(parts={"correct": 0.5 * len(turns)}), done=False)

    vector = GroupVectorEnv(Paying(), 1)
    vector.reset(seed=1)
    for _ in range(3):
        vector.step(["1"])
    single = Paying()
    single.reset(seed=1)
    for _ in range(3):
        single.step("1")
    assert seen == [[0.0], [1.5, 0.0], [1.5, 3.0, 0.0]] * 2


def test_a_turn_that_raises_ends_one_member() -> None:
    vector = GroupVectorEnv(Guessing(), 2, 2)
    vector.reset(seed=[1])
    wrong = str((golds(vector, [1])[0] + 1) % 10)
    _, rewards, terminated, _, info = vector.step(["six", wrong])
    assert rewards.tolist() == [0.0, 0.0]
    assert terminated.tolist() == [True, False]
    assert info["reward_valid"].tolist() == [0.0, 1.0]


def talk_until_truncated(vector: GroupVectorEnv) -> None:
    for _ in range(3):
        actions = [str((gold + 1) % 10) for gold in golds(vector, [1, 2])]
        *_, truncated, _ = vector.step(actions)
    assert truncated.all()


def test_a_truncated_member_does_not_become_terminated() -> None:
    vector = GroupVectorEnv(Guessing(), 2)
    vector.reset(seed=[1, 2])
    talk_until_truncated(vector)
    vector.reset(seed=[1, 2], options={"reset_mask": np.array([True, False])})
    _, _, terminated, _, _ = vector.step([str((golds(vector, [1])[0] + 1) % 10), "x"])
    assert terminated.tolist() == [False, False]


def test_a_mask_leaves_the_others_in_their_conversation() -> None:
    vector = GroupVectorEnv(Guessing(), 2)
    vector.reset(seed=[1, 2])
    actions = [str((gold + 1) % 10) for gold in golds(vector, [1, 2])]
    observations, *_ = vector.step(actions)
    again, _ = vector.reset(seed=[1, 2], options={"reset_mask": np.array([True, False])})
    assert again[1] == observations[1]


# Concurrency


def graded(env: TextEnv) -> tuple[list[float], list[float], list[str]]:
    seeds = [seed for seed in range(5) for _ in range(2)]
    vector = GroupVectorEnv(env, 10, 2)
    vector.reset(seed=seeds)
    actions = shifted(env, seeds, [0, 1, 2, 0, 3, 1, 0, 0, 2, 5])
    actions[3] = "not a number"
    _, rewards, _, _, info = vector.step(actions)
    vector.reset(seed=seeds)
    _, again, _, _, _ = vector.step(actions)  # the workers are still there
    vector.close()
    vector.close()
    assert again.tolist() == rewards.tolist()
    return rewards.tolist(), info["reward_valid"].tolist(), list(info["detail"])


class Slow(Adding):
    """Takes longer for earlier members, so that threads finish out of order."""

    def score(self, problem: Problem, answer: str) -> Reward:
        time.sleep(0.002 * (len(answer) % 3))
        return super().score(problem, answer)


def test_threads_give_the_same_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Slow()
    expected = graded(env)
    monkeypatch.setattr(env, "concurrency", "threads")
    assert graded(env) == expected
    assert expected[1].count(0.0) == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core is one worker")
def test_threads_score_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)

    class Meeting(Adding):
        def score(self, problem: Problem, answer: str) -> Reward:
            both.wait()  # raises unless another thread comes
            return super().score(problem, answer)

    monkeypatch.setattr(Meeting, "concurrency", "threads")
    vector = GroupVectorEnv(Meeting(), 2, 2)
    vector.reset(seed=[1])
    *_, info = vector.step(["1", "2"])
    vector.close()
    assert info["reward_valid"].tolist() == [1.0, 1.0], info["detail"]


IN_PROCESSES = """
import sys, numpy, grpo_envs
env = grpo_envs.make("math")
env.concurrency = sys.argv[1]
vector = grpo_envs.GroupVectorEnv(env, 6, 3)
for _ in range(2):
    vector.reset(seed=[1, 2])
    one, two = env.problem(1).solution, env.problem(2).solution
    rewards = vector.step([one, "", two, two, one, "<answer>3</answer>"])[1]
vector.close()
print(rewards.tolist())
"""


@pytest.mark.parametrize(
    "concurrency",
    [
        "none",
        "threads",
        pytest.param(
            "processes",
        ),
    ],
)
def test_workers_give_the_same_rewards(concurrency: str) -> None:
    # In an interpreter of its own: a pool that hangs must end as a failure, not as a stuck run.
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESSES, concurrency],
        timeout=120,
        check=True,
        capture_output=True,
        text=True,
    )
    # Right and in form 1.1; empty 0; in form only 0.1.
    assert done.stdout.strip() == "[1.1, 0.0, 0.1, 1.1, 0.1, 0.1]"


# --- grading ahead


class Sleepy(TextEnv):
    """Grading takes a while, and is noted."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}
    graded: ClassVar[list[str]] = []

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=str(rng.random()), gold="", solution="")

    def score(self, problem: Problem, answer: str) -> Reward:
        time.sleep(0.05)
        Sleepy.graded.append(answer)
        return Reward(parts={"correct": len(answer) / 10})


def test_answers_graded_ahead_are_graded_once_and_come_in_order() -> None:
    Sleepy.graded.clear()
    envs = GroupVectorEnv(Sleepy(), 6, 2)
    envs.reset(seed=[1, 2, 3])
    answers = ["a" * (i + 1) for i in range(6)]
    for group in (2, 0):
        envs.score_ahead({i: answers[i] for i in (2 * group, 2 * group + 1)})
    time.sleep(0.3)
    _, rewards, terminated, _, infos = envs.step(answers)
    assert rewards.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert infos["reward/correct"].tolist() == rewards.tolist()
    assert terminated.all()
    assert sorted(Sleepy.graded) == answers
    assert Sleepy.graded[:4] == [answers[i] for i in (4, 5, 0, 1)]
    assert 0.19 < envs.hidden_seconds < 0.4
    envs.close()


def test_an_answer_that_became_another_is_graded_anew() -> None:
    Sleepy.graded.clear()
    envs = GroupVectorEnv(Sleepy(), 2, 2)
    envs.reset(seed=[1])
    envs.score_ahead({0: "no", 1: "yes"})
    assert envs.step(["yes!", "yes"])[1].tolist() == pytest.approx([0.4, 0.3])
    envs.reset(seed=[2])
    envs.score_ahead({0: "no", 1: "yes"})
    time.sleep(0.3)
    envs.reset(seed=[3])
    Sleepy.graded.clear()
    assert envs.step(["no", "yes"])[1].tolist() == pytest.approx([0.2, 0.3])
    assert Sleepy.graded == ["no", "yes"], "another problem"
    assert envs.hidden_seconds == 0
    envs.close()


def test_what_fails_ahead_fails_the_step() -> None:
    class Broken(Sleepy):
        def reply_batch(self, *args: object) -> list[Reply]:
            raise OSError("no sandbox left")

    envs = GroupVectorEnv(Broken(), 2, 2)
    envs.reset(seed=[1])
    envs.score_ahead({0: "a", 1: "b"})
    with pytest.raises(OSError, match="no sandbox left"):
        envs.step(["a", "b"])
    envs.close()
