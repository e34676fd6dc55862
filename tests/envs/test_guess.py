"""Guessing a number: honest replies, halving that always wins, parts that are paid once."""

import random
from collections.abc import Callable
from typing import Any

import pytest

import grpo_envs
from grpo_env_games.guess import HIGHER, LEVELS, LOWER, RIGHT, GuessEnv, GuessRecipe, Range
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.types import Problem, Reward, Turn
from grpo_policy.policy import Policy

EVERY_LEVEL = pytest.mark.parametrize("level", LEVELS)
Player = Callable[[Problem, list[Turn]], str]


def tag(guess: object) -> str:
    return f"<answer>{guess}</answer>"


def problem(low: int, high: int, number: int) -> Problem:
    meta = {"range": [low, high]}
    return Problem(prompt="", gold=number, solution=tag(number), meta=meta)


def play(env: GuessEnv, given: Problem, player: Player) -> tuple[list[Turn], list[Reward]]:
    """One episode; the rewards are those of its turns, weighted."""
    turns: list[Turn] = []
    rewards: list[Reward] = []
    while len(turns) < env.max_turns:
        action = player(given, turns)
        (reply,) = env.reply_batch([given], [[*turns, Turn(action=action)]])
        turns.append(Turn(action=action, observation=reply.observation))
        rewards.append(reply.reward)
        if reply.done:
            break
    return turns, rewards


def summed(rewards: list[Reward]) -> dict[str, float]:
    return {name: sum(reward.parts[name] for reward in rewards) for name in rewards[0].parts}


# Problems


@EVERY_LEVEL
def test_the_number_is_in_the_range_that_the_prompt_tells(level: int) -> None:
    env, recipe = GuessEnv(level=level), LEVELS[level]
    spans = set()
    for seed in range(300):
        given = env.problem(seed)
        within = Range(*given.meta["range"])
        assert 10 <= within.low <= given.gold <= within.high <= recipe.largest
        spans.add(within.high - within.low + 1)
        assert given.prompt == (
            f"I think of a number from {within.low} to {within.high}. "
            f"Guess it in {recipe.turns} turns."
        )
        assert given.solution == tag(given.gold)
    assert recipe.span[0] <= min(spans) < max(spans) <= recipe.span[1]


def test_there_are_hundreds_of_ranges_and_each_has_any_number() -> None:
    env = GuessEnv()
    drawn = [env.problem(seed) for seed in range(4000)]
    ranges = {given.prompt for given in drawn}
    assert len(ranges) > 400
    places = {(given.gold - given.meta["range"][0]) for given in drawn}
    assert places == set(range(7))
    golds = {given.gold for given in drawn if given.prompt == drawn[0].prompt}
    assert len(golds) > 1  # the prompt does not tell


def test_splits_share_no_range() -> None:
    train = {GuessEnv("train").problem(seed).prompt for seed in range(3000)}
    held_out = {GuessEnv("eval").problem(seed).prompt for seed in range(500)}
    assert not train & held_out
    assert len(held_out) > 20


@pytest.mark.parametrize(("level", "turns"), [*((level, None) for level in LEVELS), (1, 1), (2, 2)])
def test_every_level_keeps_every_promise(level: int, turns: int | None) -> None:
    grpo_envs.check_env(GuessEnv(level=level, turns=turns), problems=10)


# Replies


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (tag(37), RIGHT),
        (tag(" 37 "), RIGHT),
        (f"<think>34 to 41</think>{tag(37)}", RIGHT),
        (f"I say {tag(37)}, well", RIGHT),
        (tag(36), HIGHER),
        (tag(34), HIGHER),
        (tag(41), LOWER),
        *((tag(guess), "range") for guess in (33, 42, -37, 370, 10**30)),
        *((tag(guess), "range") for guess in ("37.0", "36+1", "74/2", "3 7", "", "thirty", "x")),
        *((tag(guess), "range") for guess in ("36 37", "36, 37, 38", "34 to 41", "\u0663\u0667")),
        (tag(36) + tag(37), "range"),
        (tag(37) + tag(37), "range"),
        ("".join(map(tag, range(34, 42))), "range"),
        ("37", "range"),
        ("", "range"),
        ("<answer>37", "range"),
        (f"<think>{tag(37)}", "range"),
        (f"<think>{tag(37)}</think>", "range"),
        (tag("9" * 10**6), "range"),
        (tag("\ud83d"), "range"),
    ],
    ids=lambda text: ascii(text[:40]) or "nothing",
)
def test_the_reply_to_a_guess(action: str, expected: str) -> None:
    given = problem(34, 41, 37)
    reply = GuessEnv().respond(given, [Turn(action=action)])
    text = "Guess a number from 34 to 41." if expected == "range" else expected
    assert reply.observation == text
    assert reply.done is (expected == RIGHT)
    assert reply.reward.parts["correct"] == float(expected == RIGHT)


@pytest.mark.parametrize(
    ("guesses", "parts"),
    [
        pytest.param([37], (1, 1, 1), id="at once"),
        pytest.param([34, 37], (1, 1, 0.5), id="in the second turn"),
        pytest.param([34, 35, 37], (1, 1, 0), id="in the last"),
        pytest.param([34, 35, 36], (0, 1, 0), id="never"),
        pytest.param(["", 35, 37], (1, 2 / 3, 0), id="after a turn without a number"),
        pytest.param([99, 37], (1, 1, 0.5), id="after one out of range"),
        pytest.param(["", "", ""], (0, 0, 0), id="no number at all"),
        pytest.param(["34 35 36 37 38 39 40 41"] * 3, (0, 1, 0), id="all of them, each time"),
    ],
)
def test_an_episode_is_paid_once_at_its_end(
    guesses: list[int | str], parts: tuple[float, float, float]
) -> None:
    env = GuessEnv(rewards={"quick": 0.2})
    turns, rewards = play(env, problem(34, 41, 37), lambda _, turns: tag(guesses[len(turns)]))
    assert len(turns) == len(guesses)
    assert [reward.total for reward in rewards[:-1]] == [0] * (len(rewards) - 1)
    assert tuple(rewards[-1].parts.values()) == pytest.approx(parts)
    total = parts[0] + 0.1 * parts[1] + 0.2 * parts[2]
    assert rewards[-1].total == pytest.approx(total)


def test_words_behind_an_answer_cost_the_form_of_that_turn() -> None:
    given = problem(34, 41, 37)
    said = [f"{tag(34)} perhaps", tag(37)]
    _, rewards = play(GuessEnv(), given, lambda _, turns: said[len(turns)])
    assert rewards[-1].parts == {"correct": 1, "format": 0.5, "quick": 0.5}


def test_quick_weighs_nothing_unless_it_is_asked_to() -> None:
    """Else a perfect player would seldom earn the maximum, which is what accuracy counts."""
    env = GuessEnv()
    assert env.reward_range[1] == pytest.approx(1.1)
    _, rewards = play(env, problem(34, 40, 40), env.demonstrate)
    assert len(rewards) == 3
    assert rewards[-1].total == pytest.approx(1.1)


def clumsy(seed: int) -> Player:
    rng = random.Random(seed)

    def player(given: Problem, turns: list[Turn]) -> str:
        within = Range(*given.meta["range"])
        guess = rng.randint(within.low - 2, within.high + 2)
        return rng.choice([tag(guess), tag(guess), f"{tag(guess)} !", str(guess), tag("") * 2])

    return player


def test_whatever_is_played_the_sum_over_the_turns_is_in_range() -> None:
    env = GuessEnv(rewards={"quick": 0.5, "format": 0.3})
    low, high = env.reward_range
    ends = set()
    for seed in range(400):
        turns, rewards = play(env, env.problem(seed), clumsy(seed))
        ends.add(len(turns))
        assert low <= sum(reward.total for reward in rewards) <= high
        assert all(0 <= value <= 1 for value in summed(rewards).values())
    assert ends == {1, 2, 3}


# Players


def test_halving_finds_every_number_of_level_1() -> None:
    env, recipe = GuessEnv(), LEVELS[1]
    for span in range(recipe.span[0], recipe.span[1] + 1):
        for low in (10, 95, 99, 134, recipe.largest - span + 1):
            for number in range(low, low + span):
                _, rewards = play(env, problem(low, low + span - 1, number), env.demonstrate)
                assert sum(reward.total for reward in rewards) == pytest.approx(1.1)


@EVERY_LEVEL
def test_halving_always_wins(level: int) -> None:
    env = GuessEnv(level=level)
    for seed in range(100):
        turns, rewards = play(env, env.problem(seed), env.demonstrate)
        assert rewards[-1].parts["correct"] == 1
        assert turns[-1].observation == RIGHT


def test_guessing_by_chance_within_what_is_left_often_loses() -> None:
    env = GuessEnv()
    rng = random.Random(0)

    def consistent(given: Problem, turns: list[Turn]) -> str:
        think = env.demonstrate(given, turns).removeprefix("<think>").partition("</think>")[0]
        low, high = map(int, think.split(" to "))
        return tag(rng.randint(low, high))

    won = [play(env, env.problem(s), consistent)[1][-1].parts["correct"] for s in range(1000)]
    assert 0.6 < sum(won) / 1000 < 0.8


def test_a_demonstration_thinks_of_what_is_left() -> None:
    env, given = GuessEnv(turns=9), problem(34, 41, 40)
    said = [tag(37), "nothing", tag(99), tag(41), tag(35), tag(39)]
    turns: list[Turn] = []
    thoughts = []
    for action in [*said, ""]:
        thoughts.append(env.demonstrate(given, turns))
        reply = env.respond(given, [*turns, Turn(action=action)])
        turns.append(Turn(action=action, observation=reply.observation))
    assert thoughts == [
        f"<think>{low} to {high}</think>{tag((low + high) // 2)}"
        for low, high in [(34, 41), *[(38, 41)] * 3, *[(38, 40)] * 2, (40, 40)]
    ]


def test_a_demonstrated_turn_is_short(tiny: Policy) -> None:
    action = GuessEnv().demonstrate(problem(134, 140, 135), [])
    assert len(tiny.tokenizer(action)["input_ids"]) < 24


# Episodes through Gymnasium


def test_an_episode_ends_when_the_number_is_found_or_the_turns_are_over() -> None:
    env = GuessEnv()
    prompt, _ = env.reset(seed=0)
    assert prompt == "I think of a number from 208 to 214. Guess it in 3 turns."  # it is 210
    assert env.step(tag(211))[:4] == (LOWER, 0.0, False, False)
    assert env.step(tag(209))[:4] == (HIGHER, 0.0, False, False)
    observation, reward, terminated, truncated, info = env.step(tag(210))
    assert (observation, terminated, truncated) == (RIGHT, True, False)
    assert reward == pytest.approx(1.1)
    assert info["reward/quick"] == 0.0
    env.reset(seed=0)
    for _ in range(2):
        assert env.step(tag(208))[2:4] == (False, False)
    observation, reward, terminated, truncated, _ = env.step(tag(208))
    assert (observation, terminated, truncated) == (HIGHER, False, True)
    assert reward == pytest.approx(0.1)


def test_members_of_a_group_end_at_different_turns() -> None:
    env = GuessEnv()
    groups = GroupVectorEnv(env, num_envs=8, group_size=4)
    groups.reset(seed=[0, 3])
    golds = [env.problem(seed).gold for seed in (0, 3) for _ in range(4)]
    ranges = [Range(*env.problem(seed).meta["range"]) for seed in (0, 3) for _ in range(4)]
    when = [0, 1, 2, 9] * 2  # the turn in which a member finds it
    sums = [0.0] * 8
    for turn in range(3):
        wrong = [r.low if g != r.low else r.high for g, r in zip(golds, ranges, strict=True)]
        actions = [tag(golds[i] if when[i] == turn else wrong[i]) for i in range(8)]
        observations, rewards, terminated, truncated, _ = groups.step(actions)
        sums = [total + reward for total, reward in zip(sums, rewards, strict=True)]
        assert terminated.tolist() == [w <= turn for w in when]
        assert truncated.tolist() == [w == 9 and turn == 2 for w in when]
        for i in range(8):
            assert (observations[i] == RIGHT) is (when[i] == turn)
            assert (observations[i] == "") is (when[i] < turn)
    assert sums == pytest.approx([1.1, 1.1, 1.1, 0.1] * 2)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 0}, "env.level=0. Allowed: 1, 2, 3, 4, 5."),
        ({"turns": 0}, "env.turns=0. Allowed: 1 to 50."),
        ({"turns": 1.5}, "env.turns=1.5. Allowed: 1 to 50."),
        ({"turns": True}, "env.turns=True. Allowed: 1 to 50."),
        ({"span": [7, 6]}, "env.span=[7, 6]. Allowed: [least, most] within 2 to 1000000."),
        ({"span": [1, 6]}, "env.span=[1, 6]. Allowed: [least, most] within 2 to 1000000."),
        ({"span": 7}, "env.span=7. Allowed: [least, most] within 2 to 1000000."),
        ({"largest": 16}, "env.largest=16. Allowed: 17 (room for env.span) to 1000000."),
        (
            {"span": [2, 2], "largest": 12},
            "env.largest=12: too few ranges for two splits.",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("guess", **arguments)
    assert str(caught.value) == message


def test_a_level_is_overridden_piece_by_piece() -> None:
    env = GuessEnv(level=2, turns=6, largest=99)
    assert env.recipe == GuessRecipe(span=[12, 15], turns=6, largest=99)
    assert env.max_turns == 6
    assert env.problem(0).prompt.endswith("Guess it in 6 turns.")
    assert GuessEnv(turns=1).problem(0).prompt.endswith("Guess it in 1 turn.")
