"""What an evaluation says: accuracy, pass@k and their intervals, by hand and by brute force."""

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from grpo_envs.env.rewards import Part
from grpo_envs.loggers.basic import ConsoleLogger
from grpo_envs.runs.statistics import mean_of, pass_at_k, share_of, wilson
from grpo_envs.training.evaluation import differences, estimates, eval_metrics
from grpo_envs.types import Reward

WEIGHTS = {"correct": 1.0, "format": 0.1}
OWN = {name: Part(weight=weight) for name, weight in WEIGHTS.items()}
BROKEN = Reward(valid=False, error="sandbox down")


def row(problem: int, reward: Reward, tokens: int = 1, **more: Any) -> dict[str, Any]:
    """An answer, as in eval_completions.jsonl."""
    return {
        "decoding": "greedy",
        "problem": problem,
        "prompt": f"question {problem}",
        "meta": {},
        "reward": reward.total,
        "parts": dict(reward.parts),
        "valid": reward.valid,
        "finish_reason": "stop",
        "tokens": tokens,
        **more,
    }


def earned(correct: float, form: float) -> Reward:
    return Reward(parts={"correct": correct, "format": form}, weights=WEIGHTS)


def test_eval_metrics_by_hand() -> None:
    rewards = [earned(1, 1), earned(0, 1), BROKEN, earned(1, 1)]
    rows = [row(i, reward, (4, 6, 8, 2)[i]) for i, reward in enumerate(rewards)]
    rows[1]["finish_reason"] = "length"
    # p = 1/2, n = 4, z = 1.96: z / (1 + z^2 / 4) * sqrt(1/16 + z^2 / 64) = 0.349964
    # rewards 1.1, 0.1, 0, 1.1: 1.96 * sqrt(2.43 / 4 - 0.575^2) / sqrt(4) = 0.515665
    assert eval_metrics(rows, OWN) == pytest.approx(
        {
            "eval/accuracy": 0.5,
            "eval/ci95": 0.349964,
            "eval/reward": 0.575,
            "eval/reward_ci95": 0.515665,
            "eval/reward/correct": 0.5,
            "eval/reward/format": 0.75,
            "eval/length": 5.0,
            "eval/truncated": 0.25,
            "eval/invalid": 0.25,
        },
        abs=1e-5,
    )


def test_an_invalid_answer_is_never_accurate() -> None:
    # Its total is 0, and so is the maximum of an environment that only punishes.
    rows = [row(0, BROKEN), row(1, Reward(parts={"a": 1.0}, weights={"a": -1.0}))]
    assert eval_metrics(rows, {"a": Part(weight=-1.0)})["eval/accuracy"] == 0.0


def test_accuracy_forgives_rounding_and_nothing_more() -> None:
    # 0.1 + 0.2 is not 0.3 in floats, and is the maximum all the same.
    own = {"a": Part(weight=0.3)}
    close = Reward(parts={"a": (0.1 + 0.2) / 0.3})
    short = Reward(parts={"a": 0.9999})
    assert eval_metrics([row(0, close)], own)["eval/accuracy"] == 1.0
    assert eval_metrics([row(0, short)], own)["eval/accuracy"] == 0.0


def test_accuracy_is_about_the_environments_own_parts() -> None:
    # A penalty that was added makes no right answer wrong, and a bonus no wrong one right.
    penalised = Reward(parts={"correct": 1.0, "length": 1.0}, weights={"length": -0.5})
    bonus = Reward(parts={"correct": 0.0, "length": 1.0}, weights={"length": 1.0})
    for reward, accuracy in ((penalised, 1.0), (bonus, 0.0)):
        assert eval_metrics([row(0, reward)], {"correct": Part()})["eval/accuracy"] == accuracy


def test_a_nan_in_an_invalid_reward_does_not_reach_the_metrics() -> None:
    broken = Reward(parts={"a": math.nan}, valid=False, error="score said so itself")
    metrics = eval_metrics([row(0, broken), row(1, Reward(parts={"a": 1.0}))], {"a": Part()})
    assert all(math.isfinite(value) for value in metrics.values())


def test_problems_are_told_apart_by_what_their_meta_says() -> None:
    metas = [{"env": "math", "level": 1}, {"env": "math", "level": 2}, {"env": "code"}]
    rows = [row(i, earned(i % 2, 1), meta=meta) for i, meta in enumerate(metas)]
    found = estimates(rows, OWN)
    told = {name: found[name].mean for name in found if name.startswith("accuracy/")}
    assert told == {
        "accuracy/code": 0.0,
        "accuracy/math": 0.5,
        "accuracy/math/level_1": 0.0,
        "accuracy/math/level_2": 1.0,
    }
    only = estimates([row(0, earned(1, 1), meta={"topic": "x"})], OWN, ["topic"])
    assert only["accuracy/topic_x"].mean == 1.0


# Sampled answers


def sampled(rights: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Rows of problems whose answers are right (1) or wrong (0)."""
    return [
        row(problem, earned(right, 1), decoding="sampled")
        for problem, answers in enumerate(rights)
        for right in answers
    ]


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_one(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
        assert pass_at_k(n, right, k) == pytest.approx(fmean(map(any, draws)))


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_refuses_what_cannot_be_known(k: int) -> None:
    with pytest.raises(ValueError, match=rf"^k={k} of 2 answers\. Allowed: 1 to 2\.$"):
        pass_at_k(2, 1, k)


def test_pass_at_k_by_hand() -> None:
    # Right: 1 of 3, 3 of 3, 0 of 3. pass@2: 1 - C(2,2)/C(3,2) = 2/3, 1, 0. pass@3: 1, 1, 0.
    metrics = eval_metrics(sampled([[1, 0, 0], [1, 1, 1], [0, 0, 0]]), OWN)
    assert metrics["eval/pass@1"] == pytest.approx(4 / 9)
    assert metrics["eval/pass@2"] == pytest.approx(5 / 9)
    assert metrics["eval/pass@3"] == pytest.approx(2 / 3)
    assert metrics["eval/sampled_reward"] == pytest.approx(4 / 9 + 0.1)
    assert "eval/pass@4" not in metrics
    assert "eval/accuracy" not in metrics


def test_k_goes_up_to_the_least_number_of_answers() -> None:
    # Two answers to the first problem and three to the second: pass@3 of the first is not known.
    # Right: 1 of 2 and 1 of 3. pass@1: 1/2, 1/3. pass@2: 1 and 1 - C(2,2)/C(3,2) = 2/3.
    metrics = eval_metrics(sampled([[1, 0], [0, 1, 0]]), OWN)
    assert metrics["eval/pass@1"] == pytest.approx(5 / 12)
    assert metrics["eval/pass@2"] == pytest.approx(5 / 6)
    assert "eval/pass@3" not in metrics


# Intervals


@pytest.mark.parametrize("n", [1, 4, 100, 1319])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_wilson_against_the_quadratic_it_solves(share: float, n: int) -> None:
    # The ends x of the interval satisfy (share - x)^2 = z^2 x (1 - x) / n.
    z2 = 1.96**2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)
    centre, half = wilson(share, n)
    assert (centre - half, centre + half) == pytest.approx((low, high), abs=1e-7)


def test_answers_to_one_problem_are_no_independent_trials() -> None:
    # Four problems, each answered 50 times with the same outcome: as sure as four answers.
    alike = share_of({str(i): [float(i % 2)] * 50 for i in range(4)})
    once = share_of({str(i): [float(i % 2)] for i in range(4)})
    assert (alike.low, alike.high) == pytest.approx((once.low, once.high))
    # The same prompt drawn twice is one problem, whatever its numbers are.
    rows = [row(i, earned(i % 2, 1), prompt=f"question {i % 2}") for i in range(40)]
    assert estimates(rows, OWN)["accuracy"].half_width == pytest.approx(wilson(0.5, 2)[1])


def test_an_interval_without_spread_is_not_empty() -> None:
    always = share_of({str(i): [1.0] * 8 for i in range(20)})
    assert (always.mean, always.high) == (1.0, 1.0)
    assert always.low == pytest.approx(20 / (20 + 1.96**2))  # Wilson's for 20 of 20


@pytest.mark.parametrize("kind", [mean_of, share_of], ids=["mean_of", "share_of"])
def test_intervals_hold_the_truth_in_95_of_100_evaluations(kind: Any) -> None:
    # Each problem has a chance of its own, and 4 answers: the truth is the mean chance, 0.5.
    rng = random.Random(0)
    held = 0
    for _ in range(1000):
        chances = [rng.betavariate(0.8, 0.8) for _ in range(100)]
        values = {str(i): [float(rng.random() < p)] * 1 for i, p in enumerate(chances)}
        for i, p in enumerate(chances):
            values[str(i)] += [float(rng.random() < p) for _ in range(3)]
        estimate = kind(values)
        held += estimate.low <= 0.5 <= estimate.high
    assert 0.93 <= held / 1000 <= 0.97


def test_uneven_clusters_by_hand() -> None:
    # Values 1, 1 and 0: mean 2/3; sums off the mean 2/3 and -2/3; error sqrt(8/9) / 3 = 0.314270.
    estimate = mean_of({"a": [1.0, 1.0], "b": [0.0]})
    assert estimate.mean == pytest.approx(2 / 3)
    assert estimate.half_width == pytest.approx(1.96 * 0.314270, abs=1e-5)


def test_a_difference_is_paired_and_says_how_much_more_b_has() -> None:
    a = [row(i, earned(right, 1)) for i, right in enumerate((0, 0, 1, 1))]
    b = [row(i, earned(right, 1)) for i, right in enumerate((1, 1, 1, 0, 1))]  # one more problem
    gain = differences(a, b, OWN)["accuracy"]
    # Gains 1, 1, 0, -1: mean 1/4; error sqrt((0.75^2 * 2 + 0.25^2 + 1.25^2) / 4) / sqrt(4).
    assert gain.mean == pytest.approx(0.25)
    assert gain.high == pytest.approx(0.25 + 1.96 * math.sqrt(2.75 / 16))
    assert differences(b, a, OWN)["accuracy"].mean == pytest.approx(-0.25)


def test_where_no_answer_was_graded_nothing_is_known_of_rewards() -> None:
    """Neither 0 nor 1: lengths alone; a stratum without a grade has no accuracy either."""
    rows = [row(i, BROKEN, 3) for i in range(4)]
    rows += [{**row(i, BROKEN, 3), "decoding": "sampled"} for i in range(4)]
    assert eval_metrics(rows, OWN) == {
        "eval/length": 3.0,
        "eval/truncated": 0.0,
        "eval/sampled_length": 3.0,
        "eval/sampled_truncated": 0.0,
        "eval/invalid": 1.0,
    }
    levels = [row(0, earned(1, 1), meta={"level": 1}), row(1, BROKEN, meta={"level": 2})]
    found = estimates(levels, OWN)
    assert found["accuracy/level_1"].mean == 1.0
    assert "accuracy/level_2" not in found
    assert eval_metrics(levels, OWN)["eval/invalid"] == 0.5


def test_the_console_says_that_no_answer_was_graded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [row(i, BROKEN, error="sandbox\ndown") for i in range(4)]
    some = [*broken[:1], row(1, earned(1, 1))]
    logger = ConsoleLogger(tmp_path, 3, 0)
    with caplog.at_level("INFO", "grpo_envs"):
        for step, rows in enumerate((broken, some)):
            logger.log_eval(step, eval_metrics(rows, OWN), rows)
    first, second = caplog.messages
    assert first == (
        "held-out accuracy after 0 steps: unknown, as no reward is valid (sandbox\\ndown)"
    )
    assert second.startswith("held-out accuracy after 1 steps: 0.500 +- ")
    assert second.endswith("; 50.0% of the rewards are invalid and count as wrong")
    logger.close()  # side by side: the first has no accuracy
