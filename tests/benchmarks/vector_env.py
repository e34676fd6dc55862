"""Episodes a second of GroupVectorEnv, beside Gymnasium's SyncVectorEnv of the same environment.

    python tests/benchmarks/vector_env.py

One process, single-turn episodes whose problems and grades cost next to nothing: what is measured
is the environment around them. Both sides take turns; medians of their rounds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median

from gymnasium.vector import AutoresetMode, SyncVectorEnv

from grpo_envs.env import TextEnv
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.types import Problem, Reward

_MEMBERS, _GROUP = 1024, 8
_EPISODES, _ROUNDS = 20, 7
_ANSWERS = tuple(["yes", "no"] * (_MEMBERS // 2))
_PROBLEM = Problem(prompt="Yes?", gold="yes", solution="yes")
_RIGHT, _WRONG = Reward(parts={"correct": 1.0}), Reward(parts={"correct": 0.0})


class YesEnv(TextEnv):
    """Pays for yes."""

    parts = {"correct": 1.0}  # noqa: RUF012 - read only

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Return the one problem there is."""
        return _PROBLEM

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare."""
        return _RIGHT if answer == problem.gold else _WRONG


def ours() -> Callable[[int], None]:
    """Return what plays an episode in each member."""
    envs = GroupVectorEnv(YesEnv(), _MEMBERS, _GROUP)

    def play(number: int) -> None:
        start = number * _MEMBERS
        envs.reset(seed=range(start, start + _MEMBERS // _GROUP))
        rewards = envs.step(_ANSWERS)[1]
        assert rewards.sum() == _MEMBERS / 2

    return play


def gymnasiums() -> Callable[[int], None]:
    """Return the same of SyncVectorEnv."""
    envs = SyncVectorEnv([YesEnv] * _MEMBERS, autoreset_mode=AutoresetMode.DISABLED)

    def play(number: int) -> None:
        start = number * _MEMBERS
        envs.reset(seed=list(range(start, start + _MEMBERS)))
        rewards = envs.step(_ANSWERS)[1]
        assert rewards.sum() == _MEMBERS / 2

    return play


def main() -> None:
    """Print a line for each side, and the ratio."""
    sides = {"GroupVectorEnv": (ours(), _EPISODES), "SyncVectorEnv": (gymnasiums(), 2)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, (play, times) in sides.items():
            start = time.perf_counter()
            for number in range(times):
                play(number)
            rates[name].append(times * _MEMBERS / (time.perf_counter() - start))
    medians = {name: median(seen) for name, seen in rates.items()}
    for name, rate in medians.items():
        print(f"{name:<15} {rate:>9,.0f} episodes/s  ({_MEMBERS} members, groups of {_GROUP})")
    ratio = medians["GroupVectorEnv"] / medians["SyncVectorEnv"]
    print(f"vector: speedup {ratio:.1f}")


if __name__ == "__main__":
    main()
