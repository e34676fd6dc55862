"""Composition: weights, shaping, and reward functions that installed packages bring."""

import asyncio
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import grpo_envs
from grpo_envs.config.composition import compose_run
from grpo_envs.env.reward_functions import length, repetition
from grpo_envs.env.rewards import Part, part_from
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, ContractBroken
from grpo_envs.runs.metrics import group_metrics
from grpo_envs.seeding import split_of
from grpo_envs.types import Completion, Group, Problem, Reply, Reward, Turn

FUNCTIONS = """
import asyncio, sys, time
import grpo_envs

def vowels(problem, answer, *, of="aeiou"):
    return sum(letter in of for letter in answer) / max(1, len(answer))

def only_even(problem, answer):
    return float(len(answer)) if problem.gold % 2 == 0 else None

async def slowly(problem, answer):
    await asyncio.sleep(0.2)
    if answer == "raise":
        raise OSError("no connection")
    return 0.5

calls = []

async def careless(problem, answer):
    # Some answers make it block the event loop for 3 s, or ignore that it is cancelled.
    calls.append(answer)
    if answer == "sleep at once":
        time.sleep(3)
    await asyncio.sleep(0.05)
    end = time.monotonic() + 3
    if answer == "sleep":
        time.sleep(3)
    while answer == "spin" and time.monotonic() < end:
        pass
    if answer == "sleep in a task":
        await asyncio.gather(asyncio.sleep(0), careless(problem, "sleep"))
    while answer == "go on" and time.monotonic() < end:
        try:
            await asyncio.sleep(3)
        except asyncio.CancelledError:
            pass
    if answer == "sleep when cancelled":
        try:
            await asyncio.sleep(3)
        finally:
            time.sleep(3)
    if answer == "raise":
        raise OSError("no connection")
    if answer == "exit":
        sys.exit("enough")
    if answer == "cancel":
        raise asyncio.CancelledError
    return 0.5

async def in_pieces(problem, answer):
    # Computes for 0.3 or 1.2 s, or waits for 0.3 s.
    for _ in range(3):
        if answer.startswith("compute"):
            time.sleep(0.4 if answer == "compute long" else 0.1)
        await asyncio.sleep(0.1 if answer == "wait" else 0)
    return 0.5

@grpo_envs.batched
async def careless_together(problems, answers):
    return [await careless(*pair) for pair in zip(problems, answers)]

@grpo_envs.batched
def ranked(problems, answers):
    order = sorted(answers)
    return [order.index(answer) / len(answers) for answer in answers]

@grpo_envs.batched
async def ranked_later(problems, answers):
    await asyncio.sleep(0)
    return ranked(problems, answers)

def raises(problem, answer):
    if answer == "raise":
        raise OSError("no connection")
    return 1.0

def not_a_number(problem, answer):
    return float("nan") if answer == "nan" else 1.0

@grpo_envs.batched
def too_few(problems, answers):
    return [1.0]
"""
NAMES = [
    *("vowels", "only_even", "slowly", "ranked", "ranked_later", "raises", "not_a_number"),
    *("too_few", "absent", "careless", "careless_together", "in_pieces"),
]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with reward functions, as pip would lay it down."""
    info = tmp_path / "demo_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-rewards\nVersion: 1.0\n")
    lines = [f"{name} = demo_rewards:{name}" for name in NAMES]
    (info / "entry_points.txt").write_text("\n".join(["[grpo_envs.rewards]", *lines, ""]))
    (tmp_path / "demo_rewards.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))


class Echo(grpo_envs.TextEnv):
    """Say yes."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "short": 0.1}

    def draw(self, rng: random.Random, split: str) -> Problem:
        while True:
            number = rng.randrange(10**6)
            if split_of(str(number)) == split:
                return Problem(prompt=f"Yes to {number}?", gold=number, solution="yes")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == "yes"), "short": float(len(answer) < 4)})


def problem(number: int = 2) -> Problem:
    return Problem(prompt="?", gold=number, solution="yes")


def rewards(env: grpo_envs.TextEnv, *answers: str, gold: int = 2) -> list[Reward]:
    episodes = [[Turn(action=answer)] for answer in answers]
    return [reply.reward for reply in env.reply_batch([problem(gold)] * len(answers), episodes)]


# Arithmetic


def test_parts_are_scaled_clipped_and_weighed() -> None:
    env = Echo(
        rewards={
            "correct": 2.0,
            "short": {"weight": -0.5, "scale": 3.0, "clip": [0.25, 2.0]},
            "vowels": {"weight": 4.0, "of": "e"},
        }
    )
    (reward,) = rewards(env, "yes")
    # correct 1 * 2; short 1 * 3, clipped to 2, * -0.5; vowels 1 of 3 letters, * 4.
    assert reward.parts == {"correct": 1.0, "short": 2.0, "vowels": pytest.approx(1 / 3)}
    assert reward.total == pytest.approx(2.0 - 1.0 + 4 / 3)
    (other,) = rewards(env, "long no")
    assert other.parts["short"] == 0.25  # 0, clipped from below
    assert other.total == pytest.approx(-0.125)
    assert env.reward_range == pytest.approx((-1.0, 2.0 + 4.0 - 0.125))
    assert {name: part.weight for name, part in env.own_parts.items()} == {
        "correct": 2.0,
        "short": -0.5,
    }


def test_a_weight_alone_keeps_the_rest() -> None:
    assert part_from("a", 0.5) == Part(weight=0.5)
    assert part_from("a", {"clip": [0, 1]}, 0.1) == Part(weight=0.1, clip=(0.0, 1.0))
    assert Echo(rewards={"short": {"clip": [0, 1]}}).weights == {"correct": 1.0, "short": 0.1}


@given(
    raw=st.floats(-1e6, 1e6),
    scale=st.floats(-1e3, 1e3),
    ends=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
)
def test_what_is_clipped_stays_between_its_ends(
    raw: float, scale: float, ends: tuple[float, float]
) -> None:
    part = Part(scale=scale, clip=(min(ends), max(ends)))
    assert min(ends) <= part.shaped(raw) <= max(ends)
    if min(ends) <= scale * raw <= max(ends):
        assert part.shaped(raw) == scale * raw


# Functions


@pytest.mark.parametrize(
    ("name", "answers", "values"),
    [
        pytest.param("vowels", ["aei", "xyz"], [1.0, 0.0], id="plain"),
        pytest.param("slowly", ["a", "b"], [0.5, 0.5], id="async"),
        pytest.param("ranked", ["b", "a", "c"], [1 / 3, 0.0, 2 / 3], id="batched"),
        pytest.param("ranked_later", ["b", "a", "c"], [1 / 3, 0.0, 2 / 3], id="batched and async"),
    ],
)
def test_a_function_of_a_package_is_a_part(
    name: str, answers: list[str], values: list[float]
) -> None:
    found = rewards(Echo(rewards={name: 2.0}), *answers)
    assert [reward.parts[name] for reward in found] == pytest.approx(values)
    own = [reward.parts["correct"] + 0.1 * reward.parts["short"] for reward in found]
    totals = [each + 2 * value for each, value in zip(own, values, strict=True)]
    assert [reward.total for reward in found] == pytest.approx(totals)


def test_async_functions_wait_together() -> None:
    started = time.perf_counter()
    rewards(Echo(rewards={"slowly": 1.0}), *map(str, range(40)))
    assert time.perf_counter() - started < 4.0  # 8 seconds one after the other


def test_async_functions_work_within_a_running_loop() -> None:
    async def inside() -> list[Reward]:
        return rewards(Echo(rewards={"slowly": 1.0}), "a")

    assert asyncio.run(inside())[0].parts["slowly"] == 0.5


LATE = "careless: TimeoutError: took longer than 0.8 s"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param("sleep at once", LATE, id="blocks before it awaits"),
        pytest.param("sleep", LATE, id="blocks"),
        pytest.param("spin", LATE, id="computes without an end"),
        pytest.param("sleep in a task", LATE, id="blocks in a task of its own"),
        pytest.param("go on", LATE, id="ignores that it is cancelled"),
        pytest.param("sleep when cancelled", LATE, id="blocks when it is cancelled"),
        pytest.param("raise", "careless: OSError: no connection", id="raises"),
        pytest.param("exit", "careless: SystemExit: enough", id="exits"),
        pytest.param("cancel", "careless: CancelledError", id="is cancelled"),
    ],
)
def test_an_async_function_costs_its_own_answer_only(answer: str, error: str) -> None:
    env = Echo(rewards={"careless": {"timeout": 0.8}})
    started = time.perf_counter()
    found = rewards(env, "a", answer, "b", "c")
    assert time.perf_counter() - started < 2.9  # else it waited for the function to end
    assert [reward.valid for reward in found] == [True, False, True, True]
    assert found[1].error == error
    assert [reward.parts.get("careless") for reward in found] == [0.5, None, 0.5, 0.5]


def test_a_few_async_functions_that_block_end_the_asking() -> None:
    env = Echo(rewards={"careless": {"timeout": 0.2}})
    found = rewards(env, "a", *["sleep"] * 50)
    assert [reward.valid for reward in found] == [True, *[False] * 50]
    unasked = "careless: TimeoutError: not asked: 3 others took longer than 0.2 s"
    assert [reward.error for reward in found].count(unasked) == 47


def test_a_loop_that_is_left_behind_asks_nothing_more() -> None:
    import demo_rewards  # type: ignore[import-not-found]

    env = Echo(rewards={"careless": {"timeout": 0.2}})
    demo_rewards.calls.clear()
    assert [reward.valid for reward in rewards(env, "sleep at once", "a")] == [False, True]
    time.sleep(3.1)  # until the first loop is free again
    assert demo_rewards.calls == ["sleep at once", "a"]


def test_the_time_that_others_compute_is_not_an_answers_own() -> None:
    env = Echo(rewards={"in_pieces": {"timeout": 0.9}})
    answers = ["wait", *["compute"] * 5, "wait"]  # 1.5 s of computing, 0.3 s for each
    assert [reward.error for reward in rewards(env, *answers)] == [""] * len(answers)
    strict = Echo(rewards={"in_pieces": {"timeout": 0.15}})
    assert not any(reward.valid for reward in rewards(strict, *answers))


def test_what_is_late_stays_late_while_others_go_on() -> None:
    """The long one is cancelled at 0.8 s, which raises in it; the other one ends later."""
    env = Echo(rewards={"in_pieces": {"timeout": 0.6}})
    late = "in_pieces: TimeoutError: took longer than 0.6 s"
    assert [reward.error for reward in rewards(env, "compute long", "wait")] == [late, ""]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param("sleep", "TimeoutError: took longer than 0.4 s", id="blocks"),
        pytest.param("exit", "RuntimeError: SystemExit: enough", id="exits"),
    ],
)
def test_an_async_function_of_all_answers_costs_one_of_them_only(answer: str, error: str) -> None:
    found = rewards(Echo(rewards={"careless_together": {"timeout": 0.4}}), "a", answer)
    assert [reward.valid for reward in found] == [True, False]
    assert found[1].error == error


def test_a_function_that_is_left_behind_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    code = """if True:
        import asyncio, time
        from grpo_envs.env.deadlines import in_time, in_time_together

        async def blocks():
            time.sleep(600)

        async def waits():
            while True:
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    pass

        values = in_time_together([blocks, waits], 0.2) + in_time([blocks, waits], 0.2)
        print(*values, sep="\\n")
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["took longer than 0.2 s"] * 4


def test_a_part_that_does_not_apply_is_left_out() -> None:
    env = Echo(rewards={"only_even": 1.0})
    assert rewards(env, "yes", gold=4)[0].parts["only_even"] == 3.0
    (reward,) = rewards(env, "yes", gold=5)
    assert "only_even" not in reward.parts
    assert reward.total == pytest.approx(1.1)
    info = env.info_for(reward)
    assert "reward/only_even" not in info
    assert {type(value) for key, value in info.items() if key != "detail"} == {float}


@pytest.mark.parametrize("name", ["raises", "slowly"])
def test_a_function_that_raises_costs_that_answer_only(name: str) -> None:
    found = rewards(Echo(rewards={name: 1.0}), "yes", "raise", "no")
    assert [reward.valid for reward in found] == [True, False, True]
    assert found[1].error.endswith("OSError: no connection")


def test_a_value_that_is_no_number_makes_the_reward_invalid() -> None:
    found = rewards(Echo(rewards={"not_a_number": 1.0}), "yes", "nan")
    assert [reward.valid for reward in found] == [True, False]
    assert found[1].error == "reward component 'not_a_number' is nan"


def test_a_function_that_miscounts_is_told() -> None:
    with pytest.raises(ContractBroken, match=r"^too_few returned 1 rewards for 2 answers"):
        rewards(Echo(rewards={"too_few": 1.0}), "a", "b")


def test_an_invalid_grade_stays_invalid() -> None:
    class Down(Echo):
        def score(self, problem: Problem, answer: str) -> Reward:
            raise OSError("sandbox down")

    (reward,) = rewards(Down(rewards={"vowels": 1.0}), "yes")
    assert (reward.valid, reward.error, reward.total) == (False, "OSError: sandbox down", 0.0)


def test_each_turn_of_a_conversation_is_asked_about() -> None:
    class Talk(Echo):
        max_turns = 2

        def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
            parts = self.score(problem, turns[-1].action).parts
            return Reply(reward=Reward(parts=parts), done=len(turns) == 2)

    env = Talk(rewards={"vowels": 1.0})
    replies = env.reply_batch([problem()], [[Turn(action="xyz"), Turn(action="aaa")]])
    assert replies[0].reward.parts["vowels"] == 1.0


def test_parts_reach_the_metrics_raw_and_weighed() -> None:
    env = Echo(rewards={"only_even": {"weight": -2.0, "scale": 0.1}})
    found = [*rewards(env, "yes", gold=4), *rewards(env, "yes", gold=5)]
    completions = (Completion(text="yes"),) * 2
    metrics = group_metrics(
        [Group(key=0, prompt="", prompt_ids=(), completions=completions, rewards=tuple(found))]
    )
    assert metrics["reward/only_even"] == pytest.approx(0.3)  # where it applies
    assert metrics["reward_weighted/only_even"] == pytest.approx(-0.3)  # of the mean reward
    weighed = sum(value for name, value in metrics.items() if name.startswith("reward_weighted/"))
    assert weighed == pytest.approx(metrics["reward/mean"])


def test_a_vector_environment_passes_them_on() -> None:
    envs = GroupVectorEnv(Echo(rewards={"vowels": 1.0, "only_even": 0.5}), 4, 2)
    envs.reset(seed=[1, 2])
    _, totals, _, _, infos = envs.step(["yes", "no", "aaa", "xyz"])
    assert infos["reward/vowels"].tolist() == pytest.approx([1 / 3, 1 / 2, 1.0, 0.0])
    even = [envs.env.problem(seed).gold % 2 == 0 for seed in (1, 1, 2, 2)]
    assert infos["_reward/only_even"].tolist() == even
    assert np.isfinite(totals).all()


# Ours


@pytest.mark.parametrize(
    ("function", "answer", "options", "value"),
    [
        pytest.param(length, "", {}, 0.0, id="length of nothing"),
        pytest.param(length, "x" * 15, {"most": 10, "slope": 20}, 0.25, id="length on the slope"),
        pytest.param(length, "x" * 99, {"most": 10, "slope": 20}, 1.0, id="length beyond"),
        pytest.param(repetition, "", {}, 0.0, id="repetition of nothing"),
        pytest.param(repetition, "a b c", {}, 0.0, id="fewer words than a run has"),
        pytest.param(repetition, "a b a b a", {"size": 2}, 0.5, id="two of four runs"),
        pytest.param(repetition, "a a a a a", {"size": 1}, 0.8, id="one word"),
    ],
)
def test_length_and_repetition(
    function: Callable[..., float], answer: str, options: dict[str, int], value: float
) -> None:
    assert function(problem(), answer, **options) == pytest.approx(value)


# Mistakes


def test_a_function_that_looks_at_all_answers_is_not_asked_ahead_of_them() -> None:
    envs = GroupVectorEnv(Echo(rewards={"ranked": 1.0}), 4, 2)
    envs.reset(seed=[1, 2])
    answers = ["d", "c", "b", "a"]
    envs.score_ahead({0: "d", 1: "c"})
    infos = envs.step(answers)[-1]
    assert infos["reward/ranked"].tolist() == [0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            {"vowel": 1.0},
            "no reward component 'vowel'. Allowed: absent, careless, careless_together, correct, "
            "in_pieces, judge, length, length_among_right, not_a_number, only_even, "
            "raises, ranked, ranked_later, repetition, rm, short, slowly, too_few, vowels. "
            "Did you mean 'vowels'?",
            id="a name",
        ),
        pytest.param(
            {"length": {"weight": -1, "mots": 3}},
            "no env.rewards.length.mots. Allowed: env.rewards.length.most, "
            "env.rewards.length.slope, env.rewards.length.weight, env.rewards.length.scale, "
            "env.rewards.length.clip, env.rewards.length.timeout. "
            "Did you mean 'most'?",
            id="an option",
        ),
        pytest.param(
            {"length": {"weight": -1, "most": "long"}},
            "env.rewards.length.most=long. Allowed: a whole number.",
            id="the value of an option",
        ),
        pytest.param(
            {"correct": {"most": 3}},
            "no key of env.rewards.correct 'most'. Allowed: clip, scale, weight.",
            id="an option of a declared part",
        ),
        pytest.param(
            {"correct": "1"}, "env.rewards.correct=1. Allowed: a finite number.", id="a text"
        ),
        pytest.param(
            {"correct": True}, "env.rewards.correct=True. Allowed: a finite number.", id="a truth"
        ),
        pytest.param(
            ["correct"],
            "env.rewards=['correct']. Allowed: {part: weight, ...}, such as {correct: 1.0}.",
            id="a list",
        ),
        pytest.param(
            {"length": {"weight": math.inf}},
            "env.rewards.length.weight=inf. Allowed: a finite number.",
            id="a weight",
        ),
        pytest.param(
            {"length": {"scale": None}},
            "env.rewards.length.scale=None. Allowed: a finite number, or [least, most].",
            id="a scale",
        ),
        pytest.param(
            {"length": {"clip": [1, 0]}},
            "env.rewards.length.clip=[1, 0]. Allowed: [least, most].",
            id="ends that are turned around",
        ),
        pytest.param(
            {"length": {"clip": 1}},
            "env.rewards.length.clip=1. Allowed: [least, most].",
            id="one end",
        ),
    ],
)
def test_a_mistake_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Echo(rewards=given)
    assert str(caught.value) == message


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(grpo_envs.errors.PluginError, match=r"'absent' .*cannot be loaded"):
        Echo(rewards={"absent": 1.0})


def test_the_configuration_composes_them() -> None:
    cfg = compose_run(["env.rewards={repetition: -0.5, length: {weight: -0.2, most: 30}}"])
    env = grpo_envs.make("math", **cfg.env_keywords)
    assert env.weights == {"correct": 1.0, "format": 0.1, "repetition": -0.5, "length": -0.2}
    env.reset(seed=1)
    _, _, _, _, info = env.step("so so so so so so so so so so so so so so so so")
    assert info["reward/repetition"] > 0.5
    assert 0 < info["reward/length"] < 1
