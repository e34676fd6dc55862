"""Estimates with intervals: over problems, and over runs that differ in their seed.

Axis letters for runs: B bootstrap samples, N runs, S steps.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np

_Z = 1.96
"""Standard errors on either side of the mean that hold 95 % of a normal distribution."""
_SAMPLES, _BAND_SAMPLES = 10_000, 1_000
"""Bootstrap samples of an estimate, and of each step of a curve."""
_EXACT = 14
"""Up to this number of pairs, all 2^n sign combinations are tried; above, a random sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the probability that at least one of `k` among a problem's `n` answers is right.

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
    """Return the mean of clustered values; a cluster is the answers to one problem.

    Answers to the same problem are correlated, so they carry less information than answers to
    different problems. The standard error is the clustered one of arXiv 2411.00640, equation 4.

    Args:
        values: The values of each cluster, by its name.
    """
    mean, error = _mean_and_error(values)
    return Estimate(mean=mean, low=mean - _Z * error, high=mean + _Z * error)


def share_of(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the mean of clustered values in [0, 1], with an interval within [0, 1].

    The interval is Wilson's (1927), for the number of independent trials that would have the
    clustered standard error; if all values are equal, for one trial per cluster.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference(Estimate):
    """The mean difference of pairs, with its 95 % interval and a significance test."""

    pairs: int
    p: float
    """Two-sided p-value of the sign-flip test, see `paired_difference`."""


def mean_over(strata: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean over runs with its interval, see `interquartile_mean_over`."""
    return _bootstrapped(strata, lambda values: np.mean(values, axis=-1))


def interquartile_mean_over(strata: Sequence[Sequence[float]]) -> Estimate:
    """Return the interquartile mean over runs with its interval, as rliable computes them.

    The interval is the percentile interval of a stratified bootstrap, which resamples the runs of
    each task separately (Agarwal et al. 2021, arXiv 2108.13264, section 4). With only a few runs
    such an interval is too narrow.

    Args:
        strata: The values of the runs, one sequence for each task.
    """
    return _bootstrapped(strata, interquartile_mean)


def interquartile_mean(values: Any) -> Any:
    """Return the mean over the last axis, without its lowest and its highest quarter.

    The size of a quarter is rounded down, as in rliable (`scipy.stats.trim_mean` with 0.25).

    >>> float(interquartile_mean([9.0, 1.0, 2.0, 3.0, -9.0]))
    2.0
    """
    ordered = np.sort(np.asarray(values, float), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.mean(ordered[..., cut : ordered.shape[-1] - cut], axis=-1)


def band(values_NS: Sequence[Sequence[float]]) -> list[Estimate]:
    """Return the mean over runs at each step, with the percentile interval of a bootstrap."""
    table_NS = np.asarray(values_NS, float)
    runs = len(table_NS)
    drawn_BN = np.random.default_rng(0).multinomial(runs, [1 / runs] * runs, _BAND_SAMPLES)
    means_BS = drawn_BN / runs @ table_NS
    low_S, high_S = np.percentile(means_BS, [2.5, 97.5], axis=0)
    places = zip(table_NS.mean(axis=0), low_S, high_S, strict=True)
    return [Estimate(mean=float(m), low=float(low), high=float(high)) for m, low, high in places]


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Return the mean of paired differences, its bootstrap interval and a p-value.

    The p-value is that of Fisher's randomisation test for pairs (The Design of Experiments, 1935,
    section 21): the share of all sign combinations of the differences whose mean is at least as far
    from 0. It assumes no distribution. With n pairs it cannot be below 2 / 2^n.

    >>> paired_difference([1.0, 2.0, 3.0]).p
    0.25

    Raises:
        ValueError: there are fewer than two pairs.
    """
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} pairs. Allowed: 2 or more.")
    given = np.asarray(differences, float)
    if len(given) <= _EXACT:
        signs = np.array(list(product((1, -1), repeat=len(given))))
    else:
        drawn = np.random.default_rng(0).choice((1, -1), (2**_EXACT, len(given)))
        signs = np.vstack([np.ones_like(given), drawn])
    means, found = np.abs(signs @ given), abs(given.sum())
    share = float(np.mean(means >= found - 1e-9 * np.abs(given).sum()))
    value = mean_over([differences])
    return PairedDifference(
        mean=value.mean, low=value.low, high=value.high, pairs=len(given), p=share
    )


def _bootstrapped(strata: Sequence[Sequence[float]], statistic: Callable[[Any], Any]) -> Estimate:
    """Return a statistic of all values, with the percentile interval of a stratified bootstrap."""
    draw = np.random.default_rng(0)
    columns = []
    for stratum in strata:
        values_N = np.asarray(stratum, float)
        columns.append(values_N[draw.integers(len(values_N), size=(_SAMPLES, len(values_N)))])
    low, high = np.percentile(statistic(np.concatenate(columns, axis=1)), [2.5, 97.5])
    mean = float(statistic(np.concatenate([np.asarray(s, float) for s in strata])))
    return Estimate(mean=mean, low=float(low), high=float(high))
