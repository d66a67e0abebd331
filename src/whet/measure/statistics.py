"""Intervals for paired measurements, from SciPy, which is imported where a limit is computed: it takes 0.5 s."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array

RESAMPLES = 2000
_MOST = 10**9  # samples beyond which a question counts as undecidable
_DRAWN = 400_000  # numbers drawn for a limit, if that makes 1,000 draws at least
_HELD = 4_000_000  # numbers held at once: 32 MB
_UNSEEN = 5.0  # how much more than the largest amount seen is foreseen, times the share of one sample in all ...
_UNSEEN_OF_A_SIDE = 20.0  # ... and in what was lost, or won, alone; by simulation (docs/statistics.md)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Amounts that samples lost (or won), of which more may come.

    Attributes:
        total: Their sum.
        squares: The sum of their squares.
        next: What one more sample may lose: the largest amount that is known of.
    """

    total: float
    squares: float
    next: float


def difference(lost: Amounts, won: Amounts, confidence: float) -> tuple[float, float]:
    """Return lower and upper limits of what is lost less what is won in all, each at ``confidence``.

    Sums of what few samples lose are not normal: where three are seen, seven may be the rule. So each of the two
    is bounded as a weighted sum of Poisson counts, by the gamma limits of Fay and Feuer 1997 ("Confidence intervals
    for directly standardized rates", Statistics in Medicine 16), which reckon with one more sample of greatest
    weight and are exact for counts (Garwood 1936); both are joined by variance estimates recovery (Zou and Donner
    2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27).

    Chosen by simulation (docs/statistics.md): Tango's score interval of 1998 is narrower (by 5 % where 50 pairs
    disagree, by 15 % where 3 do), but with few pairs its limits miss in up to 7 % (upper) and 10 % (lower) where
    they say 5; the Wald interval and the percentile bootstrap are a point where no pair disagrees.
    """
    return -_most(won, lost, confidence), _most(lost, won, confidence)


def _most(lost: Amounts, won: Amounts, confidence: float) -> float:
    above = _gamma(lost.total + lost.next, lost.squares + lost.next**2, confidence) - lost.total
    below = won.total - _gamma(won.total, won.squares, 1 - confidence)
    return lost.total - won.total + math.hypot(above, below)


def _gamma(mean: float, variance: float, share: float) -> float:
    """Return a quantile of the gamma distribution with this mean and variance."""
    from scipy.special import gammaincinv

    return variance / mean * float(gammaincinv(mean**2 / variance, share)) if variance > 0 else 0.0


def paired_difference(lost: float, won: float, n: float, confidence: float) -> tuple[float, float]:
    """Return lower and upper limits of a difference of two paired proportions, each at ``confidence``.

    Args:
        lost: Pairs in which the first is right and the second wrong.
        won: The reverse.
        n: All pairs.
        confidence: One-sided: 0.95 bounds each side at 95 %.
    """
    low, high = difference(Amounts(lost / n, lost / n**2, 1 / n), Amounts(won / n, won / n**2, 1 / n), confidence)
    return max(low, -1.0), min(high, 1.0)


def balanced_difference(tables: Array, confidence: float) -> tuple[float, float]:
    """Return limits of the mean over classes of differences of paired proportions, each at ``confidence``.

    Args:
        tables: (K, 4) pairs of each class: both right, lost, won, neither right.
        confidence: One-sided.
    """
    weights = 1 / (len(tables) * tables.sum(axis=1))
    lost, won = (
        Amounts(float(weights @ counts), float(weights**2 @ counts), float(weights.max()))
        for counts in (tables[:, 1], tables[:, 2])
    )
    low, high = difference(lost, won, confidence)
    return max(low, -1.0), min(high, 1.0)


def g_mean_difference(tables: Array, confidence: float, seed: int = 0) -> tuple[float, float]:
    """Return limits of the fall of the geometric mean of the classes' sensitivities, each at ``confidence``.

    Quantiles of draws of every class's cells, in the spirit of ``difference``: each cell a gamma variate of as many
    counts as were seen, and one more lost (won) pair in the class in which it costs most: Dirichlet posteriors
    whose prior is one pair where it hurts. Jeffreys' half a pair in every cell misses too often with two classes,
    and with many it drowns what was seen; a bootstrap is a point where no pair disagrees.

    Args:
        tables: (K, 4) pairs of each class: both right, lost, won, neither right.
        confidence: One-sided.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    count = int(np.clip(_DRAWN / tables.size, 1000, 10_000))
    most = max(1, _HELD // tables.size)
    limits = []
    for cell, share in ((2, 1 - confidence), (1, confidence)):
        shape = tables.astype(np.float64)
        shape[_costliest(tables, cell), cell] += 1
        parts = [min(most, count - done) for done in range(0, count, most)]
        falls = [_g_mean_falls(rng.standard_gamma(shape, (part, *shape.shape))) for part in parts]
        limits.append(float(np.quantile(np.concatenate(falls), share)))
    return limits[0], limits[1]


def _g_mean_falls(tables: Array) -> Array:
    """Return what G-mean loses in each of (..., K, 4) tables."""
    with np.errstate(divide="ignore"):
        before, after = (np.log(_sensitivities(tables, cell)).mean(axis=-1) for cell in (1, 2))
    return np.asarray(np.exp(before) - np.exp(after))


def _sensitivities(tables: Array, cell: int) -> Array:
    """Return the share of right pairs of each class: of the original (cell 1, lost) or the candidate (2, won)."""
    return np.asarray((tables[..., 0] + tables[..., cell]) / tables.sum(axis=-1))


def _costliest(tables: Array, cell: int) -> int:
    """Return the class in which one more lost pair (cell 1) or won pair (2) moves the fall of G-mean most."""
    more = tables.copy()
    more[:, cell] += 1
    before, after = (_with_one(_sensitivities(tables, each), _sensitivities(more, each)) for each in (1, 2))
    return int((before - after if cell == 1 else after - before).argmax())


def _with_one(shares: Array, changed: Array) -> Array:
    """Return the geometric mean of shares (K,) with one of them changed, for each in turn; 0 if any is."""
    known, new = (np.log(np.where(each > 0, each, 1)) for each in (shares, changed))
    others = known.sum() - known
    zeros = np.count_nonzero(shares == 0) - (shares == 0)
    return np.where((zeros == 0) & (changed > 0), np.exp((others + new) / len(shares)), 0.0)


def sum_limits(values: Array, confidence: float, most: float | None = None) -> tuple[float, float]:
    """Return limits of the true sum of what samples lose (positive) or win (negative), each at ``confidence``.

    Args:
        values: (N,) amounts.
        confidence: One-sided.
        most: What any sample may lose, or win; None where that is not known. Then the largest amount that was seen
            on a side is a guess that falls short, the more so the fewer samples carry that side.
    """
    lost, won = np.maximum(values, 0), np.maximum(-values, 0)
    least = _foreseen(np.abs(values), _UNSEEN) if most is None else most
    return difference(_amounts(lost, least, most), _amounts(won, least, most), confidence)


def _amounts(amounts: Array, least: float, most: float | None) -> Amounts:
    following = max(least, _foreseen(amounts, _UNSEEN_OF_A_SIDE)) if most is None else most
    return Amounts(float(amounts.sum()), float(amounts @ amounts), following)


def _foreseen(amounts: Array, unseen: float) -> float:
    """Return what one more sample may amount to: the largest seen, and more where few samples carry the sum.

    How few is told by the effective number of Kish 1965 ("Survey Sampling", section 11.7), which is N where all
    amounts are equal and 1 where one sample has it all.
    """
    total = float(amounts.sum())
    return float(amounts.max()) * (1 + unseen * float(amounts @ amounts) / total**2) if total > 0 else 0.0


def ratio_of_means(after: Array, before: Array, confidence: float) -> tuple[float, float]:
    """Return limits of the ratio of two means over the same samples, each at ``confidence``.

    A ratio r is within them as long as the sum of ``after - r * before`` may be 0 (Fieller 1954) by ``sum_limits``:
    t-quantiles do as well where all samples change, but where few do, and much, they miss several times as often.

    Args:
        after: (N,), none negative: squared errors, say.
        before: (N,), likewise, not all 0.
        confidence: One-sided.
    """
    point = float(after.mean() / before.mean())

    def within(ratio: float) -> bool:
        low, high = sum_limits(after - ratio * before, confidence)
        return low <= 0 <= high

    step = 1e-9 * max(point, 1.0)
    while within(point + step) and step < _MOST:
        step *= 4
    low = 0.0 if within(0.0) else _edge(within, point, 0.0)
    return low, math.inf if step >= _MOST else _edge(within, point, point + step)


def _edge(within: Callable[[float], bool], inside: float, outside: float) -> float:
    """Halve down to where a range ends; ``scipy.optimize`` takes long to import in every process that measures."""
    while abs(outside - inside) > 1e-10 * max(abs(inside), abs(outside), 1e-3):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if within(middle) else (inside, middle)
    return inside


def proportion(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Return lower and upper limits of a proportion, each at ``confidence`` (Wilson 1927).

    The closed form: SciPy has it in ``scipy.stats``, which takes a second to import in every process that measures.
    """
    from scipy.special import ndtri

    z, share = float(ndtri(confidence)), hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == n else middle + reach)


def bootstrap(
    statistic: Callable[[Array], float], n: int, confidence: float, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return one-sided limits of a statistic of paired samples, by resampling their numbers.

    They are values that resamples really gave, none between two: an infinite one, which is the worst there is,
    then counts like any other. NaN, where the statistic gave no number, is the worst on either side.
    The percentiles are widened as Student's t is against the normal (Hesterberg 2015, "What teachers should know
    about the bootstrap", The American Statistician 69).

    Args:
        statistic: From sample numbers (n,) to a value.
        n: Samples.
        confidence: Of each side.
        seed: Of the resampling.
        resamples: How many.
    """
    from scipy.special import ndtr, stdtrit

    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    wide = math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, confidence)) if n > 1 else math.inf
    share, last = float(ndtr(wide)), resamples - 1
    lows, highs = (np.sort(np.where(np.isnan(values), worst, values)) for worst in (-math.inf, math.inf))
    return float(lows[math.floor((1 - share) * last)]), float(highs[math.ceil(share * last)])


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
    from scipy.special import bdtr

    ratios = np.sort(first / second)
    rounds = len(ratios)
    beyond = int((bdtr(np.arange(rounds), rounds, 0.5) <= (1 - confidence) / 2).sum())  # ratios outside each limit
    limits = (float(ratios[beyond - 1]), float(ratios[rounds - beyond])) if beyond else (0.0, math.inf)
    return float(np.median(ratios)), *limits


def mean_ratio(ratios: Array, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the geometric mean of independent ratios, with Student's two-sided interval on their logarithms.

    Args:
        ratios: (n,) positive, each an observation of its own. One alone bounds nothing.
        confidence: Two-sided.
    """
    logs, n = np.log(ratios), len(ratios)
    if n == 1:
        return float(ratios[0]), 0.0, math.inf
    from scipy.special import stdtrit

    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * float(logs.std(ddof=1)) / math.sqrt(n)
    middle = float(logs.mean())
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)


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
