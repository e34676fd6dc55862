"""TextEnv through its Gymnasium face: episodes, rewards, errors, one turn and several."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from grpo_envs import Problem, Reply, Reward, TextEnv, Turn
from grpo_envs.errors import ConfigError, ContractBroken, ResetNeeded, UnknownName


class Adding(TextEnv):
    """One turn. Pays `correct`, and `brief` for few characters."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "brief": 0.5}
    system_prompt = "Answer with a number."

    def draw(self, rng: random.Random, split: str) -> Problem:
        a, b = rng.randrange(1000), rng.randrange(1000)
        return Problem(prompt=f"{split}: {a} + {b}?", gold=str(a + b), solution=str(a + b))

    def score(self, problem: Problem, answer: str) -> Reward:
        correct, brief = answer == problem.gold, 0 < len(answer) < 5
        return Reward(parts={"correct": float(correct), "brief": float(brief)})


class Guessing(TextEnv):
    """Three turns to guess a number below ten; the replies are higher and lower."""

    max_turns = 3

    def draw(self, rng: random.Random, split: str) -> Problem:
        gold = rng.randrange(10)
        return Problem(prompt="Guess my number.", gold=gold, solution=str(gold))

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        guess = int(turns[-1].action)
        if guess == problem.gold:
            return Reply(reward=Reward(parts={"correct": 1.0}))
        hint = "higher" if guess < problem.gold else "lower"
        wrong = Reward(parts={"correct": 0.0})
        return Reply(reward=wrong, observation=f"{hint} than {guess}", done=False)


class Scripted(TextEnv):
    """Returns what the answer names: a grader in every state of repair."""

    rewards: ClassVar[Mapping[str, Reward]] = {
        "right": Reward(parts={"correct": 1.0}),
        "nan": Reward(parts={"correct": math.nan}),
        "inf": Reward(parts={"correct": math.inf}),
        "down": Reward(valid=False, error="sandbox down"),
        "undeclared": Reward(parts={"correct": 1.0, "style": 1.0}),
    }

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=str(rng.random()), gold="", solution="right")

    def score(self, problem: Problem, answer: str) -> Reward:
        if answer == "raise":
            raise RuntimeError("worker 3 lost")
        return self.rewards.get(answer, Reward(parts={"correct": 0.0}))


def played(env: TextEnv, answer: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    env.reset(seed=0)
    return env.step(answer)


# An episode


def test_an_episode_of_one_turn() -> None:
    env = Adding()
    prompt, info = env.reset(seed=1)
    assert info == {
        "system_prompt": "Answer with a number.",
        "messages": [],
        "tools": [],
        "meta": {},
    }
    left, right = (int(word) for word in prompt.removeprefix("train: ")[:-1].split(" + "))
    observation, reward, terminated, truncated, info = env.step(str(left + right))
    assert (observation, terminated, truncated) == ("", True, False)
    assert reward == 1.5
    assert info == {
        "reward/correct": 1.0,
        "reward/brief": 1.0,
        "reward_valid": 1.0,
        "detail": "",
    }


def test_reward_and_info_are_plain_floats() -> None:
    for answer in ("", "1", "raise"):
        for env in (Adding(), Scripted()):
            _, reward, terminated, truncated, info = played(env, answer)
            assert type(reward) is float
            assert type(terminated) is type(truncated) is bool
            assert {type(value) for key, value in info.items() if key != "detail"} == {float}
            assert type(info["detail"]) is str


def test_a_seed_is_a_problem() -> None:
    one, other = Adding(), Adding()
    prompts = [one.reset(seed=seed)[0] for seed in range(50)]
    assert prompts == [other.reset(seed=seed)[0] for seed in range(50)]
    assert len(set(prompts)) == 50
    assert [one.problem(seed).prompt for seed in range(50)] == prompts


def test_a_seed_is_another_problem_in_the_other_split_and_environment() -> None:
    class Subtracting(Adding):
        """Same draws from the same generator, but another name."""

    train, evaluation = Adding(), Adding(split="eval")
    assert train.reset(seed=1)[0].removeprefix("train") != (
        evaluation.reset(seed=1)[0].removeprefix("eval")
    )
    assert train.problem(1, "eval") == evaluation.problem(1)
    assert Subtracting().problem(1) != train.problem(1)


def test_reset_without_a_seed_moves_on_and_repeats_after_a_seed() -> None:
    def walk(env: TextEnv) -> list[str]:
        return [env.reset(seed=7)[0], *(env.reset()[0] for _ in range(5))]

    first = walk(Adding())
    assert len(set(first)) == 6
    assert walk(Adding()) == first
    assert Adding().reset()[0] != Adding().reset()[0]


def test_an_unfinished_draw_or_score_says_whose_it_is() -> None:
    with pytest.raises(NotImplementedError, match=r"TextEnv has no draw\(rng, split\)"):
        TextEnv().reset(seed=0)

    class Questions(TextEnv):
        def draw(self, rng: random.Random, split: str) -> Problem:
            return Problem(prompt="p", gold="", solution="s")

    *_, info = played(Questions(), "x")
    assert "Questions has no score(problem, answer)" in info["detail"]


@pytest.mark.parametrize("env", [Adding(), Guessing()], ids=["one turn", "several turns"])
def test_step_needs_reset_before_and_after_an_episode(env: TextEnv) -> None:
    with pytest.raises(ResetNeeded, match=r"needs reset\(\)"):
        env.step("1")
    env.reset(seed=0)
    env.step(env.problem(0).solution)
    with pytest.raises(ResetNeeded, match=r"needs reset\(\)"):
        env.step("1")
    env.reset(seed=0)
    env.step("1")


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"split": "trian"},
            "env.split=trian. Allowed: train, eval. Did you mean 'train'?",
            id="split",
        ),
        pytest.param(
            {"render_mode": "anzi"},
            "render_mode=anzi. Allowed: None, ansi. Did you mean 'ansi'?",
            id="render mode",
        ),
        pytest.param(
            {"rewards": {"corect": 1.0}},
            "no reward component 'corect'. Allowed: brief, correct, judge, length, "
            "length_among_right, repetition, rm. "
            "Did you mean 'correct'?",
            id="reward component",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Adding(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(math.nan, id="NaN"),
        pytest.param(math.inf, id="infinite"),
        pytest.param("much", id="a word"),
        pytest.param(None, id="None"),
    ],
)
def test_a_weight_is_a_finite_number(weight: Any) -> None:
    with pytest.raises(ConfigError, match="correct"):
        Adding(rewards={"correct": weight})


def test_an_unknown_split_of_one_problem_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        Adding().problem(0, "trian")


@pytest.mark.parametrize(
    ("rewards", "right", "maximum"),
    [
        pytest.param(None, 1.5, (0.0, 1.5), id="declared weights"),
        pytest.param({"brief": 0.25}, 1.25, (0.0, 1.25), id="one changed, the other kept"),
        pytest.param({"correct": 2, "brief": 0}, 2.0, (0.0, 2.0), id="whole numbers"),
        pytest.param({"brief": -0.5}, 0.5, (-0.5, 1.0), id="a punishment"),
    ],
)
def test_rewards_weigh_the_parts(
    rewards: dict[str, float] | None, right: float, maximum: tuple[float, float]
) -> None:
    env = Adding(rewards=rewards)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.problem(0).solution)
    assert reward == pytest.approx(right)
    assert env.reward_range == pytest.approx(maximum)
    assert (info["reward/correct"], info["reward/brief"]) == (1.0, 1.0)  # raw, not weighted


def test_weights_of_one_environment_are_its_own() -> None:
    Adding(rewards={"correct": 9.0})
    assert Adding().weights == {"correct": 1.0, "brief": 0.5}


# Graders that fail


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        pytest.param("raise", "RuntimeError: worker 3 lost", id="score raises"),
        pytest.param("nan", "reward component 'correct' is nan", id="score says NaN"),
        pytest.param("inf", "reward component 'correct' is inf", id="score says infinity"),
        pytest.param("down", "sandbox down", id="score says so itself"),
    ],
)
def test_a_grader_that_fails_is_invalid_and_not_wrong(answer: str, cause: str) -> None:
    _, reward, terminated, truncated, info = played(Scripted(), answer)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info == {"reward/correct": 0.0, "reward_valid": 0.0, "detail": cause}
    *_, wrong = played(Scripted(), "wrong")
    assert wrong["reward_valid"] == 1.0


def test_a_part_that_is_not_declared_breaks_the_contract() -> None:
    message = r"^score returned no reward component 'style'\. Allowed: correct\.$"
    with pytest.raises(ContractBroken, match=message):
        played(Scripted(), "undeclared")


def batch(env: TextEnv, *answers: str) -> list[Reward]:
    problems = [env.problem(seed) for seed in range(len(answers))]
    replies = env.reply_batch(problems, [[Turn(action=answer)] for answer in answers])
    return [reply.reward for reply in replies]


@pytest.mark.parametrize("culprit", range(7))
def test_an_answer_that_raises_costs_only_itself(culprit: int) -> None:
    answers = ["right", "wrong", "right", "wrong", "right", "right", "wrong"]
    answers[culprit] = "raise"
    expected = [float(answer == "right") for answer in answers]
    rewards = batch(Scripted(), *answers)
    assert [reward.total for reward in rewards] == expected
    assert [reward.valid for reward in rewards] == [answer != "raise" for answer in answers]
    assert rewards[culprit].error == "RuntimeError: worker 3 lost"


def test_a_batch_that_raises_everywhere_is_invalid_everywhere() -> None:
    assert [reward.valid for reward in batch(Scripted(), *["raise"] * 5)] == [False] * 5


def test_score_batch_is_the_loop_over_score() -> None:
    env = Adding()
    problems = [env.problem(seed) for seed in range(4)]
    answers = [problems[0].solution, "no", "", problems[3].solution]
    rewards = env.score_batch(problems, answers)
    assert rewards == [env.score(p, a) for p, a in zip(problems, answers, strict=True)]
    # 1 + 0.5 for the right ones, 0.5 for a brief wrong one, 0 for the empty one.
    assert [reward.total for reward in batch(env, *answers)] == [1.5, 0.5, 0.0, 1.5]
    with pytest.raises(ValueError, match="zip"):
        env.score_batch(problems, answers[:3])


def test_a_batched_grader_is_used_where_there_is_one() -> None:
    class Batched(Adding):
        def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
            return [Reward(parts={"correct": 0.0, "brief": 1.0 / len(answers)}) for _ in answers]

    assert [reward.total for reward in batch(Batched(), "a", "b")] == [0.25, 0.25]
    assert played(Batched(), "a")[1] == 0.5


def test_a_batched_grader_that_loses_an_answer_breaks_the_contract() -> None:
    class Losing(Adding):
        def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
            return [Reward(parts={"correct": 0.0, "brief": 0.0}) for _ in answers[1:]]

    with pytest.raises(ContractBroken):
        played(Losing(), "a")


# Several turns


def guesses(env: TextEnv, *actions: str) -> list[tuple[str, float, bool, bool]]:
    steps = [env.step(action) for action in actions]
    return [(observation, reward, end, cut) for observation, reward, end, cut, _ in steps]


def seed_of(gold: int) -> int:
    return next(seed for seed in range(1000) if Guessing().problem(seed).gold == gold)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        pytest.param(["6"], [("", 1.0, True, False)], id="right at once"),
        pytest.param(
            ["2", "8", "6"],
            [
                ("higher than 2", 0.0, False, False),
                ("lower than 8", 0.0, False, False),
                ("", 1.0, True, False),
            ],
            id="right in the last turn ends it, and is no truncation",
        ),
        pytest.param(
            ["2", "8", "7"],
            [
                ("higher than 2", 0.0, False, False),
                ("lower than 8", 0.0, False, False),
                ("lower than 7", 0.0, False, True),
            ],
            id="never right is truncated at the turn budget",
        ),
    ],
)
def test_a_conversation(actions: list[str], expected: list[tuple[str, float, bool, bool]]) -> None:
    env = Guessing()
    env.reset(seed=seed_of(6))
    assert guesses(env, *actions) == expected
    with pytest.raises(ResetNeeded):
        env.step("6")


def test_respond_sees_the_conversation_so_far() -> None:
    seen: list[Sequence[Turn]] = []

    class Listening(Guessing):
        def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
            seen.append(list(turns))
            return super().respond(problem, turns)

    env = Listening()
    env.reset(seed=next(s for s in range(1000) if env.problem(s).gold == 6))
    guesses(env, "2", "8")
    first = Turn(action="2", observation="higher than 2")
    assert seen == [[Turn(action="2")], [first, Turn(action="8")]]


def test_a_turn_that_raises_ends_the_conversation_invalid() -> None:
    env = Guessing()
    env.reset(seed=seed_of(6))
    env.step("2")
    _, reward, terminated, truncated, info = env.step("six")
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["reward_valid"] == 0.0
    assert info["detail"].startswith("ValueError: invalid literal for int()")
    with pytest.raises(ResetNeeded):
        env.step("6")


def test_reset_forgets_the_conversation() -> None:
    env = Guessing()
    for _ in range(2):
        env.reset(seed=seed_of(6))
        # Two turns each time: without forgetting, the second round would be over at three.
        assert [cut for _, _, _, cut in guesses(env, "1", "2")] == [False, False]


def test_the_default_conversation_is_one_graded_answer() -> None:
    class Patient(Adding):
        max_turns = 3

    _, reward, terminated, truncated, _ = played(Patient(), Patient().problem(0).solution)
    assert (reward, terminated, truncated) == (1.5, True, False)


# Rendering


def test_render_is_off_unless_asked_for() -> None:
    env = Guessing()
    env.reset(seed=0)
    assert env.render() is None


def test_the_transcript() -> None:
    env = Guessing(render_mode="ansi")
    assert env.render() == "no episode yet"
    env.reset(seed=seed_of(6))
    assert env.render() == "prompt: Guess my number."
    guesses(env, "2", "6")
    assert env.render() == ("prompt: Guess my number.\npolicy: 2\nenv:    higher than 2\npolicy: 6")


def test_an_unknown_reward_part_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName):
        Guessing(rewards={"format": 0.1})
