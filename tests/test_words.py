"""The bottom floor: nouns, errors, seeds, metrics, files and clocks, against hand-made numbers."""

import contextlib
import dataclasses
import math
import pickle
import random
import re
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_envs import errors
from grpo_envs.errors import ConfigError, GrpoEnvsError, UnknownName, nearest, unknown
from grpo_envs.runs.metrics import group_metrics, rounded
from grpo_envs.runtime.files import fsync, shown, write_atomically
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import Key, rng_for, seed_for, split_of
from grpo_envs.types import Completion, Group, Problem, Reply, Reward, Turn

# types


@pytest.mark.parametrize(
    ("reward", "total"),
    [
        pytest.param(Reward(), 0.0, id="no parts"),
        pytest.param(Reward(parts={"a": 0.5, "b": 0.25}), 0.75, id="unnamed weights are 1"),
        pytest.param(
            Reward(parts={"a": 0.5, "b": 1.0}, weights={"a": 2.0, "b": 0.1}),
            1.1,
            id="weighted sum",
        ),
        pytest.param(
            Reward(parts={"a": 1.0, "length": 0.5}, weights={"length": -0.4}),
            0.8,
            id="a weight may be negative",
        ),
        pytest.param(Reward(parts={"a": 1.0}, weights={"a": 0.0}), 0.0, id="a weight may be 0"),
        pytest.param(Reward(parts={"a": 1.0}, weights={"b": 5.0}), 1.0, id="weights without part"),
        pytest.param(Reward(parts={"a": 1.0}, valid=False), 0.0, id="invalid earns 0"),
        pytest.param(Reward(parts={"a": math.nan}, valid=False), 0.0, id="invalid NaN earns 0"),
    ],
)
def test_total_is_the_weighted_sum_of_the_parts(reward: Reward, total: float) -> None:
    assert reward.total == pytest.approx(total, abs=1e-12)


def test_the_error_of_a_valid_reward_is_its_note() -> None:
    """Graders of other packages say `error=` for both."""
    assert Reward(parts={"a": 1.0}, error="close") == Reward(parts={"a": 1.0}, note="close")
    assert Reward(error="close", note="neat").note == "neat; close"
    failed = Reward(valid=False, error="no sandbox", note="slow")
    assert (failed.error, failed.note, failed.detail) == ("no sandbox", "slow", "no sandbox")
    assert Reward(note="close").detail == "close"
    assert dataclasses.replace(Reward(note="close"), parts={"a": 1.0}).note == "close"


def test_total_does_not_depend_on_the_order_of_the_parts() -> None:
    values = {"a": 1e16, "b": 1.0, "c": -1e16}
    # Left to right in floats this is 0.0 or 1.0, by order; exactly summed it is 1.0.
    totals = {Reward(parts={k: values[k] for k in order}).total for order in ("abc", "acb", "bca")}
    assert totals == {1.0}


@pytest.mark.parametrize(
    "noun",
    [
        Problem(prompt="p", gold=1, solution="s"),
        Completion(text="t"),
        Reward(parts={"a": 1.0}),
        Turn(action="a"),
        Reply(reward=Reward(parts={"a": 1.0})),
        Group(key=1, prompt="p", prompt_ids=(1,), completions=(), rewards=()),
    ],
    ids=lambda noun: type(noun).__name__,
)
def test_nouns_are_frozen_slotted_and_keyword_only(noun: object) -> None:
    assert dataclasses.is_dataclass(noun)
    first = dataclasses.fields(noun)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, first, None)
    assert not hasattr(noun, "__dict__")
    make: Callable[..., object] = type(noun)
    with pytest.raises(TypeError, match="positional argument"):
        make("positional")


def test_a_default_mapping_is_not_shared_ground() -> None:
    meta: Any = Problem(prompt="p", gold=1, solution="s").meta
    parts: Any = Reward().parts
    for mapping in (meta, parts):
        with contextlib.suppress(TypeError):  # refusing the write is fine as well
            mapping["x"] = 1.0
    assert not Problem(prompt="p", gold=1, solution="s").meta
    assert not Reward().parts


def test_defaults_of_the_nouns() -> None:
    assert Completion(text="t") == Completion(
        text="t", token_ids=(), logprobs=(), finish_reason="stop"
    )
    assert Reply(reward=Reward()).done
    assert Turn(action="a").observation == ""
    assert Reward().valid


@pytest.mark.parametrize(
    "noun",
    [
        pytest.param(Turn(action="a", observation="o"), id="a turn"),
        pytest.param(Problem(prompt="p", gold=1, solution="s"), id="a problem"),
        pytest.param(Reward(parts={"a": 1.0}), id="a reward"),
        pytest.param(
            Reply(reward=Reward(valid=False, error="e"), observation="o", done=False),
            id="a reply that the grader failed on",
        ),
    ],
)
def test_nouns_travel_to_a_scoring_process_and_back(noun: object) -> None:
    assert pickle.loads(pickle.dumps(noun)) == noun


# errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.UnknownName, LookupError),
        (errors.DatasetError, ConfigError),
        (errors.PluginError, Exception),
        (errors.ResetNeeded, RuntimeError),
        (errors.ContractBroken, AssertionError),
    ],
)
def test_one_base_class_and_the_expected_builtin(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, GrpoEnvsError)
    assert issubclass(error, builtin)


def test_require_says_given_and_allowed() -> None:
    errors.require(True, "trainer.steps", 1, "1 or more")
    with pytest.raises(ConfigError) as caught:
        errors.require(False, "trainer.steps", 0, "1 or more")
    assert str(caught.value) == "trainer.steps=0. Allowed: 1 or more."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            "trian",
            "env.split=trian. Allowed: train, eval. Did you mean 'train'?",
            id="a typo gets the nearest spelling",
        ),
        pytest.param("xyz", "env.split=xyz. Allowed: train, eval.", id="nothing is near"),
        pytest.param("", "env.split=. Allowed: train, eval.", id="empty"),
    ],
)
def test_require_one_of_says_given_allowed_and_nearest(value: str, message: str) -> None:
    errors.require_one_of("env.split", "eval", ("train", "eval"))
    with pytest.raises(ConfigError) as caught:
        errors.require_one_of("env.split", value, ("train", "eval"))
    assert str(caught.value) == message


def test_require_one_of_takes_values_that_are_no_strings() -> None:
    errors.require_one_of("env.level", 3, {1: "a", 3: "b"})
    errors.require_one_of("render_mode", None, (None, "ansi"))
    with pytest.raises(ConfigError, match=r"^env\.level=6\. Allowed: 1, 3\.$"):
        errors.require_one_of("env.level", 6, {1: "a", 3: "b"})


def test_require_one_of_does_not_take_a_value_for_its_spelling() -> None:
    with pytest.raises(ConfigError):
        errors.require_one_of("env.level", "3", (1, 3))


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        pytest.param(
            "mth",
            ["math", "code"],
            "no environment 'mth'. Allowed: code, math. Did you mean 'math'?",
            id="sorted, with the nearest",
        ),
        pytest.param("q", ["math"], "no environment 'q'. Allowed: math.", id="nothing is near"),
        pytest.param("q", [], "no environment 'q'. Allowed: none.", id="nothing is known"),
    ],
)
def test_unknown_says_given_allowed_and_nearest(name: str, known: list[str], message: str) -> None:
    error = unknown("environment", name, known)
    assert isinstance(error, UnknownName)
    assert str(error) == message


def test_nearest_takes_the_closest_of_several() -> None:
    assert nearest("grpa", ["gspo", "grpo", "dapo"]) == " Did you mean 'grpo'?"


# seeding


def test_a_seed_is_the_same_in_every_process_and_release() -> None:
    # sha256 of the key's repr, upper 63 bits, worked out with hashlib alone. A change of this
    # number changes every generated problem: runs are no longer comparable across versions.
    assert seed_for("train", 1, 5) == 1190368697806193164


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("env", "train", 1), ("env", "train", 2), id="the last element"),
        pytest.param(("env", "train", 1), ("env", "eval", 1), id="the middle element"),
        pytest.param(("env", "train", 1), ("Env", "train", 1), id="the first element"),
        pytest.param((1, 2), (2, 1), id="the order"),
        pytest.param(("ab", "c"), ("a", "bc"), id="where one element ends"),
        pytest.param(("a, 'b",), ("a", "b"), id="an element that looks like two"),
        pytest.param((1,), ("1",), id="the type"),
        pytest.param((1,), (1, 0), id="the length"),
        pytest.param(("train", 1, 5), ("train", 2, 4), id="equal sums"),
    ],
)
def test_a_seed_depends_on_every_element_of_its_key(
    one: tuple[Key, ...], other: tuple[Key, ...]
) -> None:
    assert seed_for(*one) != seed_for(*other)
    assert seed_for(*one) == seed_for(*one)
    assert rng_for(*one).random() != rng_for(*other).random()
    assert rng_for(*one).random() == rng_for(*one).random()


def test_seeds_of_neighbours_are_unrelated() -> None:
    seeds = [seed_for("q", i) for i in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Uniform: the mean of 2,000 lies within 4 standard errors (0.2887 / sqrt(2000)) of one half.
    assert sum(seeds) / 2000 / 2**63 == pytest.approx(0.5, abs=4 * 0.2887 / 2000**0.5)
    # Neighbouring generators share no values: with `seed + i` streams they would.
    generators = [rng_for("q", i) for i in range(200)]
    draws = [[rng.random() for _ in range(5)] for rng in generators]
    assert len({value for row in draws for value in row}) == 1000


def test_seeding_leaves_the_global_generator_alone() -> None:
    random.seed(5)
    before = random.getstate()
    rng_for("a").random()
    split_of("question")
    assert random.getstate() == before


def test_a_tenth_of_the_questions_is_held_out() -> None:
    shares = [split_of(f"What is {i}?") == "eval" for i in range(20_000)]
    # Four standard errors of a binomial share: the root of 0.09 / 20,000 is 0.0021.
    assert sum(shares) / len(shares) == pytest.approx(0.1, abs=0.0085)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_held_out_share_can_be_chosen(share: float, expected: float) -> None:
    held_out = [split_of(f"q{i}", eval_share=share) == "eval" for i in range(4000)]
    assert sum(held_out) / 4000 == pytest.approx(expected, abs=0.032)


@pytest.mark.parametrize(
    ("question", "split"),
    [  # by sha256 alone: below a tenth of 2**63, or not
        ("What is 1+2?", "train"),
        ("What is 3+4?", "train"),
        ("q2", "eval"),
        ("q3", "train"),
        ("naïve 你好 \U0001f600", "eval"),
    ],
)
def test_a_question_stays_in_its_split_for_good(question: str, split: str) -> None:
    assert split_of(question) == split


# metrics


def group(*members: tuple[Reward, int, str]) -> Group:
    """Members as (reward, length, finish reason)."""
    completions = tuple(
        Completion(text="", token_ids=(0,) * length, finish_reason=finish)
        for _, length, finish in members
    )
    rewards = tuple(reward for reward, _, _ in members)
    return Group(key=0, prompt="", prompt_ids=(), completions=completions, rewards=rewards)


def earned(correct: float, form: float) -> Reward:
    return Reward(
        parts={"correct": correct, "format": form}, weights={"correct": 1.0, "format": 0.1}
    )


BROKEN = Reward(valid=False, error="sandbox down")


def test_group_metrics_by_hand() -> None:
    groups = [
        group((earned(1, 1), 3, "stop"), (earned(0, 1), 5, "length")),
        group((earned(0, 0), 2, "stop"), (BROKEN, 2, "stop")),
    ]
    # Valid totals 1.1, 0.1, 0: mean 0.4; deviations 0.7, -0.3, -0.4, squares 0.49 + 0.09 + 0.16
    # = 0.74, over 3 (population) 0.246667, root 0.496655. The second group has one valid member:
    # nothing to compare, so it is flat.
    assert group_metrics(groups) == pytest.approx(
        {
            "reward/mean": 0.4,
            "reward/std": 0.496655,
            "reward/correct": 1 / 3,
            "reward/format": 2 / 3,
            "reward_weighted/correct": 1 / 3,
            "reward_weighted/format": 0.2 / 3,
            "reward/invalid": 0.25,
            "group/zero_std": 0.5,
            "completion/length": 3.0,
            "completion/truncated": 0.25,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("members", "flat"),
    [
        pytest.param([earned(1, 1), earned(1, 1)], 1.0, id="all right"),
        pytest.param([earned(0, 0), earned(0, 0)], 1.0, id="all wrong"),
        pytest.param([earned(1, 0), earned(0, 0)], 0.0, id="one right"),
        pytest.param([earned(1, 1), BROKEN], 1.0, id="an invalid member is no contrast"),
        pytest.param([earned(0, 0), BROKEN, earned(1, 1)], 0.0, id="two valid ones differ"),
        pytest.param([BROKEN, BROKEN], 1.0, id="nobody valid"),
    ],
)
def test_a_flat_group_is_one_without_contrast(members: list[Reward], flat: float) -> None:
    metrics = group_metrics([group(*[(reward, 1, "stop") for reward in members])])
    assert metrics["group/zero_std"] == flat


def test_a_step_where_nothing_is_valid_has_finite_metrics() -> None:
    metrics = group_metrics([group((BROKEN, 4, "stop"), (BROKEN, 6, "length"))])
    assert metrics == {
        "reward/mean": 0.0,
        "reward/std": 0.0,
        "reward/invalid": 1.0,
        "group/zero_std": 1.0,
        "completion/length": 5.0,
        "completion/truncated": 0.5,
    }


def test_a_part_that_does_not_apply_is_no_zero() -> None:
    # Its mean is over those that have it; to the mean reward it adds nothing elsewhere.
    some, none = Reward(parts={"a": 1.0, "b": 0.5}, weights={"b": 2.0}), Reward(parts={"a": 1.0})
    metrics = group_metrics([group((some, 1, "stop"), (none, 1, "stop"))])
    assert metrics["reward/b"] == 0.5
    assert metrics["reward_weighted/b"] == 0.5
    assert metrics["reward/mean"] == 1.5


def test_rounded_keeps_significant_digits() -> None:
    assert rounded({"a": 1 / 3, "b": 123456.789, "c": 1.23456789e-9, "d": 0.0}) == {
        "a": 0.333333,
        "b": 123457.0,
        "c": 1.23457e-9,
        "d": 0.0,
    }
    assert rounded({"a": 1 / 3}, digits=2) == {"a": 0.33}


# files


def test_write_atomically_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "état.json"
    write_atomically(path, "one\n")
    write_atomically(path, "naïve \U0001f600 你好\n")
    assert path.read_bytes().decode("utf-8") == "naïve \U0001f600 你好\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["état.json"]  # nothing left beside it


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new" * 100_000 + "\ud800")  # no UTF-8 for a lone surrogate
    assert path.read_text(encoding="utf-8") == "old"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    texts = {letter * 300_000 for letter in "ab"}
    write_atomically(path, min(texts))
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            for text in texts:
                write_atomically(path, text)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        seen = {path.read_text(encoding="utf-8") for _ in range(150)}
    finally:
        stop.set()
        writer.join()
    assert seen <= texts


def test_fsync_takes_a_file_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a", encoding="utf-8")
    fsync(path)
    fsync(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync(tmp_path / "none")


def test_a_path_is_shown_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert shown(folder / "outputs" / "math") == "outputs/math"
    assert shown(Path("outputs")) == "outputs"
    assert shown(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")


# timing


def test_a_timer_adds_up_by_name() -> None:
    timer = Timer()
    for _ in range(2):
        with timer("sample"):
            time.sleep(0.02)
    with timer("score"):
        pass
    assert list(timer.seconds) == ["sample", "score"]
    assert timer.seconds["sample"] >= 0.04
    assert timer.seconds["score"] < timer.seconds["sample"]


def test_a_timer_counts_a_block_that_raises() -> None:
    timer = Timer()

    @timer("update")
    def fail() -> None:
        time.sleep(0.01)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert timer.seconds["update"] >= 0.01


# extras


def test_what_installs_an_extra_works_from_a_checkout() -> None:
    """The project is not on PyPI: no text may say so, and each extra that one names is there."""
    root = Path(__file__).parent.parent
    folders = ("grpo_envs", "envs", "agents", "conf", "docs", "tests")
    texts = {
        path: path.read_text(encoding="utf-8")
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml")
    }
    by_name = re.compile(r'pip install ["\']?grpo-envs\b(?!-)')
    assert [str(path) for path, text in texts.items() if by_name.search(text)] == []
    found = {
        name
        for text in texts.values()
        for names in re.findall(r'(?:install -e "\.\[|\binstall\(["\'])([a-z0-9,-]+)', text)
        for name in names.split(",")
    }
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert {"peft", "smollm2", "plot", "math-verify"} <= found <= {*extras["optional-dependencies"]}
