"""From an environment's `score` to rewards that a run can trust.

Composition is declared: an environment names its parts with a default weight each, and
`env.rewards={correct: 1.0, format: 0.1}` in the configuration changes the weights.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from grpo_envs.errors import ContractBroken, require, unknown
from grpo_envs.types import Problem, Reply, Reward, Turn

ScoreBatch = Callable[[Sequence[Problem], Sequence[str]], list[Reward]]


def weights_from(
    declared: Mapping[str, float], given: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the declared weights with the given ones in their place.

    Raises:
        UnknownName: a given part is not declared; the message lists the parts.
    """
    for name, weight in (given or {}).items():
        if name not in declared:
            raise unknown("reward part", name, declared)
        finite = isinstance(weight, int | float) and math.isfinite(weight)
        require(finite, f"env.rewards.{name}", weight, "a finite number")
    return {**declared, **{name: float(weight) for name, weight in (given or {}).items()}}


def settle(reward: Reward, weights: Mapping[str, float]) -> Reward:
    """Attach the weights; a part that is not finite makes the reward invalid.

    Raises:
        ContractBroken: `score` returned a part that the environment does not declare.
    """
    if not reward.valid:
        return reward
    for name, value in reward.parts.items():
        if name not in weights:
            raise ContractBroken(f"score returned {unknown('reward part', name, weights)}")
        if not math.isfinite(value):
            return Reward(valid=False, error=f"reward part {name!r} is {value}")
    return dataclasses.replace(reward, weights=weights)


def score_safely(
    score_batch: ScoreBatch, problems: Sequence[Problem], answers: Sequence[str]
) -> list[Reward]:
    """Score a batch so that an answer whose grading raises costs that answer only.

    `score` promises not to raise; when it does all the same, the reward is invalid with the
    exception as its cause, and the batch is halved until the culprit stands alone.
    """
    try:
        rewards = score_batch(problems, answers)
    except Exception as error:  # noqa: BLE001  the one place where a grader's failure becomes data
        if len(answers) == 1:
            return [Reward(valid=False, error=f"{type(error).__name__}: {error}")]
    else:
        if len(rewards) != len(answers):
            counts = f"{len(rewards)} rewards for {len(answers)} answers"
            raise ContractBroken(f"score_batch returned {counts}.")
        return rewards
    middle = len(answers) // 2
    return score_safely(score_batch, problems[:middle], answers[:middle]) + score_safely(
        score_batch, problems[middle:], answers[middle:]
    )


def respond_safely(
    respond: Callable[[Problem, Sequence[Turn]], Reply], problem: Problem, turns: Sequence[Turn]
) -> Reply:
    """The same for one turn of a conversation: a `respond` that raises ends it, invalid."""
    try:
        return respond(problem, turns)
    except Exception as error:  # noqa: BLE001  see score_safely
        return Reply(reward=Reward(valid=False, error=f"{type(error).__name__}: {error}"))
