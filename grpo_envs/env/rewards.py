"""From an environment's `score` to checked, weighted rewards.

An environment declares its parts with default weights. `env.rewards` in the configuration changes
the weights, or adds reward functions of installed packages:

    env.rewards={correct: 1.0, format: 0.1, repetition: -0.5, length: {weight: -0.2, most: 300}}
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grpo_envs.errors import ContractBroken, require, unknown
from grpo_envs.types import Problem, Reply, Reward, Turn, compare_rewards

_P = TypeVar("_P")
SHAPING = ("weight", "scale", "clip")
"""Keys that every part may have."""
ACCURACY = "accuracy"
"""The part with 1 for a right answer and 0 for a wrong one, if an environment has it."""
_BOUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How a part counts: weight * clip(scale * raw)."""

    weight: float = 1.0
    scale: float | tuple[float, float] = 1.0
    """A factor, or the raw values [least, most] that count as 0 and 1."""
    clip: tuple[float, float] = (-math.inf, math.inf)

    def shaped(self, raw: float) -> float:
        """Return the raw value scaled and clipped, as logged under the part's name.

        >>> Part(scale=0.01, clip=(0, 1)).shaped(250), Part(scale=(1, 5)).shaped(4)
        (1, 0.75)
        """
        low, high = self.clip
        if isinstance(self.scale, tuple):
            value = (raw - self.scale[0]) / (self.scale[1] - self.scale[0])
        else:
            value = self.scale * raw
        return low if value < low else high if value > high else value

    @property
    def values(self) -> tuple[float, float]:
        """The least and the most of `shaped`, for raw values in [0, 1] or in the scale's range."""
        ends = self.scale if isinstance(self.scale, tuple) else (0.0, 1.0)
        low, high = sorted(map(self.shaped, ends))
        return low, high

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most that the part adds to a reward."""
        low, high = sorted(self.weight * value for value in self.values)
        return low, high


def part_from(name: str, given: object, usual: float = 1.0) -> Part:
    """Read a part's value in `env.rewards`: a weight, or a mapping of weight, scale and clip.

    Raises:
        ConfigError: a value is not allowed; the message names the key.

    >>> part_from("length", {"weight": -0.2, "clip": [0, 1]})
    Part(weight=-0.2, scale=1.0, clip=(0.0, 1.0))
    """
    key = f"env.rewards.{name}"
    values: Mapping[str, Any] = given if isinstance(given, Mapping) else {"weight": given}
    weight = values.get("weight", usual)
    require(_finite(weight), key if values is not given else f"{key}.weight", weight, _NUMBER)
    how: dict[str, Any] = {"weight": float(weight)}
    if "scale" in values:
        how["scale"] = scale_from(f"{key}.scale", values["scale"])
    if "clip" in values:
        clip = values["clip"]
        require(_pair(clip) and clip[0] <= clip[1], f"{key}.clip", clip, "[least, most]")
        how["clip"] = (float(clip[0]), float(clip[1]))
    return Part(**how)


def scale_from(key: str, given: Any) -> float | tuple[float, float]:
    """Read a scale: a factor, or the raw values that count as 0 and 1.

    Raises:
        ConfigError: the value is neither.
    """
    if _pair(given) and given[0] < given[1]:
        return float(given[0]), float(given[1])
    require(_finite(given), key, given, f"{_NUMBER}, or [least, most]")
    return float(given)


_NUMBER = "a finite number"


def _pair(value: Any) -> bool:
    sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return sequence and len(value) == _BOUNDS and all(map(_finite, value))


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def settle(reward: Reward, parts: Mapping[str, Part], weights: Mapping[str, float]) -> Reward:
    """Shape the parts and attach the weights; a part that is not finite makes the reward invalid.

    Raises:
        ContractBroken: `score` returned a part that the environment does not declare.
    """
    if not reward.valid:
        return reward
    shaped = {}
    for name, value in reward.parts.items():
        if name not in parts:
            raise ContractBroken(f"score returned {unknown('reward component', name, parts)}")
        if not math.isfinite(value):
            return Reward(valid=False, error=f"reward component {name!r} is {value}")
        if name == ACCURACY and value not in (0, 1):
            return Reward(valid=False, error=f"reward component {name!r} is {value}, not 1 or 0")
        shaped[name] = parts[name].shaped(value)
    return Reward(parts=shaped, weights=weights, note=reward.note)


def merged(rewards: Sequence[Reward]) -> Reward:
    """Return one reward with the parts and notes of all; invalid if one of them is invalid."""
    failed = next((reward for reward in rewards if not reward.valid), None)
    parts = {name: value for reward in rewards for name, value in reward.parts.items()}
    note = "; ".join(reward.note for reward in rewards if reward.note)
    return failed or dataclasses.replace(rewards[0], parts=parts, note=note)


def summed(rewards: Sequence[Reward]) -> Reward:
    """Return the sum of the rewards of an episode's turns, part by part.

    The notes of several turns are joined, each with the number of its turn. The sum is invalid if
    one of the rewards is invalid. An episode without a turn earns nothing.
    """
    if not rewards:
        return Reward()
    failed = [reward for reward in rewards if not reward.valid]
    if failed or len(rewards) == 1:
        return (failed or rewards)[0]
    names = {name for reward in rewards for name in reward.parts}
    parts = {
        name: math.fsum(reward.parts.get(name, 0.0) for reward in rewards) for name in sorted(names)
    }
    notes = [f"turn {n}: {reward.note}" for n, reward in enumerate(rewards, 1) if reward.note]
    return Reward(parts=parts, weights=rewards[-1].weights, note="; ".join(notes))


def is_right(reward: Reward, own: Mapping[str, Part]) -> bool:
    """Return whether an answer is right, as accuracy and pass@k count it.

    A part `accuracy` decides, if the environment has one. Otherwise an answer is right if it earned
    the most that the parts in `own` can give for its problem; parts that only cost reward do not
    matter.

    Args:
        reward: The answer's reward; parts that it lacks do not apply to the problem.
        own: The environment's own parts, see `TextEnv.own_parts`.
    """
    if not reward.valid:
        return False
    applies = {name: own[name] for name in reward.parts if name in own}
    said = [name for name in applies if name.rpartition("/")[2] == ACCURACY]
    if said:
        return all(reward.parts[name] >= 1 for name in said)
    paying = {name: part for name, part in applies.items() if part.range[1] > 0}
    most = math.fsum(part.range[1] for part in paying.values())
    earned = math.fsum(part.weight * reward.parts[name] for name, part in paying.items())
    return bool(paying) and compare_rewards(earned, most) >= 0


def score_safely(
    score_batch: Callable[[Sequence[_P], Sequence[str]], list[Reward]],
    problems: Sequence[_P],
    answers: Sequence[str],
    name: str = "score_batch",
) -> list[Reward]:
    """Score a batch so that an exception affects only the answer that caused it.

    `score` must not raise. If it does, the batch is halved until the answer is found; its reward is
    invalid, with the exception as the cause.
    """
    try:
        rewards = score_batch(problems, answers)
    except Exception as error:  # noqa: BLE001  here a grader's failure becomes a reward
        if len(answers) == 1:
            return [Reward(valid=False, error=f"{type(error).__name__}: {error}")]
    else:
        if len(rewards) != len(answers):
            counts = f"{len(rewards)} rewards for {len(answers)} answers"
            raise ContractBroken(f"{name} returned {counts}.")
        return rewards
    middle = len(answers) // 2
    return [
        *score_safely(score_batch, problems[:middle], answers[:middle], name),
        *score_safely(score_batch, problems[middle:], answers[middle:], name),
    ]


def respond_safely(
    respond: Callable[[Problem, Sequence[Turn]], Reply], problem: Problem, turns: Sequence[Turn]
) -> Reply:
    """Call `respond` for one turn; if it raises, the episode ends with an invalid reward."""
    try:
        return respond(problem, turns)
    except Exception as error:  # noqa: BLE001  see score_safely
        return Reply(reward=Reward(valid=False, error=f"{type(error).__name__}: {error}"))
