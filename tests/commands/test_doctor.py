"""The doctor sees why real runs failed, which were made to fail in known ways (failing_runs.py)."""

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.doctor import diagnose
from grpo_envs.runs.record import Record, read_record
from tests.support.failing_runs import RUNS

FOLDER = Path(__file__).parents[1] / "data" / "runs"


@pytest.mark.parametrize("name", RUNS)
def test_the_first_finding_is_the_way_it_was_made_to_fail(name: str) -> None:
    found = diagnose(read_record(FOLDER / name))
    assert (found[0].name if found else None) == RUNS[name].finding
    for finding in found:
        assert any(character.isdigit() for character in finding.evidence)
        assert finding.turn


def test_at_least_ten_ways_are_known() -> None:
    assert len({run.finding for run in RUNS.values()} - {None}) >= 10
    assert {path.name for path in FOLDER.iterdir()} == RUNS.keys()


def test_the_command_says_it_in_words() -> None:
    command = [sys.executable, "-m", "grpo_envs.doctor", str(FOLDER / "truncated")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1. Most answers run out of tokens" in done.stdout
    assert "turn: sampler.max_new_tokens up" in done.stdout
    healthy = subprocess.run(
        [*command[:-1], str(FOLDER / "healthy")], capture_output=True, text=True, check=False
    )
    assert healthy.returncode == 0
    assert "The rules find nothing wrong." in healthy.stdout
    nowhere = str(FOLDER / "nowhere")
    none = subprocess.run([*command[:-1], nowhere], capture_output=True, text=True, check=False)
    assert none.returncode == 2
    assert len(none.stderr.splitlines()) == 1
    assert "Give the folder of a run." in none.stderr


def made_of(steps: int, **columns: Callable[[int], float]) -> Record:
    """A run whose metrics are functions of the step."""
    names = {key: key.replace("__", "/") for key in columns}
    rows = [
        {"step": i, "reward/invalid": 0.0, **{names[k]: f(i) for k, f in columns.items()}}
        for i in range(1, steps + 1)
    ]
    about = {"weights": {"correct": 1.0}, "own": ["correct"]}
    return Record(Path("run"), rows, [], {}, about, "done")


def test_a_run_that_has_learnt_its_task_is_not_ill() -> None:
    learnt = made_of(
        40,
        reward__mean=lambda i: min(1.0, i / 30),
        reward__correct=lambda i: min(1.0, i / 30),
        group__zero_std=lambda i: float(i > 30),
    )
    assert [finding.name for finding in diagnose(learnt)] == []
    known = made_of(
        40,
        reward__mean=lambda i: 1.0,
        reward__correct=lambda i: 1.0 - (i % 2) / 100,
        group__zero_std=lambda i: 0.95,
    )
    assert [finding.name for finding in diagnose(known)] == ["too easy"]


@pytest.mark.parametrize(
    ("calls", "errors", "repeats", "answered", "found"),
    [
        pytest.param(1.0, 0.4, 0.4, 0.9, [], id="tools at work"),
        pytest.param(0.01, 0.0, 0.0, 1.0, ["never calls"], id="never"),
        pytest.param(0.02, 0.0, 0.0, 1.0, [], id="now and then"),
        pytest.param(1.0, 0.0, 0.0, 0.09, ["only calls"], id="only calls"),
        pytest.param(0.9, 0.0, 0.0, 0.09, [], id="neither calls nor answers"),
        pytest.param(1.0, 0.5, 0.0, 0.5, ["calls fail"], id="they fail"),
        pytest.param(2.0, 0.0, 1.0, 0.5, ["same call"], id="the same again"),
        pytest.param(4.0, 4.0, 3.0, 0.0, ["only calls", "calls fail", "same call"], id="all of it"),
    ],
)
def test_how_tools_are_used(
    calls: float, errors: float, repeats: float, answered: float, found: list[str]
) -> None:
    run = made_of(
        40,
        reward__mean=lambda i: 0.3 + i / 100,
        reward__correct=lambda i: 0.3 + i / 100,
        reward__tool_calls=lambda i: calls,
        reward__tool_errors=lambda i: errors,
        reward__tool_repeats=lambda i: repeats,
        reward__answered=lambda i: answered,
    )
    assert [finding.name for finding in diagnose(run)] == found


def test_who_needs_no_tool_is_not_ill() -> None:
    run = made_of(
        40,
        reward__mean=lambda i: 0.5 + min(i, 30) / 60,
        reward__correct=lambda i: 0.5 + min(i, 30) / 60,
        reward__tool_calls=lambda i: 0.0,
    )
    assert diagnose(run) == []


# Each limit at its edge. A run has 40 steps: the first and the last quarter are ten of them each.


def above(value: float) -> float:
    """A number that is a little larger, also as the mean of ten."""
    return value + 1e-9


def below(value: float) -> float:
    """One that is a little smaller."""
    return value - 1e-9


def ill(
    changes: Mapping[str, float | tuple[float, float] | Sequence[float]],
    *,
    steps: int = 40,
    weights: Mapping[str, float] | None = None,
    evals: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """The names of what is wrong with a run that is healthy but for some metrics.

    A number is a metric's value in every step, a pair that of the first and of the second half, a
    longer sequence has one of each step. `evals` are accuracies and half widths.
    """
    healthy: dict[str, Any] = {
        "reward/mean": (0.3, 0.6),
        "reward/correct": (0.2, 0.5),
        "reward/format": (0.75, 0.8),
        "reward/invalid": 0.0,
        "group/zero_std": 0.5,
        "completion/length": 40.0,
        "completion/truncated": 0.1,
        "loss/kl": 0.02,
        "policy/sample_gap": 1e-6,
    }
    rows: list[dict[str, Any]] = [{"step": i} for i in range(1, steps + 1)]
    for name, told in {**healthy, **changes}.items():
        given = (told, told) if isinstance(told, float) else tuple(told)
        column = given if len(given) > 2 else [given[2 * i // steps] for i in range(steps)]
        for row, value in zip(rows, column, strict=True):
            if not math.isnan(value):
                row[name] = value
    about = {"weights": weights or {"correct": 1.0, "format": 0.1}, "own": ["correct"]}
    checked = [{"eval/accuracy": share, "eval/ci95": half} for share, half in evals]
    run = Record(Path("nowhere"), rows, checked, {"trainer.steps": 100}, about, "done")
    return [symptom.name for symptom in diagnose(run)]


def test_a_healthy_run_has_nothing() -> None:
    assert ill({}) == []
    assert ill({}, evals=[(0.5, 0.1), (0.6, 0.1)]) == []


Change = Mapping[str, float | tuple[float, float] | Sequence[float]]
FLAT = {"group/zero_std": 0.9, "reward/correct": (0.5, 0.5)}


@pytest.mark.parametrize(
    ("name", "silent", "ill_at"),
    [
        pytest.param(
            "invalid rewards",
            {"reward/invalid": [0.0] * 39 + [0.01]},
            {"reward/invalid": [above(0.01)] + [0.0] * 39},
            id="invalid: above 1 % in the worst step",
        ),
        pytest.param(
            "not finite",
            {"optim/skipped": 0.0},
            {"optim/skipped": [0.0] * 7 + [1.0] + [0.0] * 32},
            id="not finite: one update of one step",
        ),
        pytest.param(
            "truncated",
            {"completion/truncated": (1.0, below(0.5))},
            {"completion/truncated": (0.0, 0.5)},
            id="truncated: half of the answers at last",
        ),
        pytest.param(
            "KL runaway", {"loss/kl": below(1.0)}, {"loss/kl": 1.0}, id="KL: 1 nat a token"
        ),
        pytest.param(
            "sampling gap",
            {"policy/sample_gap": below(0.1)},
            {"policy/sample_gap": 0.1},
            id="gap: 0.1 nats a token",
        ),
        pytest.param(
            "collapse",
            {"reward/mean": (1.0, 0.6)},
            {"reward/mean": (1.0, below(0.6))},
            id="collapse: below six tenths of the best",
        ),
        pytest.param(
            "collapse",
            {"reward/mean": (0.125, 0.025)},
            {"reward/mean": (0.125, 0.0)},
            id="collapse: by more than 0.1",
        ),
        pytest.param(
            "collapse",
            {"reward/mean": (0.0, -1.0)},
            {"reward/mean": (0.5, -1.0)},
            id="collapse: from above 0",
        ),
        pytest.param(
            "same answers",
            FLAT | {"group/zero_std": below(0.9)},
            FLAT,
            id="flat: nine tenths of the groups",
        ),
        pytest.param(
            "same answers",
            FLAT | {"reward/invalid": (0.0, 0.5)},
            FLAT | {"reward/invalid": (0.0, below(0.5))},
            id="flat: for half of the rewards invalid it is the grader",
        ),
        pytest.param(
            "too easy",
            FLAT | {"reward/correct": (0.9, 0.95)},
            FLAT | {"reward/correct": (above(0.9), 0.95)},
            id="too easy: known at first",
        ),
        pytest.param(
            "too easy",
            FLAT | {"reward/correct": (0.95, 0.9)},
            FLAT | {"reward/correct": (0.95, above(0.9))},
            id="too easy: known at last",
        ),
        pytest.param(
            "too hard",
            FLAT | {"reward/correct": (0.1, 0.0)},
            FLAT | {"reward/correct": (below(0.1), 0.0)},
            id="too hard: never right at first",
        ),
        pytest.param(
            "too hard",
            FLAT | {"reward/correct": (0.0, 0.1)},
            FLAT | {"reward/correct": (0.0, below(0.1))},
            id="too hard: never right at last",
        ),
        pytest.param(
            "same answers",
            FLAT | {"reward/correct": (0.5, above(0.9))},
            FLAT | {"reward/correct": (0.5, 0.9)},
            id="same answers: not where the task is learnt",
        ),
        pytest.param(
            "longer, not better",
            {"completion/length": (10.0, below(14.0)), "reward/correct": 0.5},
            {"completion/length": (10.0, 14.0), "reward/correct": 0.5},
            id="longer: 1.4 times",
        ),
        pytest.param(
            "longer, not better",
            {"completion/length": (8.0, below(12.0)), "reward/correct": 0.5},
            {"completion/length": (8.0, 12.0), "reward/correct": 0.5},
            id="longer: by four tokens",
        ),
        pytest.param(
            "longer, not better",
            {"completion/length": (10.0, 20.0), "reward/correct": (0.0, 0.05)},
            {"completion/length": (10.0, 20.0), "reward/correct": (0.0, below(0.05))},
            id="longer: for a gain of less than 0.05",
        ),
        pytest.param(
            "shape only",
            {"reward/format": (0.0, 0.1), "reward/correct": (0.2, 0.2)},
            {"reward/format": (0.0, above(0.1)), "reward/correct": (0.2, 0.2)},
            id="shape only: the part rises by more than 0.1",
        ),
        pytest.param(
            "shape only",
            {"reward/format": (0.0, 0.5), "reward/correct": (0.0, above(0.05))},
            {"reward/format": (0.0, 0.5), "reward/correct": (0.0, 0.05)},
            id="shape only: the task by no more than 0.05",
        ),
        pytest.param(
            "shape only",
            {"reward/format": (0.0, 0.5), "reward/correct": (0.5, 0.5)},
            {"reward/format": (0.0, 0.5), "reward/correct": (below(0.5), below(0.5))},
            id="shape only: the task is right in less than half",
        ),
        pytest.param(
            "standing still",
            {"loss/kl": above(1e-4), "reward/mean": 0.5},
            {"loss/kl": 1e-4, "reward/mean": 0.5},
            id="still: the KL",
        ),
        pytest.param(
            "standing still",
            {"loss/kl": 0.0, "reward/mean": (0.0, above(0.02))},
            {"loss/kl": 0.0, "reward/mean": (0.0, 0.02)},
            id="still: the reward upwards",
        ),
        pytest.param(
            "standing still",
            {"loss/kl": 0.0, "reward/mean": (0.0, below(-0.02))},
            {"loss/kl": 0.0, "reward/mean": (0.0, -0.02)},
            id="still: the reward downwards",
        ),
        pytest.param(
            "standing still",
            {"loss/kl": 0.0, "reward/mean": 0.5, "group/zero_std": 0.9},
            {"loss/kl": 0.0, "reward/mean": 0.5, "group/zero_std": below(0.9)},
            id="still: not where the groups are flat",
        ),
        pytest.param(
            "standing still",
            {"loss/kl": math.nan, "reward/mean": 0.5},
            {"loss/kl": 0.0, "reward/mean": 0.5},
            id="still: not where no KL is measured",
        ),
        pytest.param(
            "standing still",
            {"loss/kl": 0.0, "reward/mean": 0.5, "group/zero_std": 1.0},
            {"loss/kl": 0.0, "reward/mean": 0.5, "group/zero_std": 1.0, "critic/value": 0.5},
            id="still: with a critic zero-variance groups are no reason",
        ),
        pytest.param(
            "blind critic",
            {"critic/explained_variance": (-1.0, above(0.0))},
            {"critic/explained_variance": (1.0, 0.0)},
            id="blind: at last the values explain nothing",
        ),
        pytest.param(
            "constant part",
            {"reward/format": [0.0] * 39 + [above(0.0)]},
            {"reward/format": 0.0},
            id="constant: in every step",
        ),
        pytest.param(
            "constant part",
            {"reward/format": 1.0},
            {"reward/format": below(1.0)},
            id="constant: always earned is fine",
        ),
    ],
)
def test_each_limit_at_its_edge(name: str, silent: Change, ill_at: Change) -> None:
    assert name not in ill(silent)
    assert name in ill(ill_at)


@pytest.mark.parametrize(
    ("steps", "name", "change"),
    [
        pytest.param(20, "standing still", {"loss/kl": 0.0, "reward/mean": 0.5}, id="still: 20"),
        pytest.param(5, "constant part", {"reward/format": 0.0}, id="constant: 5"),
    ],
)
def test_so_many_steps_are_enough_and_one_less_is_not(
    steps: int, name: str, change: Change
) -> None:
    assert name in ill(change, steps=steps)
    assert name not in ill(change, steps=steps - 1)


def test_the_first_step_that_was_not_finite_is_named() -> None:
    skips = made_of(9, optim__skipped=lambda i: float(i in (4, 7)))
    (symptom,) = diagnose(skips)
    assert symptom.evidence == "2 of 9 steps, the first is step 4"


def test_a_part_that_is_punished_is_constant_where_it_is_always_there() -> None:
    weights = {"correct": 1.0, "format": -0.5}
    assert ill({"reward/format": 0.0}, weights=weights) == []
    assert ill({"reward/format": 1.0}, weights=weights) == ["constant part"]
    assert ill({"reward/format": 0.5}, weights={"correct": 1.0, "format": 0.0}) == []


def test_a_part_without_a_weight_above_0_is_no_shape() -> None:
    change = {"reward/format": (0.0, 0.5), "reward/correct": (0.2, 0.21)}
    assert ill(change, weights={"correct": 1.0, "format": 0.1}) == ["shape only"]
    assert ill(change, weights={"correct": 1.0, "format": 0.0}) == []


def test_accuracy_must_fall_by_more_than_its_noise_while_the_reward_rises() -> None:
    name, rises = "reward without accuracy", {"reward/mean": (0.0, above(0.05))}
    fell = [(0.625, 0.375), (0.0, 0.5)]  # the root of 0.375^2 + 0.5^2 is 0.625
    further = [(above(0.625), 0.375), (0.0, 0.5)]
    assert ill(rises, evals=further) == [name]
    assert ill(rises, evals=fell) == []
    assert ill({"reward/mean": (0.0, 0.05)}, evals=further) == []
    assert ill(rises, evals=further[:1]) == []


def memory(left: float, rise: float = 20.0) -> Change:
    """40 steps, each of which takes more memory than the one before."""
    return {"memory/process": [1000 + rise * i for i in range(40)], "memory/left": left}


def test_a_leak_is_seen_where_the_steps_to_come_have_no_room() -> None:
    """60 steps are to come: 20 MiB each are 1,200."""
    assert ill(memory(1200.0)) == []
    assert ill(memory(below(1200.0))) == ["leak"]
    assert ill(memory(1000.0, rise=0.0)) == []


def test_the_quarters_have_at_most_twenty_steps() -> None:
    late = [0.0] * 80 + [1.0] * 20
    assert "truncated" in ill({"completion/truncated": late}, steps=100)
    assert "truncated" not in ill({"completion/truncated": [0.0] * 91 + [1.0] * 9}, steps=100)
    assert "truncated" in ill({"completion/truncated": [0.0] * 90 + [1.0] * 10}, steps=100)
    assert "KL runaway" in ill({"loss/kl": [0.0] * 39 + [10.0]})
    assert "KL runaway" not in ill({"loss/kl": [0.0] * 39 + [below(10.0)]})
