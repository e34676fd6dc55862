"""How difficulty follows success."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Ladder:
    """The levels of one environment, easy to hard, and where a run stands on them.

    A group that is all right counts a point up, one that is all wrong a point down; every `pace`
    points are a level. There are no points below the first level or above the last.

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
        """Go up or down by `points`; return where that leads."""
        top = len(self.levels) * self.pace - 1  # the last level has its width, too
        self.points = min(max(self.points + points, 0), top)
        return self.points
