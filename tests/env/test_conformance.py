"""check_env: every installed environment keeps every promise; every planted fault is caught."""

import ctypes
import dataclasses
import itertools
import math
import random
import re
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium.utils import env_checker

import grpo_envs
from grpo_env_math import MathEnv
from grpo_envs import Problem, Reply, Reward, TextEnv, Turn, UnicodeText, check_env
from grpo_envs.env.conformance import check_promises
from grpo_envs.env.dataset import Row
from grpo_envs.env.installed import ENVS, available
from grpo_envs.env.time_limit import TooLong, time_limit
from grpo_envs.env.trial import SECONDS
from grpo_envs.errors import ContractBroken
from grpo_envs.seeding import split_of
from tests.conftest import Write
from tests.support.needed import needed

NAMES = sorted(available(ENVS))
SLOW = "codeio"
"""Takes many seconds, and a render mode changes nothing of what it shows with the other."""
MADE = [
    *((name, None) for name in NAMES if name != SLOW),
    *(
        pytest.param(name, "ansi", marks=() if name in ("math", "guess") else pytest.mark.slow)
        for name in NAMES
        if name != SLOW
    ),
    pytest.param(SLOW, None, marks=pytest.mark.slow),
]
"""Gymnasium's checker tries every render mode of each environment, whichever it is given."""


# Every environment that is installed


def test_there_are_environments() -> None:
    assert "math" in NAMES


@pytest.mark.parametrize(("name", "render_mode"), MADE)
def test_an_installed_environment_keeps_our_promises(name: str, render_mode: str | None) -> None:
    problems = {"codeio": 4, "openenv": 3, "reasoning_gym": 2}  # in processes, over a wire
    env = grpo_envs.make(name, render_mode=render_mode, **needed(name))
    check_env(env, problems=problems.get(name, 10))
    env.close()


@pytest.mark.parametrize(("name", "render_mode"), MADE)
def test_an_installed_environment_keeps_gymnasiums_promises(
    name: str, render_mode: str | None
) -> None:
    spec = gymnasium.spec(f"grpo_envs/{name}-v0")
    keywords = {"render_mode": render_mode, **needed(name)}
    env = gymnasium.make(dataclasses.replace(spec, kwargs=keywords))
    assert env.spec is not None  # so the checker makes one of its own in each render mode
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env_checker.check_env(env.unwrapped)
    env.close()


# Planted faults


class Sound(TextEnv):
    """A sum, answered in a tag. Every fault below is one change to it."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        while True:
            a, b = rng.randrange(100), rng.randrange(100)
            prompt = f"What is {a} + {b}?"
            if split_of(prompt) == split:
                gold = str(a + b)
                return Problem(prompt=prompt, gold=gold, solution=f"<answer>{gold}</answer>")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.solution)})


class IgnoresSplit(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        a, b = rng.randrange(100), rng.randrange(100)
        gold = str(a + b)
        return Problem(prompt=f"What is {a} + {b}?", gold=gold, solution=f"<answer>{gold}</answer>")


class EvalIsTheNextSeed(IgnoresSplit):
    """What one popular library does: validation is training, shifted by one."""

    def problem(self, seed: int, split: str | None = None) -> Problem:
        return self.draw(random.Random(seed + ((split or self.split) == "eval")), "any")


class GlobalDraw(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return super().draw(random.Random(random.random()), split)


class CountingDraw(Sound):
    count = itertools.count()

    def draw(self, rng: random.Random, split: str) -> Problem:
        return super().draw(random.Random(next(self.count)), split)


class OneProblem(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return super().draw(random.Random(0), split)


class Substring(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(problem.gold in answer)})


class AnyListedNumber(Sound):
    """Strict about the tag, but takes a list of every number in it."""

    def score(self, problem: Problem, answer: str) -> Reward:
        inside = re.fullmatch(r"<answer>(.*)</answer>", answer, re.DOTALL)
        return Reward(parts={"correct": float(bool(inside and problem.gold in inside[1].split()))})


class PaysForNothing(Sound):
    parts: ClassVar[Mapping[str, float]] = {"correct": 0.9, "present": 0.1}

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={**super().score(problem, answer).parts, "present": 1.0})


class LengthPays(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": min(1.0, len(answer) / len(problem.solution))})


class RaisesOnOddInput(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        number = answer.removeprefix("<answer>").removesuffix("</answer>") or "0"
        return Reward(parts={"correct": float(int(number) == int(problem.gold) > 0)})


class RaisesOnEmpty(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer[0] == "<" and answer == problem.solution)})


class RaisesOnSurrogates(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer.encode() == problem.solution.encode())})


class NoAnswerPays(Sound):
    """A defect that was found in the wild: full reward where there is no tag."""

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float("<answer>" not in answer or problem.gold in answer)})


class EchoPays(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer in (problem.solution, problem.prompt))})


class AnyTaggedAnswer(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(bool(re.fullmatch(r"<answer>\d+</answer>", answer)))})


class LeaksInThePrompt(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        problem = super().draw(rng, split)
        return Problem(
            prompt=f"{problem.prompt} Answer {problem.solution}.",
            gold=problem.gold,
            solution=problem.solution,
        )


class LeaksInTheSystemPrompt(Sound):
    system_prompt = " ".join(f"<answer>{n}</answer>" for n in range(200))


class SolutionIsWrong(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        problem = super().draw(rng, split)
        return Problem(prompt=problem.prompt, gold=problem.gold, solution=problem.gold)

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == f"<answer>{problem.gold}</answer>")})


class SolutionMissesAPart(Sound):
    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "thinks": 0.1}

    def score(self, problem: Problem, answer: str) -> Reward:
        thinks = float("<think>" in answer and answer.endswith(problem.solution))
        return Reward(parts={**super().score(problem, answer).parts, "thinks": thinks})


class AboveTheMaximum(Sound):
    """The right answer to a hard problem is worth two."""

    def score(self, problem: Problem, answer: str) -> Reward:
        worth = 2.0 if "9" in problem.prompt else 1.0
        return Reward(parts={"correct": worth * float(answer == problem.solution)})


class BelowTheMinimum(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": 1.0 if answer == problem.solution else -1.0})


class NotANumber(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": 1.0 if answer == problem.solution else math.nan})


class PaysOnce(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.paid: set[str] = set()

    def score(self, problem: Problem, answer: str) -> Reward:
        first = answer not in self.paid
        self.paid.add(answer)
        return Reward(parts={"correct": float(first and answer == problem.solution)})


class RandomReward(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        right = answer == problem.solution
        return Reward(parts={"correct": 1.0 if right else random.random() * bool(answer) / 2})


class UndeclaredPart(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={**super().score(problem, answer).parts, "style": 0.0})


class IntInInfo(Sound):
    def info_for(self, reward: Reward) -> dict[str, Any]:
        return {**super().info_for(reward), "length": 3}


class BoolInInfo(Sound):
    def info_for(self, reward: Reward) -> dict[str, Any]:
        return {**super().info_for(reward), "right": reward.total == 1.0}


class IntReward(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, int(reward), terminated, truncated, info


class ObjectInMeta(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return dataclasses.replace(super().draw(rng, split), meta={"drawn_by": self.draw})


class NoUnicode(Sound):
    """Observations outside its own space."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = UnicodeText(max_length=5)


class SurrogatePrompt(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        problem = super().draw(rng, split)
        return Problem(
            prompt=problem.prompt + "\ud83d", gold=problem.gold, solution=problem.solution
        )


class EveryMemberItsOwn(Sound):
    """Counts the problems it gave out: right in pairs, wrong within a group."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def problem(self, seed: int, split: str | None = None) -> Problem:
        self.given += 1
        return super().problem(seed + self.given, split)


class OwnSplitOnly(Sound):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return super().draw(rng, self.split)


class AlwaysTruncated(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, True, info


class NeverEnds(Sound):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class SolutionAnywhere(Sound):
    """One of many tagged answers will do."""

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(problem.solution in answer)})


def tagged(answer: str) -> str:
    inside = re.fullmatch(r"<answer>(.*)</answer>", answer, re.DOTALL)
    return inside[1] if inside else ""


class NanIsNear(Sound):
    """A comparison that is false for NaN, the wrong way round."""

    def score(self, problem: Problem, answer: str) -> Reward:
        try:
            far = abs(float(tagged(answer)) - float(problem.gold)) > 1e-6
        except ValueError:
            far = True
        return Reward(parts={"correct": float(not far)})


class PrefixIsEnough(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(tagged(answer).startswith(problem.gold))})


class SuffixIsEnough(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(tagged(answer).endswith(problem.gold))})


class NearIsEnough(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        number = re.fullmatch(r"<answer>(\d{1,4})</answer>", answer, re.ASCII)
        near = number is not None and abs(int(number[1]) - int(problem.gold)) <= 1
        return Reward(parts={"correct": float(near)})


class Guessing(TextEnv):
    """Three turns to guess the number of a box."""

    max_turns = 3

    def draw(self, rng: random.Random, split: str) -> Problem:
        while True:
            prompt = f"Which number is in box {rng.randrange(100_000)}?"
            if split_of(prompt) == split:
                gold = rng.randrange(1, 1000)
                solution = f"<answer>{gold}</answer>"
                return Problem(prompt=prompt, gold=gold, solution=solution)

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        right = turns[-1].action == problem.solution
        hint = "" if right else "No."
        return Reply(reward=Reward(parts={"correct": float(right)}), observation=hint, done=right)


class RandomHint(Guessing):
    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        reply = super().respond(problem, turns)
        return Reply(reward=reply.reward, observation=str(random.random()), done=reply.done)


class CountsItsCalls(Guessing):
    """Keeps the turns of an episode itself, across episodes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        self.calls += 1
        reply = super().respond(problem, turns)
        return Reply(reward=reply.reward, observation=f"Try {self.calls}.", done=reply.done)


class PaysEveryTurn(Guessing):
    """Asks for patience: three wrong answers are worth more than a right one."""

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        reply = super().respond(problem, turns)
        earned = 0.4 * (turns[-1].action != "") * (not reply.done) + float(reply.done)
        return Reply(reward=Reward(parts={"correct": earned}), done=reply.done)


class PolitePays(Guessing):
    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        return Reply(reward=Reward(parts={"correct": 1.0}))


class IgnoresSplitOfMany(Sound):
    """Its problems are so many that two draws are hardly ever the same."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        gold = str(rng.randrange(10**12))
        return Problem(prompt=f"Say {int(gold) * 7} / 7.", gold=gold, solution=f"<{gold}>")


class DrawNeverEnds(Sound):
    """Catches what interrupts it, too."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        while True:
            try:
                time.sleep(60)
            except Exception:  # noqa: BLE001  a fault to be caught
                continue


class GraderNeverEnds(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        while answer == "None":
            pass
        return super().score(problem, answer)


class RegexNeverEnds(Sound):
    def score(self, problem: Problem, answer: str) -> Reward:
        slow = re.fullmatch("(9|9)*x", answer.replace(" ", "9"))
        return Reward(parts={"correct": float(answer == problem.solution or bool(slow))})


class PaysThreeTenths(Sound):
    """Sums of 0.2, 0.4 and 0.6 differ in the last bit, by their order."""

    parts: ClassVar[Mapping[str, float]] = {"a": 0.2, "b": 0.4, "c": 0.6}

    def range_of(self, problem: Problem) -> tuple[float, float]:
        return 0.0, sum((0.2, 0.4, 0.6))

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts=dict.fromkeys("abc", float("<answer>" in answer)))


class NothingIsRight(Sound):
    """Its own word on accuracy is never yes."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "accuracy": 0.0}

    def score(self, problem: Problem, answer: str) -> Reward:
        right = float(answer == problem.solution)
        return Reward(parts={"correct": right, "accuracy": 0.0})


class NothingSaidIsRight(NothingIsRight):
    """It pays for solutions only, and calls silence right."""

    def score(self, problem: Problem, answer: str) -> Reward:
        right = float(answer == problem.solution)
        return Reward(parts={"correct": right, "accuracy": float(right or not answer)})


GYMNASIUM = "Gymnasium's own check_env passes without a warning"
SAME = "the same key draws the same problem"
DIFFERENT = "different keys draw different problems"
DISJOINT = "train and eval share no problem"
SOLUTION = "the solution earns the maximum"
LEAK = "the prompt does not leak the solution"
EMPTY = "an empty answer earns nothing"
HOSTILE = "hostile answers never raise and earn less than the maximum"
RANGE = "rewards are repeatable and in range"
FOREIGN = "another problem's solution does not earn the maximum"
CONVERSATION = "a conversation can be played again, its rewards add up within the range"
ENDS = "drawing a problem and grading an answer end"
RIGHT = "the solution counts as right in accuracy"
GROUP = "a group shares its problem"
FLOATS = "rewards and info are floats"

FAULTS: list[tuple[type[TextEnv], str]] = [
    (IgnoresSplit, DISJOINT),
    (EvalIsTheNextSeed, DISJOINT),
    (GlobalDraw, SAME),
    (CountingDraw, SAME),
    (OneProblem, DIFFERENT),
    (Substring, HOSTILE),
    (AnyListedNumber, HOSTILE),
    (PaysForNothing, EMPTY),
    (LengthPays, HOSTILE),
    (RaisesOnOddInput, HOSTILE),
    (RaisesOnEmpty, EMPTY),
    (RaisesOnSurrogates, HOSTILE),
    (NoAnswerPays, EMPTY),
    (EchoPays, HOSTILE),
    (AnyTaggedAnswer, FOREIGN),
    (LeaksInThePrompt, LEAK),
    (LeaksInTheSystemPrompt, LEAK),
    (SolutionIsWrong, SOLUTION),
    (SolutionMissesAPart, SOLUTION),
    (AboveTheMaximum, RANGE),
    (BelowTheMinimum, RANGE),
    (NotANumber, EMPTY),
    (NotANumber, HOSTILE),
    (PaysOnce, RANGE),
    (RandomReward, RANGE),
    (UndeclaredPart, SOLUTION),
    (IntInInfo, FLOATS),
    (BoolInInfo, FLOATS),
    (IntReward, FLOATS),
    (ObjectInMeta, FLOATS),
    (NoUnicode, GYMNASIUM),
    (SurrogatePrompt, GYMNASIUM),
    (EveryMemberItsOwn, GROUP),
    (OwnSplitOnly, DISJOINT),
    (AlwaysTruncated, GYMNASIUM),
    (NeverEnds, GYMNASIUM),
    (RandomHint, CONVERSATION),
    (CountsItsCalls, CONVERSATION),
    (PaysEveryTurn, CONVERSATION),
    (PolitePays, EMPTY),
    (IgnoresSplitOfMany, DISJOINT),
    (DrawNeverEnds, ENDS),
    (GraderNeverEnds, HOSTILE),
    (RegexNeverEnds, HOSTILE),
    (PaysThreeTenths, HOSTILE),
    (PaysThreeTenths, FOREIGN),
    (NothingIsRight, RIGHT),
    (NothingSaidIsRight, RIGHT),
]
# Reward hacks: each looks into the shape of the solution and is content with too little.
ENDLESS = (DrawNeverEnds, GraderNeverEnds, RegexNeverEnds)
GREEDY = [SolutionAnywhere, NanIsNear, PrefixIsEnough, SuffixIsEnough, NearIsEnough]


def test_the_sound_environment_keeps_every_promise() -> None:
    check_env(Sound())
    assert [check.evidence for check in check_promises(Sound())] == [""] * len(
        check_promises(Sound())
    )


def test_what_the_prompt_asks_is_tried_as_an_answer() -> None:
    """For 7, 3+4: an environment that takes it for 7 pays for copying the question."""
    mild = grpo_envs.make("math", grading={"evaluated": False})
    broken = {found.promise: found.evidence for found in check_promises(mild, 5) if found.evidence}
    assert list(broken) == [HOSTILE]
    assert "earns 1.1" in broken[HOSTILE]


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        *(pytest.param(*row, id=f"{row[0].__name__}: {row[1]}") for row in FAULTS),
        *(pytest.param(fault, HOSTILE, id=f"{fault.__name__}: {HOSTILE}") for fault in GREEDY),
    ],
)
def test_a_planted_fault_is_caught(fault: type[TextEnv], promise: str) -> None:
    seconds = 1.0 if fault in ENDLESS else SECONDS  # a busy machine halts what does end, too
    with pytest.raises(ContractBroken) as caught:
        check_env(fault(), problems=10, seconds=seconds)
    title, *lines = str(caught.value).split("\n")
    assert title == f"{fault.__name__} breaks its contract."
    assert all(line.startswith("broken promise: ") for line in lines)
    broken = {line.removeprefix("broken promise: ").split(": ")[0] for line in lines}
    assert promise in broken
    assert all(len(line) < 500 for line in lines)


class RendersANumber(Sound):
    def render(self) -> str | None:
        return None if self.render_mode is None else 7  # type: ignore[return-value]


def test_rendering_is_checked_where_the_environment_was_made_by_gymnasium() -> None:
    # Only then is there a spec, out of which Gymnasium makes one more for each render mode.
    def make_one(**keywords: Any) -> RendersANumber:
        return RendersANumber(**keywords)

    name = "grpo_envs_tests/RendersANumber-v0"
    gymnasium.register(name, entry_point=make_one, disable_env_checker=True)
    try:
        env = gymnasium.make(name).unwrapped
        assert isinstance(env, RendersANumber)
        with pytest.raises(ContractBroken, match=GYMNASIUM):
            check_env(env)
    finally:
        del gymnasium.registry[name]


def test_every_promise_has_a_fault_that_breaks_it() -> None:
    # A promise that no planted fault breaks may check nothing at all.
    assert {check.promise for check in check_promises(Sound(), problems=2)} == {
        promise for _, promise in FAULTS
    }


@pytest.mark.parametrize(
    ("fault", "promise", "evidence"),
    [
        pytest.param(OneProblem, DIFFERENT, "50 seeds of train all gave 'What is", id="question"),
        pytest.param(
            RaisesOnOddInput, HOSTILE, "ValueError: invalid literal for int()", id="exception"
        ),
        pytest.param(UndeclaredPart, SOLUTION, "no reward component 'style'", id="name of it"),
        pytest.param(IntInInfo, FLOATS, "info['length'] is 3, not a float", id="info value"),
        pytest.param(IgnoresSplit, DISJOINT, "grpo_envs.seeding.split_of", id="the remedy"),
        pytest.param(PaysForNothing, EMPTY, "'' earns 0.1", id="the unearned reward"),
    ],
)
def test_the_evidence_names_what_broke_the_promise(
    fault: type[TextEnv], promise: str, evidence: str
) -> None:
    found = {check.promise: check.evidence for check in check_promises(fault())}
    assert evidence in found[promise]


def test_after_a_call_that_does_not_end_nothing_more_is_tried() -> None:
    found = {
        check.promise: check.evidence for check in check_promises(DrawNeverEnds(), seconds=0.1)
    }
    assert found == {ENDS: "drawing problem 0 of train did not end within 0.1 s"}


def test_a_limit_that_a_caller_set_is_put_back() -> None:
    """Such as a test runner's; it counts on while calls are limited."""

    class CallersLimitError(Exception):
        pass

    def ring(*_: object) -> None:
        raise CallersLimitError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TooLong), time_limit(0.01, "it"):
            time.sleep(5)
        with pytest.raises(CallersLimitError):
            time.sleep(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_limit_that_passes_around_the_block_leaves_no_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A timer that stays on would interrupt whatever comes next, a second later."""
    handler = signal.getsignal(signal.SIGALRM)
    for _ in range(50):
        # It passes before the block begins; on a busy machine now and then within it.
        with suppress(TooLong), time_limit(1e-6, "it"):
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    passes = partial(ctypes.CDLL(None)["raise"], signal.SIGALRM)  # no Python, as setitimer
    try:
        with monkeypatch.context() as late, time_limit(60, "it"):
            late.setattr(signal, "setitimer", passes)  # while the timer is turned off
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_parts_that_sum_to_one_but_for_the_last_bit_break_nothing() -> None:
    class Tenths(Sound):
        parts: ClassVar[Mapping[str, float]] = {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.1}

        def range_of(self, problem: Problem) -> tuple[float, float]:
            return 0.0, sum((0.3, 0.3, 0.3, 0.1))  # below 1 by one bit

        def score(self, problem: Problem, answer: str) -> Reward:
            return Reward(parts=dict.fromkeys("abcd", float(answer == problem.solution)))

    check_env(Tenths())


def test_a_dataset_with_one_row_held_out_is_sound(write: Write) -> None:
    rows = [{"prompt": f"What is {n} + 1?", "gold": str(n + 1)} for n in range(3)]
    check_env(MathEnv(dataset=write("rows.jsonl", rows)), problems=3)


@pytest.mark.parametrize("name", ["code", pytest.param(SLOW, marks=pytest.mark.slow)])
def test_a_grader_of_programs_that_pays_everything_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of these environments sum to 1.2 with an error in the last bit."""
    env = grpo_envs.make(name)
    paid = Reward(parts=dict.fromkeys(env.parts, 1.0))
    monkeypatch.setattr(env, "score_batch", lambda problems, answers: [paid] * len(answers))
    broken = {found.promise for found in check_promises(env, problems=3) if found.evidence}
    assert {HOSTILE, FOREIGN} <= broken


def test_the_solution_of_every_row_is_tried(write: Write) -> None:
    rows = [{"prompt": f"What is {n} + 1?", "gold": str(n + 1)} for n in range(400)]
    wrong = 321

    class OneWrongSolution(MathEnv):
        def from_row(self, row: Row) -> Problem:
            problem = super().from_row(row)
            bad = dataclasses.replace(problem, solution="<answer>0</answer>")
            return bad if row.number == wrong else problem

    env = OneWrongSolution(dataset=write("rows.jsonl", rows))
    found = {check.promise: check.evidence for check in check_promises(env, problems=3)}
    assert f"row {wrong + 1}: '<answer>0</answer>' earns 0.1 of 1.1" in found[SOLUTION]


def test_a_fault_that_shows_in_one_split_only_is_found() -> None:
    class WrongInEval(Sound):
        def score(self, problem: Problem, answer: str) -> Reward:
            right = answer == problem.solution and split_of(problem.prompt) == "train"
            return Reward(parts={"correct": float(right)})

    with pytest.raises(ContractBroken, match=SOLUTION):
        check_env(WrongInEval())


def test_a_sound_conversation_keeps_every_promise() -> None:
    check_env(Guessing())


def test_weights_count_for_the_maximum() -> None:
    class Weighted(Sound):
        parts: ClassVar[Mapping[str, float]] = {"correct": 3.0}

    check_env(Weighted())
    check_env(Weighted(rewards={"correct": 0.5}))


# Hidden problems


class Secret(TextEnv):
    """One prompt for all; the number that it hides is even in training."""

    hidden = True

    def draw(self, rng: random.Random, split: str) -> Problem:
        number = 2 * rng.randrange(10**6) + (split == "eval")
        return Problem(prompt="Which?", gold=number, solution=f"<answer>{number}</answer>")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.solution)})


class OneSecret(Secret):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return super().draw(random.Random(0), split)


class SecretsOfBoth(Secret):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return super().draw(rng, "any")


class SecretOfSomebody(Secret):
    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt="Which?", gold=None, solution="")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": 0.0})


DIFFERENT, SHARED = "different keys draw different problems", "train and eval share no problem"


def test_hidden_problems_are_told_apart_by_their_golds() -> None:
    check_env(Secret(), problems=10)
    said = Secret()
    said.hidden = False
    found = {check.promise: check.evidence for check in check_promises(said, 10)}
    assert found[DIFFERENT] == "10 seeds of train all gave 'Which?'"
    assert "both have 'Which?'" in found[SHARED]


@pytest.mark.parametrize(
    ("kind", "promise", "evidence"),
    [
        (OneSecret, DIFFERENT, r"^10 seeds of train all gave 'Which\?' with gold \d+$"),
        (SecretsOfBoth, SHARED, r"ignores the split: both have 'Which\?' with gold \d+; draw"),
    ],
)
def test_hidden_problems_that_are_alike_are_found(
    kind: type[TextEnv], promise: str, evidence: str
) -> None:
    found = {check.promise: check.evidence for check in check_promises(kind(), 10)}
    assert re.search(evidence, found[promise])


def test_what_cannot_be_tried_is_no_promise_that_held() -> None:
    checks = {check.promise: check for check in check_promises(SecretOfSomebody(), 5)}
    unknown = "not tried: the problems are hidden, and their golds are not known here"
    assert (checks[DIFFERENT].tried, checks[DIFFERENT].note) == (False, unknown)
    assert "both have 'Which?'" in checks[SHARED].evidence  # by draw itself, with one generator
    assert [check.promise for check in checks.values() if not check.tried] == [
        DIFFERENT,
        "the solution earns the maximum",
        "the solution counts as right in accuracy",
        "the prompt does not leak the solution",
        "another problem's solution does not earn the maximum",
    ]


def test_a_number_to_guess_is_hidden() -> None:
    assert grpo_envs.make("guess").hidden
    assert not grpo_envs.make("math").hidden
    assert grpo_envs.make("mixture", of={"math": 1, "guess": 1}).hidden
