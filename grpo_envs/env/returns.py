"""The return of an episode in another library's environment, as a reward component in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from grpo_envs.errors import require
from grpo_envs.types import Reward


@dataclass(frozen=True, slots=True)
class ReturnRange:
    """The least and the largest return of an episode: the value of `env.return_range`."""

    low: float
    high: float

    @classmethod
    def of(cls, given: list[float] | None) -> Self:
        """Read [least, most]; [0, 1] when None.

        Raises:
            ConfigError: the value is not a pair of finite numbers in ascending order.
        """
        low, high = (0.0, 1.0) if given is None else (given if _pair(given) else (0.0, 0.0))
        require(
            low < high and math.isfinite(high - low),
            "env.return_range",
            given,
            "[least, most], two finite numbers in order",
        )
        return cls(float(low), float(high))

    def paid(self, total: float) -> Reward:
        """Return the part `score` for a return, which is clipped to the range, with a note."""
        share = (total - self.low) / (self.high - self.low)
        outside = not 0 <= share <= 1
        note = f"the return {total:g} is outside env.return_range" if outside else ""
        return Reward(parts={"score": min(max(share, 0.0), 1.0) if outside else share}, note=note)


def _pair(given: Any) -> bool:
    numbers = isinstance(given, list | tuple) and len(given) == len(("low", "high"))
    return numbers and all(isinstance(x, int | float) and math.isfinite(x) for x in given)
