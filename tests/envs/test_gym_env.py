"""env=gym: a Gymnasium environment of text that knows nothing of us is one of ours."""

import dataclasses
from typing import Any

import gymnasium
import pytest

import grpo_envs
from grpo_env_gym import GymEnv
from grpo_envs import GroupVectorEnv, Turn, check_env
from grpo_envs.env.conformance import check_promises
from grpo_envs.errors import ConfigError, ContractBroken
from grpo_envs.seeding import split_of

REVERSE = "tests.support.text_games:text_games/Reverse-v0"
GUESS = "tests.support.text_games:text_games/Guess-v0"
RANGE = [-6.0, 10.0]


def made(**keywords: Any) -> GymEnv:
    env = grpo_envs.make("gym", **keywords)
    assert isinstance(env, GymEnv)
    return env


def secret(env: GymEnv, seed: int) -> int:
    env.wrapped.open(env.problem(seed).gold)
    return int(env.wrapped.env.unwrapped.number)  # type: ignore[attr-defined]


def test_a_single_answer_is_paid_by_the_wrapped_environment() -> None:
    env = made(id=REVERSE)
    prompt, _ = env.reset(seed=3)
    word = prompt.removeprefix("Reverse ").removesuffix(".")
    _, reward, terminated, truncated, info = env.step(f"<think>easy</think> {word[::-1]}\n")
    assert (reward, terminated, truncated, info["reward/score"]) == (1.0, True, False, 1.0)
    env.reset(seed=3)
    assert env.step(word + "x")[1:4] == (0.0, True, False)


def test_it_keeps_every_promise_and_has_no_solution_to_play() -> None:
    check_env(made(id=REVERSE), problems=20)
    notes = [found.note for found in check_promises(made(id=REVERSE), problems=3)]
    assert "6 of 6 problems have no solution" in notes


def test_what_forgets_its_seed_is_caught() -> None:
    env = made(id="tests.support.text_games:text_games/Forgetful-v0")
    with pytest.raises(ContractBroken, match="the same key draws the same problem"):
        check_env(env, problems=5)


def test_keywords_reach_the_constructor() -> None:
    prompt = made(id=REVERSE, kwargs={"length": 12}).problem(0).prompt
    assert len(prompt) == len("Reverse .") + 12


def test_splits_share_neither_seed_nor_observation() -> None:
    env = made(id=REVERSE, kwargs={"length": 2})  # a hundred words
    train, held_out = (
        {env.problem(seed, split).prompt for seed in range(200)} for split in ("train", "eval")
    )
    assert len(train) > 50
    assert len(held_out) > 2
    assert not train & held_out


def test_where_all_open_alike_the_splits_share_no_seed() -> None:
    env = made(id=GUESS)
    assert not env.by_observation
    train, held_out = (
        {env.problem(seed, split).gold for seed in range(300)} for split in ("train", "eval")
    )
    assert len(train) == len(held_out) == 300
    assert {split_of(str(seed)) for seed in train} == {"train"}
    assert {split_of(str(seed)) for seed in held_out} == {"eval"}


@pytest.mark.parametrize(
    ("guesses", "said", "paid", "ending"),
    [
        pytest.param([0], ["Right."], 16 / 16, (True, False), id="right at once"),
        pytest.param([1, -1, 0], ["Lower.", "Higher.", "Right."], 14 / 16, (True, False), id="3"),
        pytest.param([1] * 7, ["Lower."] * 7, 0.0, (False, True), id="out of turns"),
    ],
)
def test_a_conversation_is_paid_its_scaled_return_at_its_end(
    guesses: list[int], said: list[str], paid: float, ending: tuple[bool, bool]
) -> None:
    """10 for the right number and -1 for each wrong one, on a scale from -6 to 10."""
    env = made(id=GUESS, return_range=RANGE)
    assert env.max_turns == 7  # the id's max_episode_steps
    number = secret(env, 5)
    env.reset(seed=5)
    for turn, (off, expected) in enumerate(zip(guesses, said, strict=True), 1):
        observation, reward, terminated, truncated, info = env.step(str(number + off))
        last = turn == len(guesses)
        assert observation == expected
        assert reward == pytest.approx(paid if last else 0.0)
        assert (terminated, truncated) == (ending if last else (False, False))
    assert ("outside" in info["detail"]) == (len(guesses) == 7)  # -7 is less than -6


def test_fewer_turns_than_it_has_cut_and_pay_what_was_earned_so_far() -> None:
    env = made(id=GUESS, return_range=RANGE, turns=2)
    env.reset(seed=5)
    number = secret(env, 5)
    assert env.step(str(number + 1))[1:4] == (0.0, False, False)
    _, reward, *ending, _ = env.step(str(number + 1))
    assert (reward, ending) == (4 / 16, [False, True])


@pytest.mark.parametrize(
    "answer",
    ["", "UPPER", "two words", "x" * 21, "\u4f60\u597d", "\ud83d", "<think>abc", "<think></think>"],
    ids=ascii,
)
def test_an_answer_outside_the_action_space_ends_the_episode_unpaid(answer: str) -> None:
    env = made(id=REVERSE, return_range=[-1.0, 1.0])  # where 0 of the environment is worth 0.5
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(answer)
    assert (reward, terminated) == (0.0, True)
    assert info["reward_valid"]
    assert info["detail"] == "the answer is outside the action space"


def test_answers_in_tags() -> None:
    env = made(id=REVERSE, answer="tag")
    word = env.problem(1).prompt.removeprefix("Reverse ").removesuffix(".")[::-1]
    texts = [
        f"<think>{word}</think><answer> {word} </answer>",
        f"So <answer>{word}</answer>!",
        word,
    ]
    problems = [env.problem(1)] * 3
    replies = env.reply_batch(problems, [[Turn(action=text)] for text in texts])
    assert [reply.reward.total for reply in replies] == [1.0, 1.0, 0.0]


def test_what_raises_inside_is_invalid_and_no_wrong_answer() -> None:
    env = made(id="tests.support.text_games:text_games/Faulty-v0")
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step("boom")
    assert (reward, terminated, info["reward_valid"]) == (0.0, True, 0.0)
    assert info["detail"] == "RuntimeError: broken inside"
    env.reset(seed=0)
    assert env.step("fine")[4]["reward_valid"]


QUIRKY = "tests.support.text_games:text_games/Quirky-v0"
NO_REPEAT = "the environment does not repeat itself after reset(seed=...): "


def played(env: GymEnv, seed: int = 0) -> dict[str, Any]:
    """Give the right answer twice; return the `info` of the last step."""
    prompt, _ = env.reset(seed=seed)
    word = prompt.split()[-1].removesuffix(".")[::-1]
    *_, terminated, truncated, info = env.step(word)
    if not (terminated or truncated):
        *_, terminated, truncated, info = env.step(word)
    assert terminated or truncated
    return info


def test_what_repeats_itself_is_paid() -> None:
    info = played(made(id=QUIRKY))
    assert (info["reward/score"], info["reward_valid"], info["detail"]) == (1, 1, "")


@pytest.mark.parametrize(
    ("quirk", "said"),
    [
        ("global random", "it opened with 'Reverse "),
        ("counts resets", "it opened with '"),
        ("random answers", "turn 1 was answered with '0."),
        ("random last answer", "it ended in another way"),
        ("random end", ""),
        ("truncates at random", "it ended in another way"),
        ("random reward", "it returned "),
    ],
)
def test_what_does_not_repeat_itself_is_invalid_when_played(quirk: str, said: str) -> None:
    env = made(id=QUIRKY, kwargs={"quirk": quirk})
    for seed in range(4):
        info = played(env, seed)
        assert (info["reward/score"], info["reward_valid"]) == (0, 0)
        assert info["detail"].startswith(NO_REPEAT), info["detail"]
        assert said in info["detail"]


@pytest.mark.parametrize("quirk", ["random answers", "random end"])
def test_check_notices_what_does_not_repeat_itself(quirk: str) -> None:
    """It says words that most action spaces allow: a sentence is outside many."""
    env = made(id=QUIRKY, kwargs={"quirk": quirk})
    found = " ".join(check.evidence for check in check_promises(env, problems=5))
    assert NO_REPEAT in found


def test_a_replay_is_compared_with_what_was_said_before() -> None:
    """From its second turn on it repeats itself, and differs from its first."""
    env = made(id=QUIRKY)
    prompt, _ = env.reset(seed=0)
    word = prompt.split()[-1].removesuffix(".")[::-1]
    assert env.step(word)[0] == "Again."
    env.wrapped.env.unwrapped.quirk = "other words"  # type: ignore[attr-defined]
    *_, info = env.step(word)
    assert info["reward_valid"] == 0
    what = "turn 1 was answered with 'Again.', and when played again 'Once more.'"
    assert info["detail"] == NO_REPEAT + what


@pytest.mark.parametrize(
    ("quirk", "detail"),
    [
        ("inf", "the return of the episode is inf"),
        ("-inf", "the return of the episode is -inf"),
        ("nan", "the return of the episode is nan"),
        ("huge", "OverflowError: "),
        ("None", "TypeError: a reward is a NoneType, not a number"),
        ("1", "TypeError: a reward is a str, not a number"),
        ("1j", "TypeError: a reward is a complex, not a number"),
        ("exit in step", "RuntimeError: the environment raised SystemExit: over"),
        ("exit at once", "RuntimeError: the environment raised SystemExit"),
        ("cancelled", "RuntimeError: the environment raised GeneratorExit"),
    ],
)
def test_what_cannot_be_paid_is_invalid_and_ends_nothing(quirk: str, detail: str) -> None:
    info = played(made(id=QUIRKY, kwargs={"quirk": quirk}))
    assert (info["reward/score"], info["reward_valid"]) == (0, 0)
    assert info["detail"].startswith(detail)


def test_an_exit_in_reset_is_invalid_in_play_and_one_line_before() -> None:
    env = made(id=QUIRKY, kwargs={"quirk": "exit in reset"})
    problem = env.problem(0)
    while env.wrapped.env.unwrapped.resets < 60:  # type: ignore[attr-defined]
        env.wrapped.open(0)
    reward = env.reply_batch([problem], [[Turn(action="abc")]])[0].reward
    assert (reward.valid, reward.error) == (
        False,
        "RuntimeError: the environment raised SystemExit: 3",
    )
    with pytest.raises(ConfigError, match="cannot be reset: RuntimeError: the environment raised"):
        env.problem(1)


def test_ctrl_c_gets_through() -> None:
    env = made(id=QUIRKY, kwargs={"quirk": "Ctrl-C"})
    env.reset(seed=0)
    with pytest.raises(KeyboardInterrupt):
        env.step("abc")


def test_members_of_groups_play_beside_each_other() -> None:
    """Interleaved episodes in one instance: each is played from its own start."""
    env = made(id=GUESS, return_range=RANGE)
    numbers = [secret(env, seed) for seed in (1, 1, 2, 2)]
    groups = GroupVectorEnv(env, num_envs=4, group_size=2)
    groups.reset(seed=[1, 2])
    first = groups.step([str(n + off) for n, off in zip(numbers, (0, 1, -1, 0), strict=True)])
    assert first[0] == ("Right.", "Lower.", "Higher.", "Right.")
    assert list(first[1]) == [1.0, 0.0, 0.0, 1.0]
    second = groups.step([str(n) for n in numbers])
    assert list(second[1]) == [0.0, pytest.approx(15 / 16), pytest.approx(15 / 16), 0.0]
    assert second[2].all()
    groups.close()


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({}, "env.id=None. Allowed: an id registered with Gymnasium"),
        ({"id": "text_games/Revers-v0"}, "Did you mean 'text_games/Reverse-v0'?"),
        ({"id": "CartPole"}, "env.id=CartPole is not registered. Did you mean 'CartPole-v1'?"),
        ({"id": "nowhere:X-v0"}, "nowhere cannot be imported: ModuleNotFoundError: No module"),
        ({"id": "CartPole-v1"}, "its observations are Box. Allowed: Text or UnicodeText for both"),
        ({"id": "grpo_envs/math-v0"}, "env.id=grpo_envs/math-v0 is one of ours: env=math."),
        ({"id": REVERSE, "kwargs": {"size": 3}}, "env.kwargs={'size': 3}: TypeError: "),
        ({"id": REVERSE, "kwargs": 3}, "env.kwargs=3. Allowed: {name: value, ...} for its con"),
        ({"id": REVERSE, "kwargs": []}, "env.kwargs=[]. Allowed: {name: value, ...}"),
        ({"id": REVERSE, "kwargs": "size"}, "env.kwargs='size'. Allowed: {name: value, ...}"),
        ({"id": REVERSE, "kwargs": {1: 2}}, "env.kwargs={1: 2}: TypeError: "),
        ({"id": REVERSE, "return_range": [-1e308, 1e308]}, "Allowed: [least, most], two finite"),
        ({"id": REVERSE, "return_range": [1, 0]}, "env.return_range=[1, 0]. Allowed: [least, most"),
        ({"id": REVERSE, "return_range": [0]}, "env.return_range=[0]. Allowed: [least, most]"),
        ({"id": REVERSE, "turns": 0}, "env.turns=0. Allowed: a whole number above 0, or null."),
        ({"id": REVERSE, "answer": "tags"}, "env.answer=tags. Allowed: text, tag. Did you mean"),
        ({"idd": REVERSE}, "no env.idd. Allowed: env.split, env.id, env.kwargs"),
    ],
)
def test_a_mistake_is_one_line(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**keywords)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gymnasiums_own_functions_make_it_from_a_spec() -> None:
    """Its keyword `id` is also a parameter of theirs, so it goes into the spec."""
    keywords = {"id": REVERSE, "kwargs": {"length": 3}}
    spec = dataclasses.replace(gymnasium.spec("grpo_envs/gym-v0"), kwargs=keywords)
    env = gymnasium.make(spec)
    prompt, _ = env.reset(seed=1)
    assert env.step(prompt[8:11][::-1])[1] == 1.0
    env.close()
    spec = dataclasses.replace(spec, kwargs={**keywords, "group_size": 2})
    vector = gymnasium.make_vec(spec, num_envs=4, vectorization_mode="vector_entry_point")
    assert isinstance(vector, GroupVectorEnv)
    prompts, _ = vector.reset(seed=[1, 2])
    assert prompts[0] == prompts[1] == prompt != prompts[2]
    vector.close()
