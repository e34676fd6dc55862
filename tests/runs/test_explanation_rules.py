"""What `explain` prints of rules that look at the whole step, of a teacher, and of turns."""

import math
from pathlib import Path
from statistics import fmean, stdev

import pytest

from grpo_envs.runs.record import Record, read_record
from grpo_policy.models import TINY
from tests.runs.test_explanation import printed, table
from tests.support import forked

SIZE, GROUPS, EPS = 4, 3, 1e-4
RULE_RUN = [
    *("trainer.steps=1", f"trainer.prompts_per_step={GROUPS}", "trainer.eval_problems=0"),
    *(f"agent.group_size={SIZE}", "agent.warmup_steps=0", f"agent.log_tokens={GROUPS}"),
    *("sampler.max_new_tokens=30", "logger=files", "hydra.run.dir=run"),
]
Members = list[dict[str, str]]


def ran(cwd: Path, *words: str) -> Record:
    done = forked.run(cwd, "grpo_envs.run", *RULE_RUN, *words)
    assert done.returncode == 0, done.stderr
    return read_record(cwd / "run")


def members_of(run: Record) -> list[Members]:
    return [table(printed(run, group=group), "member") for group in range(GROUPS)]


def column(members: Members, name: str) -> list[float]:
    return [float(row[name]) for row in members]


def of_step(run: Record) -> list[float]:
    (found,) = [x for x in printed(run).splitlines() if x.startswith("the step: ")]
    return [float(x.split("=")[1]) for x in found.split(", ")]


def group_by_hand(name: str, rewards: list[float], step: list[float]) -> list[float]:
    """The advantages of a group by the equations of agents/README.md, from printed rewards."""
    mean, others = fmean(rewards), len(rewards) - 1
    loo = [r - (math.fsum(rewards) - r) / others for r in rewards]
    divisor = {"batch_std": stdev(step) + EPS, "max_rl": mean}.get(name, 1.0)
    return loo if name == "leave_one_out" else [(r - mean) / divisor for r in rewards]


@pytest.mark.parametrize("name", ["centered", "leave_one_out", "batch_std", "max_rl"])
def test_advantages_of_a_group_by_hand(name: str, tmp_path: Path) -> None:
    run = ran(tmp_path, f"agent.advantage.name={name}")
    groups = members_of(run)
    step = [reward for members in groups for reward in column(members, "reward")]
    told = 0
    for place, members in enumerate(groups):
        rewards = column(members, "reward")
        flat = len(set(rewards)) == 1
        wanted = [0.0] * SIZE if flat else group_by_hand(name, rewards, step)
        told += not flat
        assert column(members, "advantage") == pytest.approx(wanted, abs=1e-6)
        tokens = table(printed(run, group=place), "t")
        used = max(wanted, key=abs)
        assert [abs(float(t["advantage"])) for t in tokens] == pytest.approx(
            [abs(used)] * len(tokens), abs=1e-6
        )
    assert told, "flat groups show nothing"
    assert f"agent.advantage.name={name}: " in printed(run)
    if name == "batch_std":
        assert of_step(run) == pytest.approx([fmean(step), stdev(step)], abs=1e-6)


def test_advantages_that_are_whitened_over_the_tokens_of_a_step(tmp_path: Path) -> None:
    run = ran(tmp_path, "agent=reinforce_pp")
    groups = members_of(run)
    values, often = [], []
    for members in groups:
        rewards = column(members, "reward")
        values += [r - fmean(rewards) for r in rewards]
        often += [int(row["tokens"]) for row in members]
        assert column(members, "r - mean") == pytest.approx(values[-SIZE:], abs=1e-6)
    tokens = [v for v, n in zip(values, often, strict=True) for _ in range(n)]
    assert len(set(values)) > 1
    assert of_step(run) == pytest.approx([fmean(tokens), stdev(tokens)], abs=1e-6)
    for place, members in enumerate(groups):
        own = values[place * SIZE :][:SIZE]
        wanted = [(v - fmean(tokens)) / (stdev(tokens) + EPS) for v in own]
        if len({row["reward"] for row in members}) > 1:
            assert column(members, "advantage") == pytest.approx(wanted, abs=1e-6)


def test_parts_that_are_compared_one_by_one(tmp_path: Path) -> None:
    run = ran(tmp_path, "agent=gdpo")
    groups = members_of(run)
    sums = []
    for members in groups:
        total = [0.0] * SIZE
        for part, weight in (("correct", 1.0), ("format", 0.1)):
            raw = column(members, part)
            spread = stdev(raw) + EPS
            own = [(x - fmean(raw)) / spread if len(set(raw)) > 1 else 0.0 for x in raw]
            assert column(members, f"{part} compared") == pytest.approx(own, abs=1e-6)
            total = [x + weight * y for x, y in zip(total, own, strict=True)]
        assert column(members, "weighted sum") == pytest.approx(total, abs=1e-6)
        sums += total
    assert of_step(run) == pytest.approx([fmean(sums), stdev(sums)], abs=1e-6)
    flat = [len({row["reward"] for row in members}) == 1 for members in groups]
    for place, members in enumerate(groups):
        own = sums[place * SIZE :][:SIZE]
        wanted = [0.0 if flat[place] else (x - fmean(sums)) / (stdev(sums) + EPS) for x in own]
        assert column(members, "advantage") == pytest.approx(wanted, abs=1e-6)


def test_what_a_teacher_says_of_each_token(tmp_path: Path) -> None:
    run = ran(tmp_path, f"agent.teacher={TINY}", "agent.teacher_weight=0.5", "agent.minibatches=3")
    text = printed(run, group=1)
    assert f"agent.teacher={TINY}: reward_weight A + teacher_weight log(" in text
    assert "[teacher_weight=0.5, reward_weight=1.0]" in text
    for row in table(text, "t"):
        gap = float(row["log p teacher"]) - float(row["log p sampled"])
        assert float(row["advantage"]) == pytest.approx(
            float(row["A rewards"]) + 0.5 * gap, abs=1e-6
        )


@pytest.mark.parametrize("turns", ["discounted", "per_turn"])
def test_what_is_compared_in_each_turn(turns: str, tmp_path: Path) -> None:
    words = ["env=guess", "env.level=1", f"agent.advantage.turns={turns}"]
    words += ["agent.advantage.discount=0.5", "agent.advantage.name=centered"]
    run = ran(tmp_path, *words)
    text = printed(run)
    assert "turns are compared separately" in text
    rows = table(text, "of member")
    for number in range(SIZE):
        own = [row for row in rows if int(row["of member"]) == number]
        assert [int(row["turn"]) for row in own] == [*range(len(own))]
        rewards = column(own, "r of turn")
        wanted = [
            math.fsum(0.5**n * r for n, r in enumerate(rewards[k:])) for k in range(len(rewards))
        ]
        assert turns == "per_turn" or column(own, "reward to go") == pytest.approx(wanted, abs=1e-6)
    # The last turn has nothing behind it: both compare its reward with that of the others.
    title = "r of turn" if turns == "per_turn" else "reward to go"
    last = max(int(row["turn"]) for row in rows)
    there = {int(row["of member"]): float(row[title]) for row in rows if int(row["turn"]) == last}
    for member, reward in there.items():
        tokens = table(printed(run, member=member), "t")
        shown = [float(token["advantage"]) for token in tokens if float(token["turn"]) == last]
        flat = len(there) == 1 or len(set(there.values())) == 1
        advantage = 0.0 if flat else reward - fmean(there.values())
        assert shown == pytest.approx([advantage] * len(shown), abs=1e-6)
        assert shown
