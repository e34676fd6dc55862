"""env=mixture: shares, parts, turns and prompts of its members; levels that follow success."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_mixture import MixtureEnv
from grpo_env_mixture.ladder import Ladder
from grpo_env_mixture.schedule import CYCLE, Schedule
from grpo_envs import GroupVectorEnv, Problem, Reward
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runs.metrics import group_metrics
from grpo_envs.runs.rows import completion_rows
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.evaluation import eval_metrics
from grpo_envs.types import Completion, Group, Turn

TWO = {"math": 3, "code": {"weight": 1, "level": 2, "turns": 2}}
LADDER = {"sums": {"env": "math", "levels": [1, 2, 3]}}


def drawn(env: MixtureEnv, count: int, split: str = "train") -> list[Problem]:
    return [env.problem(seed, split) for seed in range(count)]


def group(env: MixtureEnv, problem: Problem, *answers: str) -> Group:
    """Grade the answers as a step of a run does."""
    replies = env.reply_batch([problem] * len(answers), [[Turn(action=a)] for a in answers])
    return Group(
        key=0,
        prompt=problem.prompt,
        prompt_ids=(),
        completions=tuple(Completion(text=answer) for answer in answers),
        rewards=tuple(reply.reward for reply in replies),
        meta=problem.meta,
    )


# Who a problem belongs to


def test_weights_are_shares_of_every_cycle() -> None:
    schedule = Schedule({"a": 2.0, "b": 1.0, "c": 0.001})
    for cycle in range(3):
        names = Counter(schedule.place(cycle * CYCLE + i)[0] for i in range(CYCLE))
        assert names == {"a": 666, "b": 333, "c": 1}


def test_each_member_counts_its_own_problems_without_a_gap() -> None:
    schedule = Schedule({"a": 2, "b": 1})
    for name in "ab":
        numbers = [number for n, number in map(schedule.place, range(3 * CYCLE)) if n == name]
        assert numbers == list(range(len(numbers)))


def test_a_member_has_the_problems_of_its_own_environment() -> None:
    env, alone = MixtureEnv(of=TWO), grpo_envs.make("code", level=2, turns=2)
    numbers = range(100)
    code = [p for p in drawn(env, 100) if p.meta["env"] == "code"]
    assert 10 < len(code) < 45
    assert [p.prompt for p in code] == [alone.problem(n).prompt for n in numbers[: len(code)]]


def test_prompts_turns_and_parts_are_the_members() -> None:
    env = MixtureEnv(of=TWO)
    members = {name: grpo_envs.make(name) for name in ("math", "code")}
    for problem in drawn(env, 40):
        name = problem.meta["env"]
        assert env.system_prompt_of(problem) == members[name].system_prompt
        assert env.turns_of(problem) == {"math": 1, "code": 2}[name]
        reward = env.reply_batch([problem], [[Turn(action=problem.solution)]])[0].reward
        assert set(reward.parts) == {f"{name}/{part}" for part in members[name].parts}
        assert (
            reward.total == pytest.approx(env.range_of(problem)[1]) == members[name].reward_range[1]
        )


def test_a_vector_of_groups_plays_both_at_once() -> None:
    """A wrong program has a second turn, a wrong sum has none."""
    env = MixtureEnv(of=TWO)
    numbers = [next(i for i, p in enumerate(drawn(env, 60)) if p.meta["env"] == n) for n in TWO]
    envs = GroupVectorEnv(env, num_envs=4, group_size=2)
    _, about = envs.reset(seed=numbers)
    assert [meta["env"] for meta in about["meta"]] == ["math", "math", "code", "code"]
    assert about["system_prompt"][0] != about["system_prompt"][2]
    wrong = "```python\ndef f(*_):\n    return 'no'\n```"
    observations, rewards, terminated, truncated, infos = envs.step(
        [env.problem(numbers[0]).solution, "?", wrong, wrong]
    )
    assert rewards.tolist() == pytest.approx([1.1, 0, 0, 0])
    assert terminated.tolist() == [True, True, False, False]
    assert not truncated.any()
    assert observations[2]
    assert infos["_reward/math/correct"].tolist() == [True, True, False, False]
    solution = env.problem(numbers[1]).solution
    _, rewards, terminated, truncated, _ = envs.step(["", "", solution, wrong])
    assert rewards.tolist() == pytest.approx([0, 0, 1.2, 0.2])
    assert (terminated | truncated).all()
    envs.close()


def test_a_single_turn_does_not_grow_longer_in_company() -> None:
    env = MixtureEnv(of=TWO)
    number = next(i for i, p in enumerate(drawn(env, 60)) if p.meta["env"] == "math")
    env.reset(seed=number)
    _, _, terminated, truncated, _ = env.step("no idea")
    assert terminated
    assert not truncated


def test_conversations_of_different_length_end_in_their_own_time() -> None:
    env = MixtureEnv(of={f"turns{n}": {"env": "code", "turns": n} for n in (2, 3)})
    numbers = [next(i for i, p in enumerate(drawn(env, 60)) if p.max_turns == n) for n in (2, 3)]
    envs = GroupVectorEnv(env, num_envs=2)
    envs.reset(seed=numbers)
    wrong = "```python\ndef f(*_):\n    return 'no'\n```"
    cut = [envs.step([wrong, wrong])[3].tolist() for _ in range(3)]
    assert cut == [[False, False], [True, False], [True, True]]
    env.reset(seed=numbers[0])
    assert [env.step(wrong)[3] for _ in range(2)] == [False, True]
    envs.close()


def test_added_functions_apply_to_all_and_cost_no_accuracy() -> None:
    env = MixtureEnv(
        of={"math": 1, "code": {"rewards": {"length": -1.0}}}, rewards={"repetition": -0.5}
    )
    assert set(env.own_parts) == {
        "math/correct",
        "math/format",
        "code/passed",
        "code/runs",
        "code/format",
    }
    for problem in drawn(env, 12):
        low, high = env.range_of(problem)
        assert high == pytest.approx(1.1 if problem.meta["env"] == "math" else 1.2)
        assert low == pytest.approx(-0.5 if problem.meta["env"] == "math" else -1.5)
        answered = group(env, problem, problem.solution + " so so so so so so so so")
        assert answered.rewards[0].parts["repetition"] > 0


def test_metrics_tell_the_members_apart() -> None:
    env = MixtureEnv(of={"math": 1, "code": 1})
    problems = drawn(env, 20)
    groups = [group(env, p, p.solution, "?") for p in problems if p.meta["env"] == "math"]
    groups += [group(env, p, "?", "?") for p in problems if p.meta["env"] == "code"]
    metrics = group_metrics(groups)
    share = sum(p.meta["env"] == "math" for p in problems) / 20
    assert metrics["env/math/share"] == pytest.approx(share)
    assert (metrics["env/math/reward"], metrics["env/code/reward"]) == pytest.approx((0.55, 0.0))
    assert (metrics["env/math/zero_std"], metrics["env/code/zero_std"]) == (0.0, 1.0)
    assert metrics["reward/math/correct"] == 0.5
    rows = [{"decoding": "greedy"} | row for row in completion_rows(groups)]
    held_out = eval_metrics(rows, env.own_parts)
    assert held_out["eval/accuracy/math"] == 0.5
    assert held_out["eval/accuracy/code"] == 0.0
    assert held_out["eval/accuracy"] == pytest.approx(share / 2)


# Difficulty


def test_a_ladder_is_climbed_by_points_and_ends() -> None:
    ladder = Ladder(levels=[3, 4, 7], pace=4)
    seen = []
    for points in (3, 1, 4, 100, -1, -3, -1, -100):
        ladder.count(points)
        seen.append(ladder.level)
    assert seen == [3, 4, 7, 7, 7, 4, 4, 3]
    ladder.count(4)
    assert ladder.level == 4  # nothing below the first level has to be made up for


def test_levels_go_up_when_groups_are_all_right_and_down_when_all_wrong() -> None:
    env = MixtureEnv(of=LADDER, pace=2)
    assert {p.meta["level"] for p in drawn(env, 20)} == {1}
    right = [group(env, p, p.solution, p.solution) for p in drawn(env, 2)]
    mixed = [group(env, p, p.solution, "?") for p in drawn(env, 5)]
    wrong = [group(env, p, "?", "?") for p in drawn(env, 2)]
    env.adapt([*right, *mixed])
    assert {p.meta["level"] for p in drawn(env, 20)} == {2}
    env.adapt(wrong[:1])
    assert {p.meta["level"] for p in drawn(env, 20)} == {1}
    env.adapt([*right, *wrong, *right, *right])
    assert {p.meta["level"] for p in drawn(env, 20)} == {3}


def test_what_could_not_be_graded_moves_nothing() -> None:
    env = MixtureEnv(of=LADDER, pace=1)
    right = group(env, env.problem(0), env.problem(0).solution)
    broken = replace(right, rewards=(Reward(valid=False, error="down"),))
    env.adapt([broken])
    assert env.problem(0).meta["level"] == 1
    env.adapt([replace(right, rewards=(*right.rewards, *broken.rewards))])
    assert env.problem(0).meta["level"] == 2


def test_held_out_problems_come_from_all_levels_whatever_was_learnt() -> None:
    env = MixtureEnv(of=LADDER, pace=1)
    before = drawn(env, 60, "eval")
    assert {p.meta["level"] for p in before} == {1, 2, 3}
    env.adapt([group(env, env.problem(0), env.problem(0).solution)])
    assert drawn(env, 60, "eval") == before
    assert not {p.prompt for p in before} & {p.prompt for p in drawn(env, 200)}


def test_a_run_moves_the_levels_and_a_resumed_one_goes_on_there(tmp_path: Path) -> None:
    """Four tokens are no answer: two steps of two groups, all wrong, cost four points."""
    overrides = [
        "env=mixture",
        "env.of={sums: {env: math, levels: [1, 2, 3]}}",
        "env.pace=3",
        "model.size=tiny",
        "logger=files",
        "trainer=smoke",
        "trainer.eval_problems=2",
        "sampler.max_new_tokens=4",
    ]
    cfg = compose_run(overrides)
    envs = make_envs(cfg)
    envs.train.env.load_state_dict({"points": {"sums": 8}})
    build(cfg, tmp_path, envs).run()
    assert envs.train.env.state_dict() == {"points": {"sums": 4}}
    cfg = compose_run([*overrides, f"resume={tmp_path}"])
    resumed = make_envs(cfg)
    assert resumed.train.env.problem(0).meta["level"] == 1
    build(cfg, tmp_path, resumed)
    assert resumed.train.env.state_dict() == {"points": {"sums": 4}}
    assert resumed.train.env.problem(0).meta["level"] == 2
    lines = (tmp_path / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["meta"]["level"] for line in lines] == [3] * 32


# Mistakes


@pytest.mark.parametrize(
    ("of", "said"),
    [
        pytest.param({}, "env.of={}", id="nothing"),
        pytest.param({"maths": 1}, "no env 'maths'. Allowed: ", id="no such environment"),
        pytest.param({"math": 0}, "env.of.math=0. Allowed: a number above 0", id="no weight"),
        pytest.param({"math": "much"}, "env.of.math=much. Allowed: ", id="a weight in words"),
        pytest.param({"math": {"weight": -1}}, "env.of.math.weight=-1", id="a negative weight"),
        pytest.param({"math": {"lvl": 1}}, "no env.lvl. Allowed: ", id="no such keyword"),
        pytest.param(
            {"math": {"levels": [1, 9]}}, "env.level=9. Allowed: 1, 2", id="no such level"
        ),
        pytest.param(
            {"math": {"levels": []}},
            "env.of.math.levels=[]. Allowed: one whole number or more, easy to hard.",
            id="no levels",
        ),
        pytest.param(
            {"math": {"levels": "1-3"}}, "env.of.math.levels=1-3. Allowed: ", id="levels in words"
        ),
        pytest.param(
            {"math": {"levels": [1], "level": 2}}, "env.of.math.level=2", id="level twice"
        ),
        pytest.param({"math": {"split": "eval"}}, "env.of.math.split=eval", id="split"),
        pytest.param({"gsm_symbolic": {"levels": [1]}}, "no env.level.", id="it has no levels"),
    ],
)
def test_a_mistake_is_one_line(of: dict[str, Any], said: str) -> None:
    with pytest.raises(GrpoEnvsError) as caught:
        MixtureEnv(of=of)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_parts_are_said_where_the_part_is() -> None:
    with pytest.raises(
        GrpoEnvsError, match=r"env\.rewards\.math/correct.*env\.of\.math\.rewards\.correct"
    ):
        MixtureEnv(of={"math": 1}, rewards={"math/correct": 2.0})
    env = MixtureEnv(of={"math": {"rewards": {"correct": 2.0}}})
    assert env.range_of(env.problem(0))[1] == pytest.approx(2.1)


def test_a_mixture_is_not_mixed_again() -> None:
    with pytest.raises(GrpoEnvsError, match=r"^env\.of\.both.*it is a mixture itself"):
        MixtureEnv(of={"both": {"env": "mixture"}, "math": 1})
