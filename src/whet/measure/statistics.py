"""Intervals for paired measurements, from SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, ndtri

if TYPE_CHECKING:
    from whet.types import Array

RESAMPLES = 2000
_MOST = 10**9  # samples beyond which a question counts as undecidable


def paired_difference(lost: float, won: float, n: float, confidence: float) -> tuple[float, float]:
    """Return lower and upper limits of a difference of two paired proportions, each at ``confidence``.

    The score interval of Tango 1998 ("Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design", Statistics in Medicine 17), which stays honest where few pairs or none disagree.

    Args:
        lost: Pairs in which the first is right and the second wrong.
        won: The reverse.
        n: All pairs.
        confidence: One-sided: 0.95 bounds each side at 95 %.
    """
    from scipy.optimize import brentq

    z = float(ndtri(confidence))

    def excess(delta: float) -> float:
        return (lost - won - n * delta) / math.sqrt(_score_variance(lost, won, n, delta))

    point, edge = (lost - won) / n, 1 - 1e-12
    lower, upper = -1.0, 1.0
    if excess(-edge) > z:
        lower = brentq(lambda delta: excess(delta) - z, -edge, min(point + 1e-12, edge), xtol=1e-10)
    if excess(edge) < -z:
        upper = brentq(lambda delta: excess(delta) + z, max(point - 1e-12, -edge), edge, xtol=1e-10)
    return float(lower), float(upper)


def _score_variance(lost: float, won: float, n: float, delta: float) -> float:
    """Variance of ``lost - won`` when the true difference is ``delta`` (restricted maximum likelihood)."""
    a = 2 * n
    b = -lost - won + (2 * n - lost + won) * delta
    c = -won * delta * (1 - delta)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return max(n * (2 * share + delta * (1 - delta)), 1e-300)


def proportion(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Return lower and upper limits of a proportion, each at ``confidence`` (Wilson 1927).

    The closed form: SciPy has it in ``scipy.stats``, which takes a second to import in every process that measures.
    """
    z, share = float(ndtri(confidence)), hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == n else middle + reach)


def bootstrap(
    statistic: Callable[[Array], float], n: int, confidence: float, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return one-sided limits of a statistic of paired samples, by resampling their numbers.

    They are values that resamples really gave, none between two: an infinite one, which is the worst there is,
    then counts like any other. NaN says nothing and is left out.

    Args:
        statistic: From sample numbers (n,) to a value.
        n: Samples.
        confidence: Of each side.
        seed: Of the resampling.
        resamples: How many.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return -math.inf, math.inf
    last = len(values) - 1
    return float(values[math.floor((1 - confidence) * last)]), float(values[math.ceil(confidence * last)])


def paired_ratio(first: Array, second: Array, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the median over rounds of ``first / second``, with an exact two-sided interval.

    What the machine does to a whole round leaves its ratio as it is, while it would move the ratio of two medians.
    The limits are order statistics: that the true median lies outside is a matter of coin tosses, whatever the
    noise (David and Nagaraja 2003, "Order Statistics", section 7.1). At 95 % fewer than six rounds bound nothing.

    Args:
        first: (rounds,) milliseconds of a call, the median of each round.
        second: Of the same rounds.
        confidence: Two-sided.
    """
    ratios = np.sort(first / second)
    rounds = len(ratios)
    beyond = int((bdtr(np.arange(rounds), rounds, 0.5) <= (1 - confidence) / 2).sum())  # ratios outside each limit
    limits = (float(ratios[beyond - 1]), float(ratios[rounds - beyond])) if beyond else (0.0, math.inf)
    return float(np.median(ratios)), *limits


def samples_to_settle(lost: float, won: float, n: int, limit: float, confidence: float) -> int | None:
    """Return how many samples would settle whether a drop exceeds ``limit``, if the rates stay as they are.

    None where they would not: the drop is at the limit itself.
    """
    drop = (lost - won) / n

    def settled(size: float) -> bool:
        low, high = paired_difference(lost * size / n, won * size / n, size, confidence)
        return high <= limit if drop <= limit else low > limit

    size = float(n)
    while not settled(size):
        size *= 2
        if size > _MOST:
            return None
    low, high = (size / 2, size) if size > n else (1.0, size)
    while high - low > max(1.0, low * 0.005):
        middle = (low + high) / 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return math.ceil(high)


def family_confidence(confidence: float, family: int) -> float:
    """Return the confidence each of ``family`` statements needs, so that all hold at once (Bonferroni)."""
    return 1 - (1 - confidence) / max(family, 1)
