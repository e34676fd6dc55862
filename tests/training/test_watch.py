"""Watch: each warning once, under its condition, and silence while a run is healthy."""

import itertools
import math
from collections.abc import Iterable

import pytest

from grpo_envs.training.watch import Watch

Step = dict[str, float]


def step(number: int = 0, **changes: float) -> Step:
    """A step of a healthy run: the reward rises, the parts move."""
    wave = 0.02 * (number % 3)
    healthy = {
        "reward/mean": 0.3 + 0.005 * number + wave,
        "reward/std": 0.4,
        "reward/correct": 0.25 + 0.005 * number + wave,
        "reward/format": 0.8 - wave,
        "reward/invalid": 0.0,
        "group/zero_std": 0.5,
        "completion/length": 40.0 + number,
        "completion/truncated": 0.1,
        "loss/kl": 0.02 + wave,
        "policy/sample_gap": 1e-6,
        "optim/skipped": 0.0,
        "optim/updates": 1.0,
    }
    return {**healthy, **{key.replace("__", "/"): value for key, value in changes.items()}}


def warnings_of(steps: Iterable[Step]) -> list[tuple[int, str]]:
    """(step number, warning) of a whole run."""
    watch = Watch()
    return [(i, text) for i, metrics in enumerate(steps) for text in watch.look(metrics)]


def test_a_healthy_run_is_silent() -> None:
    assert warnings_of(step(i) for i in range(120)) == []


TOOLS = {"reward__tool_calls": 1.5, "reward__tool_errors": 0.3, "reward__tool_repeats": 0.2}
"""Of a healthy run with tools, with `reward/answered` 0.9."""


def tool_steps(**changes: float) -> list[Step]:
    """Steps of a run with tools."""
    return [step(i, **{**TOOLS, "reward__answered": 0.9, **changes}) for i in range(30)]


def test_a_run_with_tools_that_works_is_silent() -> None:
    assert warnings_of(tool_steps()) == []
    assert warnings_of(tool_steps(reward__tool_errors=0.0, reward__answered=1.0)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tool_calls": 0.01, "tool_errors": 0, "tool_repeats": 0}, "never calls a tool"),
        ({"answered": 0.05}, "never answers"),
        ({"tool_errors": 0.8}, "Most tool calls fail"),
        ({"tool_repeats": 0.8}, "repeats the same call"),
    ],
)
def test_how_tools_are_used(changes: dict[str, float], says: str) -> None:
    changed = {f"reward__{name}": value for name, value in changes.items()}
    (found,) = warnings_of(tool_steps(**changed))
    assert says in found[1]
    assert "Turn: " in found[1]


def test_tools_of_a_mixture_are_judged_by_environment() -> None:
    parts = {"a/tool_calls": 0.0, "a/answered": 1.0, "b/tool_calls": 1.0, "b/answered": 1.0}
    steps = [step(i, **{f"reward__{part}": x for part, x in parts.items()}) for i in range(30)]
    (found,) = warnings_of(steps)
    assert "never calls" in found[1]
    assert "reward/a/tool_calls is 0.00" in found[1]


CONDITIONS = [
    pytest.param(
        {"group__zero_std": 1.0},
        ["Nothing to learn from", "env.*", "agent.group_size", "sampler.temperature"],
        id="every group flat",
    ),
    pytest.param(
        {"group__zero_std": 1.0, "reward__invalid": 1.0},
        ["no reward was valid", "The grader fails", "completions.jsonl"],
        id="every reward invalid",
    ),
    pytest.param(
        {"group__zero_std": 1.0, "reward__invalid": 0.9},
        ["every group's rewards were all equal", "env.*", "agent.group_size"],
        id="every group flat, most rewards invalid",
    ),
    pytest.param(
        {"completion__truncated": 1.0},
        ["ran out of tokens", "sampler.max_new_tokens"],
        id="every completion truncated",
    ),
    pytest.param(
        {"reward__correct": 0.0},
        ["reward/correct was 0 ", "never earns it", "env.rewards"],
        id="a part that is never earned",
    ),
    pytest.param(
        {"reward__format": 1.0},
        ["reward/format was 1 ", "always earns it", "env.*"],
        id="a part that is always earned",
    ),
    pytest.param(
        {"critic__value": 0.3, "reward__std": 0.0, "group__zero_std": 0.0},
        ["Nothing to learn from", "env.*", "agent.group_size", "sampler.temperature"],
        id="a critic, and every answer earns the same",
    ),
]


@pytest.mark.parametrize(("changes", "words"), CONDITIONS)
def test_a_condition_that_lasts_is_told_once(changes: dict[str, float], words: list[str]) -> None:
    told = warnings_of(step(i, **changes) for i in range(60))
    assert [number for number, _ in told] == [9]  # at the tenth step, and never again
    for word in words:
        assert word in told[0][1]
    assert "\n" not in told[0][1]
    assert "last 10 steps" in told[0][1] or "for 10 steps" in told[0][1]


@pytest.mark.parametrize(("changes", "words"), CONDITIONS)
def test_nine_steps_are_not_enough(changes: dict[str, float], words: list[str]) -> None:
    bad = [step(i, **changes) for i in range(9)]
    assert warnings_of([*bad, *(step(i) for i in range(9, 40))]) == [], words
    # Nine bad, one good, nine bad: never ten in a row.
    assert warnings_of([*bad, step(9), *bad]) == []


@pytest.mark.parametrize(("changes", "words"), CONDITIONS)
def test_a_condition_that_comes_later_is_told_then(
    changes: dict[str, float], words: list[str]
) -> None:
    run = [*(step(i) for i in range(25)), *(step(i, **changes) for i in range(25, 60))]
    told = warnings_of(run)
    assert [number for number, _ in told] == [34]
    assert words[0] in told[0][1]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"group__zero_std": 0.99}, id="nearly every group flat"),
        pytest.param({"group__zero_std": 1.0, "critic__value": 0.3}, id="groups of one, a critic"),
        pytest.param({"critic__explained_variance": 0.01}, id="a critic that explains a little"),
        pytest.param({"completion__truncated": 0.99}, id="nearly every completion truncated"),
        pytest.param({"reward__std": 0.4}, id="a constant spread"),
        pytest.param({"reward__invalid": 0.0}, id="no invalid reward, ever"),
        pytest.param({"completion__length": 40.0}, id="a constant length"),
        pytest.param({"reward__invalid": 0.9}, id="most rewards invalid, what is left teaches"),
        pytest.param({"loss__kl": 0.99}, id="a large KL"),
        pytest.param({"policy__sample_gap": 0.099}, id="a gap as bf16 has it at its worst"),
        pytest.param({"policy__sample_gap": 0.2, "policy__lag": 1.0}, id="older weights sampled"),
    ],
)
def test_what_is_no_reason(changes: dict[str, float]) -> None:
    assert warnings_of(step(i, **changes) for i in range(40)) == []


def test_a_critic_that_explains_nothing_is_told_once() -> None:
    told = warnings_of(step(i, critic__explained_variance=0.2 - 0.01 * i) for i in range(60))
    ((number, text),) = told
    assert number == 29  # none of steps 20 to 29 is above 0
    for words in ("explain nothing of the returns", "agent.critic.lr", "agent=grpo"):
        assert words in text


def test_each_part_is_told_for_itself() -> None:
    told = warnings_of(step(i, reward__correct=0.0, reward__format=0.0) for i in range(40))
    assert sorted(text.split(" ")[0] for _, text in told) == ["reward/correct", "reward/format"]


def test_several_reasons_at_once_are_several_lines() -> None:
    everything = {
        "group__zero_std": 1.0,
        "completion__truncated": 1.0,
        "reward__correct": 0.0,
        "reward__format": 0.0,
        "reward__mean": 0.0,
    }
    assert [number for number, _ in warnings_of(step(i, **everything) for i in range(30))] == [
        9
    ] * 4


def run_of(means: Iterable[float]) -> list[Step]:
    return [step(i, reward__mean=mean) for i, mean in enumerate(means)]


@pytest.mark.parametrize(
    ("means", "told_at"),
    [
        # A window of ten with k zeros has the mean (10 - k) / 10: below 0.6 from k = 5 on.
        pytest.param([1.0] * 20 + [0.0] * 20, [24], id="from one to nothing"),
        pytest.param([1.0] * 20 + [0.5] * 40, [28], id="by half, at 0.55"),
        pytest.param([1.0] * 20 + [0.61] * 40, [], id="by less than four tenths"),
        pytest.param([0.2] * 20 + [0.1] * 20, [28], id="by half of little"),
        pytest.param([1.0] * 20 + [0.0] * 4 + [1.0] * 20, [], id="for four steps only"),
        pytest.param([1.0, 0.0] * 20, [], id="up and down all the time"),
        pytest.param([0.0] * 40, [], id="never anything to fall from"),
        pytest.param([i / 40 for i in range(40)], [], id="rising"),
        pytest.param(
            [1.0] * 20 + [0.0] * 20 + [1.0] * 20 + [0.0] * 20, [24], id="told once, not twice"
        ),
    ],
)
def test_a_collapse_is_told_against_the_best_window(means: list[float], told_at: list[int]) -> None:
    told = warnings_of(run_of(means))
    assert [number for number, _ in told] == told_at
    for _, text in told:
        assert "The reward fell from" in text
        assert "agent.lr" in text


def test_a_collapse_names_both_means() -> None:
    # Best window 1; at step 24 five of ten are 0, and 0.5 is below 0.6.
    ((_, text),) = warnings_of(run_of([1.0] * 20 + [0.0] * 20))
    assert "fell from 1.000 to 0.500 (means of 10 steps)" in text


@pytest.mark.parametrize(
    "means",
    [
        pytest.param([-0.5] * 40, id="steady"),
        pytest.param([-1 + i / 50 for i in range(40)], id="rising"),
    ],
)
def test_a_reward_below_zero_has_not_fallen(means: list[float]) -> None:
    assert warnings_of(run_of(means)) == []


def test_a_part_that_was_seen_once_is_not_constant() -> None:
    # A step without one valid reward has no parts: group_metrics leaves them out.
    nothing = {key: value for key, value in step().items() if key != "reward/correct"}
    varied = itertools.cycle([0.1, 0.2, 0.3])
    run = [{**nothing, "reward/format": next(varied)} for _ in range(9)]
    assert warnings_of([*run, step(9)]) == []


def test_a_part_must_be_there_in_each_of_ten_steps() -> None:
    same = {**step(), "reward/format": 0.0}
    lacks = {key: value for key, value in same.items() if key != "reward/format"}
    moving = [{**x, "reward/correct": 0.01 * i} for i, x in enumerate([*[same] * 9, lacks])]
    assert warnings_of(moving) == []
    assert len(warnings_of([*moving[:9], {**same, "reward/correct": 0.5}])) == 1


# --- means over the window: KL and sample gap


def column(name: str, values: Iterable[float]) -> list[Step]:
    return [{**step(i), name: value} for i, value in enumerate(values)]


MEANS = pytest.mark.parametrize(
    ("name", "limit", "words"),
    [
        pytest.param(
            "loss/kl",
            1.0,
            ["runs away from its reference", "KL 1.50 nats", "agent.lr", "agent.loss.beta"],
            id="KL",
        ),
        pytest.param(
            "policy/sample_gap",
            0.1,
            ["Sampling and training disagree", " 0.150 ", "trainer.precision=fp32", "max_new"],
            id="sample gap",
        ),
    ],
)


@MEANS
@pytest.mark.parametrize(
    ("shares", "told_at"),
    [
        pytest.param([1.5] * 40, [9], id="from the start: when the window is full"),
        pytest.param([0.0] * 20 + [2.0] * 20, [24], id="half a window of twice the limit"),
        pytest.param([0.0] * 20 + [1.25] * 20, [27], id="four fifths of a window"),
        pytest.param([0.0] * 20 + [9.9] + [0.0] * 20, [], id="one outlier"),
        pytest.param([0.0, 1.9] * 20, [], id="up and down below the limit"),
        pytest.param([0.0] * 20 + [5.0] * 20 + [0.0] * 20 + [5.0] * 20, [21], id="once, not twice"),
    ],
)
def test_a_mean_is_told_when_it_reaches_the_limit(
    name: str, limit: float, words: list[str], shares: list[float], told_at: list[int]
) -> None:
    told = warnings_of(column(name, [limit * share for share in shares]))
    assert [number for number, _ in told] == told_at
    for _, text in told:
        assert words[0] in text


@MEANS
def test_a_mean_is_named_with_what_to_turn(name: str, limit: float, words: list[str]) -> None:
    ((_, text),) = warnings_of(column(name, [1.5 * limit] * 20))
    for word in words:
        assert word in text
    assert "mean of 10 steps" in text
    assert "\n" not in text


@MEANS
def test_what_is_not_measured_is_not_told(name: str, limit: float, words: list[str]) -> None:
    """beta=0 has no KL."""
    run = [{key: x for key, x in step(i).items() if key != name} for i in range(40)]
    assert warnings_of(run) == [], (limit, words)


# --- at once


@pytest.mark.parametrize(
    ("skipped", "told_at"),
    [
        pytest.param([1.0] * 30, [0], id="in the first step, and then in every one"),
        pytest.param([0.0] * 3 + [1.0] + [0.0] * 30, [3], id="once, before a window is full"),
        pytest.param([0.0] * 30 + [2.0, 0.0, 4.0], [30], id="some of a step's updates, late"),
        pytest.param([0.0] * 30, [], id="never"),
    ],
)
def test_a_gradient_that_is_not_finite_is_told_at_once(
    skipped: list[float], told_at: list[int]
) -> None:
    told = warnings_of(column("optim/skipped", skipped))
    assert [number for number, _ in told] == told_at
    for _, text in told:
        for word in ("not finite", "optim/skipped", "agent.lr", "trainer.precision=fp32"):
            assert word in text
        assert "\n" not in text


def test_invalid_rewards_and_then_flat_groups_are_two_reasons() -> None:
    """The grader is mended; what it then says of every group is a reason of its own."""
    broken = [step(i, group__zero_std=1.0, reward__invalid=1.0) for i in range(15)]
    flat = [step(i, group__zero_std=1.0) for i in range(15, 40)]
    told = warnings_of([*broken, *flat])
    assert [number for number, _ in told] == [9, 15]
    assert "no reward was valid" in told[0][1]
    assert "all equal" in told[1][1]


# --- memory


def told_of_memory(
    own: Iterable[float], left: float = 8000.0, steps: float = math.inf
) -> list[tuple[int, str]]:
    """(step, warning) of a run that has so much memory [MiB]; what it takes is no longer left."""
    watch, first, told = Watch(), None, []
    for i, mine in enumerate(own):
        first = mine if first is None else first
        about = {"memory/process": mine, "memory/left": left + first - mine}
        told += [(i, text) for text in watch.look({**step(i), **about}, steps - i - 1)]
    return told


def saw(i: int) -> float:
    """Up by 400 MiB over seven steps, then down again, as of a cache that is emptied."""
    return 400 * (i % 7) / 7


@pytest.mark.parametrize(
    ("own", "steps"),
    [
        pytest.param([1000.0] * 300, math.inf, id="flat"),
        pytest.param([1000 + 200 * min(i, 12) for i in range(300)], math.inf, id="warm-up"),
        pytest.param(
            [1000 + 2000 * (1 - math.exp(-i / 15)) for i in range(300)], math.inf, id="slow warm-up"
        ),
        pytest.param([1000 + saw(i) for i in range(300)], math.inf, id="sawtooth"),
        pytest.param(
            [1000 + 1500 * (i % 60) / 60 for i in range(50)], 60, id="a short run ends before"
        ),
        pytest.param(
            [1000 + 900 * (i % 20 == 0) for i in range(300)], math.inf, id="spikes of evaluations"
        ),
        pytest.param(
            [1000 + 250 * (i // 20) for i in range(200)], math.inf, id="a stair now and then"
        ),
        pytest.param([1000 + i for i in range(2000)], 2000, id="little by little, to the end"),
        pytest.param([1000 + 0.5 * i for i in range(4000)], math.inf, id="within the noise"),
        pytest.param([8000 - 20 * i for i in range(300)], math.inf, id="down"),
    ],
)
def test_healthy_memory_is_no_reason(own: list[float], steps: float) -> None:
    assert told_of_memory(own, steps=steps) == []


@pytest.mark.parametrize(
    ("own", "told_at"),
    [
        pytest.param([1000 + 20 * i for i in range(300)], [39], id="from the start"),
        pytest.param([1000 + 20 * i + saw(i) for i in range(300)], [39], id="below a sawtooth"),
        pytest.param([1000 + 20 * max(0, i - 100) for i in range(300)], [126], id="later"),
        pytest.param(
            [1000 + 20 * i + 900 * (i % 10 == 0) for i in range(300)], [39], id="with evaluations"
        ),
    ],
)
def test_a_leak_is_told_once_and_while_there_is_time(own: list[float], told_at: list[int]) -> None:
    told = told_of_memory(own)
    assert [number for number, _ in told] == told_at
    (_, text) = told[0]
    for word in ("env.rewards", "resume=auto", "MiB a step"):
        assert word in text
    assert "\n" not in text


def test_a_leak_names_its_pace_and_what_is_left() -> None:
    # After 40 steps of 20 MiB: 8000 - 39 * 20 are left, and that is 361 times 20.
    ((_, text),) = told_of_memory([1000 + 20 * i for i in range(300)])
    assert "grows by 20 MiB a step, and 7,220 MiB are left: enough for 361 steps more." in text


def test_where_no_memory_is_measured_none_is_told_of() -> None:
    assert warnings_of({**step(i), "memory/process": 1000.0 + 90 * i} for i in range(100)) == []
