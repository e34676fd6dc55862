"""How sure is a number? Estimates over problems that were answered once or several times."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

_Z = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the chance that at least one of `k` of a problem's `n` answers is right.

    The unbiased estimator 1 - C(n - right, k) / C(n, k) of arXiv 2107.03374, equation 1.

    >>> pass_at_k(4, 1, 2)
    0.5

    Raises:
        ValueError: `k` is not 1 to `n`.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k={k} of {n} answers. Allowed: 1 to {n}.")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def mean_of(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the mean of values that come in clusters: the answers to one problem.

    Answers to the same problem are alike, so they count for less than as many to different ones.
    The standard error is the clustered one of arXiv 2411.00640, equation 4.

    Args:
        values: Those of each cluster, by its name.
    """
    mean, error = _mean_and_error(values)
    return Estimate(mean=mean, low=mean - _Z * error, high=mean + _Z * error)


def share_of(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the same of values in [0, 1], with an interval that stays in there.

    It is Wilson's (1927) for the number of independent trials that would have the clustered
    standard error; where all values are equal, for one trial a cluster.
    """
    mean, error = _mean_and_error(values)
    inside = mean * (1 - mean)
    trials = inside / error**2 if inside > 0 and error > 0 else float(len(values))
    centre, half = wilson(mean, trials)
    return Estimate(mean=mean, low=max(0.0, centre - half), high=min(1.0, centre + half))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the centre and half the width of Wilson's score interval for a share of `n` trials.

    >>> [round(x, 4) for x in wilson(0.5, 100)]
    [0.5, 0.0962]
    """
    shrunk = 1 + _Z * _Z / n
    inside = share * (1 - share) / n + _Z * _Z / (4 * n * n)
    return (share + _Z * _Z / (2 * n)) / shrunk, _Z / shrunk * math.sqrt(inside)


def _mean_and_error(values: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Return the mean over all values and its clustered standard error."""
    count = sum(map(len, values.values()))
    mean = fmean(value for cluster in values.values() for value in cluster)
    off = [math.fsum(value - mean for value in cluster) for cluster in values.values()]
    return mean, math.sqrt(math.fsum(x * x for x in off)) / count
