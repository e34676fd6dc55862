"""Functions that score one episode are called while other completions are still sampled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_envs import GroupVectorEnv
from grpo_envs.env.function import Function
from grpo_envs.env.rewards import Part
from grpo_envs.env.text import TextEnv
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Completion, Problem, Reply, Reward, Turn
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from tests.support.judge_server import Said, judging
from tests.support.scripted import Scripted, letters

LONG_S = 60.0
"""The most seconds that a test waits for an event that should happen at once."""


@dataclass
class Waiting(Scripted):
    """Answers a prompt after the judge was called for the answers to the previous prompts."""

    asked: Callable[[], int] = lambda: 0
    late: bool = False

    def sample(self, *args: Any, **keywords: Any) -> Iterator[tuple[int, list[Completion]]]:
        answered = 0
        for p, found in super().sample(*args, **keywords):
            until = time.monotonic() + LONG_S
            while self.asked() < answered and not self.late:
                self.late = time.monotonic() > until
                time.sleep(0.01)
            answered += len(found)
            yield p, found


def test_a_judge_is_asked_while_others_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with judging(lambda _: Said("7", after_s=0.1)) as server:
        given = {"url": server.url, "model": "wise", "scale": [0, 10]}
        env = grpo_envs.make("math", rewards={"correct": 0, "format": 0, "judge": given})
        envs, timer = GroupVectorEnv(env, 8, 2), Timer()
        sampler = Waiting(letters(), lambda _, place: f"answer {place}")
        sampler.asked = lambda: len(server.requests)
        rollout = Rollout(envs, letters(), sampler, Decoding(max_new_tokens=20), 0)
        groups = rollout([1, 2, 3, 4], timer)
        envs.close()
        assert not sampler.late, "it was asked when all answers were there"
        assert len(server.requests) == 8, "once about each answer"
    assert [r.total for group in groups for r in group.rewards] == [0.7] * 8
    assert timer.seconds["score_hidden"] > 0


class Talk(TextEnv):
    """The gold is the number of turns; each turn earns 0.1."""

    max_turns = 3

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt="?", gold="", solution="")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        done = turns[-1].action == "end"
        return Reply(reward=Reward(parts={"correct": 0.1}), observation="go on", done=done)


class Asked:
    """A function of episodes that records its calls."""

    def __init__(self) -> None:
        self.episodes: list[list[str]] = []
        self.calls = 0

    def __call__(
        self,
        problems: Sequence[Problem],
        answers: Sequence[str],
        episodes: Sequence[Sequence[Turn]],
    ) -> list[float]:
        self.calls += 1
        self.episodes += [[turn.action for turn in turns] for turns in episodes]
        return [float(len(turns)) for turns in episodes]

    def wait_for(self, episodes: int) -> None:
        """Wait until the function was called for this number of episodes."""
        until = time.monotonic() + LONG_S
        while len(self.episodes) < episodes:
            assert time.monotonic() < until, "it is asked in the step alone"
            time.sleep(0.01)


def talks(members: int, size: int, *, each_alone: bool) -> tuple[GroupVectorEnv, Asked]:
    env, asked = Talk(), Asked()
    env._functions = {
        "turns": Function(
            "turns", asked, whole=True, asks=frozenset({"episodes"}), each_alone=each_alone
        )
    }
    env._parts["turns"] = Part(weight=1.0)
    env.weights["turns"] = 1.0
    env._optional = {"turns"}
    return GroupVectorEnv(env, members, size), asked


def played(
    envs: GroupVectorEnv,
    script: Sequence[Sequence[str]],
    *,
    ahead: bool,
    before: Callable[[int], None] = lambda ended: None,
) -> list[float]:
    """Return the total rewards of members that give these answers, graded ahead or in the step.

    `before` is called before each step with the number of episodes that have ended.
    """
    envs.reset(seed=[1])
    turns = max(map(len, script))
    for turn in range(turns):
        said = [words[turn] if turn < len(words) else "" for words in script]
        running = {i: said[i] for i in range(len(script)) if turn < len(script[i])}
        if ahead:
            for i, text in running.items():
                envs.score_ahead({i: text})
        before(sum(len(words) <= turn + 1 for words in script))
        envs.step(said)
    return [reward.total for reward in envs.episode_rewards]


@pytest.mark.parametrize("each_alone", [True, False])
def test_ahead_or_in_the_step_an_episode_earns_the_same(each_alone: bool) -> None:
    script = [["a", "end"], ["end"], ["a", "b", "c"]]
    envs, asked = talks(3, 3, each_alone=each_alone)
    other, once = talks(3, 3, each_alone=each_alone)
    wanted = [0.2 + 2, 0.1 + 1, 0.3 + 3]
    before = asked.wait_for if each_alone else (lambda ended: None)
    assert played(envs, script, ahead=True, before=before) == pytest.approx(wanted)
    assert played(other, script, ahead=False) == pytest.approx(wanted)
    assert sorted(asked.episodes) == sorted(once.episodes) == sorted(script), "each is asked once"
    assert (asked.calls, once.calls) == (3 if each_alone else 1, 1)
    for each in (envs, other):
        each.close()


def test_an_episode_that_is_cut_is_asked_about_too_and_a_reset_forgets() -> None:
    envs, asked = talks(2, 2, each_alone=True)
    envs.reset(seed=[1])
    for i in (0, 1):
        envs.score_ahead({i: ("end", "a")[i]})
    envs.step(["end", "a"])
    envs.truncate([1])
    assert [r.total for r in envs.episode_rewards] == pytest.approx([1.1, 1.1])
    assert sorted(asked.episodes) == [["a"], ["end"]]
    envs.reset(seed=[2])
    envs.score_ahead({0: "end"})
    envs.step(["end", "a"])
    envs.reset(seed=[3])  # the group was given up: its first episode was asked about, and ended
    assert played(envs, [["b", "end"], ["end"]], ahead=False) == pytest.approx([2.2, 1.1])
    envs.close()


def test_what_fails_in_the_background_fails_the_step() -> None:
    envs, _ = talks(1, 1, each_alone=True)

    def broken(*_: object, **__: object) -> list[list[Reward]]:
        raise OSError("no room")

    envs.env.group_rewards = broken  # type: ignore[method-assign]
    envs.reset(seed=[1])
    envs.score_ahead({0: "end"})
    with pytest.raises(OSError, match="no room"):
        envs.step(["end"])
    envs.close()
