"""UnicodeText: what is a member, and that Gymnasium's machinery takes the space."""

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import batch_space

from grpo_envs import UnicodeText
from grpo_envs.env import TextEnv
from grpo_envs.types import Problem, Reward


class Echo(TextEnv):
    """Asks in a script that Gymnasium's own Text space refuses."""

    def problem(self, seed: int, split: str | None = None) -> Problem:
        return Problem(prompt=f"你好 \U0001f600 №{seed}?", gold="", solution="ja")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == "ja")})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("What is 1+2? (\"'\\/#$%&;:!)", id="punctuation"),
        pytest.param("\U0001f600\U0001f469\u200d\U0001f680", id="emoji, joined"),
        pytest.param("你好，世界", id="CJK"),
        pytest.param("مرحبا", id="right to left"),
        pytest.param("a\nb\tc\x00\x1b", id="control characters"),
        pytest.param("e\u0301\ufffd\ufeff\U0010ffff", id="combining, BOM, the last code point"),
        pytest.param("x" * (1 << 20), id="as long as is allowed"),
    ],
)
def test_text_that_a_model_can_read_is_a_member(text: str) -> None:
    assert text in UnicodeText()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("\ud83d", id="lone surrogate: no UTF-8, no tokens"),
        pytest.param("ok \udc00 ok", id="lone surrogate in the middle"),
        pytest.param("x" * ((1 << 20) + 1), id="one too long"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(7, id="a number"),
        pytest.param(None, id="None"),
        pytest.param(["a"], id="a list"),
        pytest.param(np.array("a"), id="an array"),
    ],
)
def test_what_a_model_cannot_read_is_no_member(other: Any) -> None:
    assert other not in UnicodeText()


def test_the_length_is_counted_in_characters() -> None:
    # Four characters, twelve bytes of UTF-8.
    assert "你好世界" in UnicodeText(max_length=4)
    assert "你好世界啊" not in UnicodeText(max_length=4)
    assert UnicodeText(max_length=0).contains("")
    assert not UnicodeText(max_length=0).contains("a")


def test_a_negative_length_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^UnicodeText: max_length must be 0 or more, got -1\.$"):
        UnicodeText(max_length=-1)


@pytest.mark.parametrize("length", [0, 1, 5, 1 << 20])
def test_samples_are_members(length: int) -> None:
    space = UnicodeText(max_length=length, seed=1)
    samples = [space.sample() for _ in range(100)]
    assert all(sample in space for sample in samples)
    assert len(set(samples)) > 50 or length < 2


def test_samples_follow_the_seed() -> None:
    def first_five(seed: int) -> list[str]:
        space = UnicodeText(seed=seed)
        return [space.sample() for _ in range(5)]

    assert first_five(3) == first_five(3)
    assert first_five(3) != first_five(4)
    space = UnicodeText()
    space.seed(3)
    assert [space.sample() for _ in range(5)] == first_five(3)


@pytest.mark.parametrize("argument", ["mask", "probability"])
def test_a_mask_is_refused_rather_than_ignored(argument: str) -> None:
    arguments: dict[str, Any] = {argument: np.ones(3)}
    with pytest.raises(ValueError, match="neither a mask nor a probability"):
        UnicodeText().sample(**arguments)


def test_equality_and_hash_follow_the_length() -> None:
    assert UnicodeText() == UnicodeText(seed=9)
    assert hash(UnicodeText()) == hash(UnicodeText(seed=9))
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != gymnasium.spaces.Text(5)
    assert len({UnicodeText(5), UnicodeText(5), UnicodeText(6)}) == 2


def test_repr_names_the_length() -> None:
    assert repr(UnicodeText(7)) == "UnicodeText(max_length=7)"


def test_a_pickled_space_is_equal_and_goes_on_sampling_alike() -> None:
    space = UnicodeText(max_length=50, seed=2)
    space.sample()
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert [copy.sample() for _ in range(3)] == [space.sample() for _ in range(3)]


def test_it_is_json_as_it_is() -> None:
    space = UnicodeText()
    texts = ["", "你好"]
    assert space.from_jsonable(space.to_jsonable(texts)) == texts
    assert not space.is_np_flattenable


def test_it_batches() -> None:
    batch: Any = batch_space(UnicodeText(), 3)
    assert ("a", "你好", "") in batch
    assert ("a", "\ud83d", "") not in batch
    assert len(batch.sample()) == 3


def test_text_survives_gymnasiums_own_vector_env() -> None:
    # Gymnasium's Text space refuses this prompt; its shared-memory buffers corrupt it.
    vector: Any = SyncVectorEnv([Echo, Echo])
    prompts, _ = vector.reset(seed=[3, 4])
    assert tuple(prompts) == ("你好 \U0001f600 №3?", "你好 \U0001f600 №4?")
    _, rewards, terminated, _, _ = vector.step(("ja", "nein \U0001f600"))
    assert rewards.tolist() == [1.0, 0.0]
    assert terminated.all()
    assert vector.observation_space.contains(tuple(prompts))
    vector.close()
