"""The level of an environment as a function of success."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Ladder:
    """The levels of one environment, easy to hard, and the points of a run.

    A group whose answers are all right adds a point, a group whose answers are all wrong subtracts
    one; every `pace` points are a level. Points stay between the first and the last level.

    >>> ladder = Ladder(levels=[1, 2, 3], pace=2)
    >>> ladder.count(2), ladder.level
    (2, 2)
    >>> ladder.count(-1), ladder.level
    (1, 1)
    """

    levels: Sequence[int]
    pace: int
    points: int = 0

    @property
    def level(self) -> int:
        """The level of the next problem."""
        return self.levels[min(self.points // self.pace, len(self.levels) - 1)]

    def count(self, points: int) -> int:
        """Add `points`, which may be negative; return the new points."""
        top = len(self.levels) * self.pace - 1  # the last level has `pace` points, too
        self.points = min(max(self.points + points, 0), top)
        return self.points
