"""Rows name problems without golds, are graded as in our runs, and refuse what is not theirs."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from grpo_envs.env import TextEnv
from grpo_envs.env.plugins import make
from grpo_envs.errors import ConfigError
from grpo_envs.interop import rows
from grpo_envs.interop.rows import (
    Episode,
    Graded,
    Row,
    environment_of,
    grade,
    messages_of,
    rows_of,
)
from grpo_envs.types import Problem, Reply, Reward, Turn
from tests.conftest import Write
from tests.support.door_answers import ENVIRONMENTS, cases


class FailingEnv(TextEnv):
    """Its grader fails at the answer `fail`."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"{split} {rng.random()}", gold="secret-gold", solution="1")

    def score(self, problem: Problem, answer: str) -> Reward:
        if answer == "fail":
            raise OSError("no sandbox")
        return Reward(parts={"correct": float(answer == "1")})


class EchoEnv(FailingEnv):
    """Says all that it was told of the turns before."""

    max_turns = 3

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        before = [(turn.action, turn.observation, turn.reward) for turn in turns[:-1]]
        return Reply(reward=Reward(parts={"correct": 0.25}), observation=repr(before), done=False)


class SlowEnv(FailingEnv):
    """Grades `wait` until it is told to go on, and counts the threads inside."""

    concurrency = "none"

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.begun = threading.Event(), threading.Event()
        self.inside = self.most_inside = 0

    def score(self, problem: Problem, answer: str) -> Reward:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        time.sleep(0.005)
        if answer == "wait":
            self.begun.set()
            assert self.go_on.wait(20)
        self.inside -= 1
        return super().score(problem, answer)


class ReentrantEnv(SlowEnv):
    """Says that threads may call it at once."""

    reentrant = True


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> str:
    env = FailingEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    return "failing"


def test_a_row_holds_no_gold(failing: str) -> None:
    (row,) = rows_of(failing, {}, "train", 1)
    assert row.problem.gold == "secret-gold"
    assert "secret" not in json.dumps([row.columns, messages_of(row)])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_episode_earns_what_it_earns_in_a_run(name: str) -> None:
    played = cases(name, 12)
    assert len({case.total for case in played}) > 1
    for row, case in zip(rows_of(name, {}, "train", 12), played, strict=True):
        episode = Episode(Row.of(json.loads(json.dumps(row.columns))))
        for answer in case.answers:
            assert not episode.over
            episode.answer(answer)
        assert episode.over
        assert episode.graded.total == case.total
        assert episode.answer("more") == ""
        assert episode.turns == len(case.answers)


def test_answers_of_several_environments_are_graded_in_order() -> None:
    pairs = [(name, case) for name in ("countdown", "math", "countdown") for case in cases(name, 5)]
    asked = [rows_of(name, {}, "train", 1, first=case.seed)[0] for name, case in pairs]
    graded = grade(asked, [case.answers[0] for _, case in pairs])
    assert [one.total for one in graded] == [case.total for _, case in pairs]
    assert all(one.parts.keys() == {"correct", "format"} for one in graded)


def test_an_invalid_reward_is_none_and_has_no_parts(failing: str) -> None:
    asked = rows_of(failing, {}, "train", 3)
    right, failed, wrong = grade(asked, ["1", "fail", "2"])
    assert (right.total, failed.total, wrong.total) == (1.0, None, 0.0)
    assert (dict(right.parts), dict(failed.parts)) == ({"correct": 1.0}, {})
    assert failed.note == "OSError: no sandbox"


def test_keywords_and_splits_make_other_problems() -> None:
    easy, hard = (rows_of("countdown", {"level": level}, "train", 1)[0] for level in (1, 3))
    (held_out,) = rows_of("countdown", {"level": 1}, "eval", 1)
    prompts = {row.problem.prompt for row in (easy, hard, held_out)}
    assert len(prompts) == 3
    assert hard.problem.prompt == make("countdown", level=3).problem(0, "train").prompt


def test_messages_are_those_of_a_run(write: Write) -> None:
    chat = [{"role": r, "content": c} for r, c in [("user", "1+1?"), ("assistant", "2")]]
    question = {"role": "user", "content": "and 2+2?"}
    others = [[{"role": "user", "content": f"{i}+0?"}] for i in range(20)]
    data = [{"prompt": prompt, "gold": "4"} for prompt in [[*chat, question], *others]]
    found = rows_of("math", {"dataset": write("rows.jsonl", data)}, "train", 200)
    row = next(row for row in found if row.problem.messages[:2] == tuple(chat))
    system, *rest = messages_of(row)
    assert system == {"role": "system", "content": row.environment.system_prompt}
    assert rest == [*chat, question]


def test_an_environment_sees_the_turns_before(monkeypatch: pytest.MonkeyPatch) -> None:
    env = EchoEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    episode = Episode(rows_of("echo", {}, "train", 1)[0])
    assert episode.answer("a") == "[]"
    assert episode.answer("b") == repr([("a", "[]", 0.25)])
    assert not episode.over
    episode.answer("c")
    assert episode.over
    assert episode.graded.total == 0.75


def graded_by_threads(monkeypatch: pytest.MonkeyPatch, env: SlowEnv) -> list[Graded]:
    """Grade eight answers, each in a thread of its own."""
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    (row,) = rows_of("slow", {}, "train", 1)
    with ThreadPoolExecutor(8) as threads:
        return [g for (g,) in threads.map(lambda text: grade([row], [text]), "12" * 4)]


@pytest.mark.parametrize(("kind", "at_once"), [(SlowEnv, False), (ReentrantEnv, True)])
def test_threads_call_an_environment_at_once_only_where_it_may(
    monkeypatch: pytest.MonkeyPatch, kind: type[SlowEnv], at_once: bool
) -> None:
    env = kind()
    assert [one.total for one in graded_by_threads(monkeypatch, env)] == [1.0, 0.0] * 4
    assert (env.most_inside > 1) == at_once


def test_a_slow_environment_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = {"slow": SlowEnv(), "quick": SlowEnv()}
    monkeypatch.setattr(rows, "_environment", lambda name, _: envs[name])
    slow, quick = (rows_of(name, {}, "train", 1)[0] for name in envs)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(grade, [slow], ["wait"])
        assert envs["slow"].begun.wait(20)
        try:
            (graded,) = threads.submit(grade, [quick], ["1"]).result(20)
            assert not waiting.done()
        finally:
            envs["slow"].go_on.set()
        assert graded.total == 1.0
        assert waiting.result(20)[0].total == 0.0


def test_a_conversation_without_answers_has_said_nothing() -> None:
    row = rows_of("guess", {}, "train", 1)[0]
    said = row.environment.reply_batch([row.problem], [[Turn(action="")]])[0].reward
    assert Episode(row).graded.total == said.total


def test_a_problem_that_changed_is_refused() -> None:
    (row,) = rows_of("math", {}, "train", 1)
    with pytest.raises(ConfigError, match=r"env=math, train problem 1: its prompt is not the row"):
        grade([replace(row, seed=1)], ["1"])


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("countdwn", {}, "Did you mean 'countdown'?"),
        (7, {}, "env=7. Allowed: the name of an environment."),
        ("countdown", 7, "keywords=7. Allowed: names with values."),
        ("countdown", {"levle": 1}, "Did you mean 'level'"),
        ("countdown", {"split": "eval"}, "split=eval. Allowed: none"),
        ("countdown", {"numbers": object()}, "rows hold keywords as JSON"),
        (
            "mixture",
            {"of": {"math": {"levels": [1, 2]}, "countdown": 1}},
            "its levels follow success",
        ),
    ],
)
def test_what_rows_cannot_name_is_refused(name: Any, keywords: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        environment_of(name, keywords)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mixture_of_fixed_levels_is_taken() -> None:
    found = rows_of("mixture", {"of": {"math": 1, "countdown": 1}}, "train", 8)
    assert {row.problem.meta["env"] for row in found} == {"math", "countdown"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("env", 7, "the row's env=7. Allowed: a text."),
        ("env", "maths", "no env 'maths'. Allowed: "),
        ("keywords", "{", "the row's keywords='{'. Allowed: a JSON object"),
        ("keywords", "[1]", "the row's keywords='[1]'. Allowed: a JSON object"),
        ("keywords", {"level": 1}, "the row's keywords={'level': 1}. Allowed: a text."),
        ("keywords", '{"levle": 1}', "no env.levle."),
        ("split", "test", "the row's split=test. Allowed: train, eval."),
        ("seed", "0", "the row's seed='0'. Allowed: a whole number from 0 on."),
        ("seed", 0.5, "the row's seed=0.5. Allowed"),
        ("seed", True, "the row's seed=True. Allowed"),
        ("seed", float("inf"), "the row's seed=inf. Allowed"),
        ("seed", -1, "the row's seed=-1. Allowed"),
        ("seed", None, "the row's seed=None. Allowed"),
        ("digest", 7, "the row's digest=7. Allowed: a text."),
    ],
)
def test_a_tampered_row_is_refused_in_one_line(column: str, value: Any, message: str) -> None:
    (row,) = rows_of("math", {}, "train", 1)
    with pytest.raises(ConfigError) as caught:
        grade([Row.of({**row.columns, column: value})], ["1"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_may_give_a_seed_as_a_float() -> None:
    (row,) = rows_of("math", {}, "train", 1, first=3)
    assert Row.of({**row.columns, "seed": 3.0}) == row


def test_half_a_row_and_half_a_conversation_are_refused() -> None:
    with pytest.raises(ConfigError, match="it has no seed, digest"):
        Row.of({"env": "math", "keywords": "{}", "split": "train"})
    with pytest.raises(ConfigError, match="env=guess: a conversation"):
        grade(rows_of("guess", {}, "train", 1), ["<answer>1</answer>"])
    with pytest.raises(ConfigError, match=r"split=test. Allowed: train, eval"):
        rows_of("math", {}, "test", 1)


@pytest.mark.parametrize("count", [0, "many", 1.5, True])
def test_a_number_of_rows_is_whole(count: Any) -> None:
    with pytest.raises(ConfigError, match=rf"rows={count}. Allowed: a whole number from 1 on\."):
        rows_of("math", {}, "train", count)
