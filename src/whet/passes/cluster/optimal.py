"""The exact minimum of k-means in one dimension, by dynamic programming over sorted values.

Wang and Song 2011, "Ckmeans.1d.dp". The best split of the first j values into m clusters is that of the first i
into m - 1, and one cluster of the rest. The best i grows with j, which divide and conquer uses: the i of the middle
j bounds those of both halves. All rows, and all j of one depth, are done in the same few calls of NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array

_AT_ONCE = 1 << 15  # values, so that tables stay in the processor's cache
_LEAST = 1e-300


def centroids(values: Array, weights: Array, k: int) -> Array:
    """Return the means of the clusters of least squared error.

    Args:
        values: (rows, n) float64, each row sorted; rows are clustered each for itself.
        weights: (rows, n) how often each value counts; 0 leaves it out.
        k: Clusters a row.

    Returns:
        (rows, k) sorted; NaN, last, where a row has fewer distinct values than clusters.
    """
    rows, n = values.shape
    k = min(k, n)
    at_once = max(1, _AT_ONCE // n)
    starts = range(0, rows, at_once)
    return np.concatenate([_solve(values[at : at + at_once], weights[at : at + at_once], k) for at in starts])


def _solve(values: Array, weights: Array, k: int) -> Array:
    rows, n = values.shape
    zero = np.zeros((rows, 1))
    center = (values * weights).sum(1, keepdims=True) / np.maximum(weights.sum(1, keepdims=True), _LEAST)
    mass = np.concatenate([zero, np.cumsum(weights, axis=1)], axis=1)  # (rows, n + 1): of the first j values
    total = np.concatenate([zero, np.cumsum((values - center) * weights, axis=1)], axis=1)
    gain = _gain(total, mass)
    choices = [np.zeros((rows, n + 1), np.int32)]
    for _ in range(1, k):
        gain, chosen = _one_more(gain, mass, total)
        choices.append(chosen)
    ends = np.full(rows, n)
    found = np.full((rows, k), np.nan)
    each = np.arange(rows)
    for m in range(k - 1, -1, -1):
        begins = choices[m][each, ends]
        share = mass[each, ends] - mass[each, begins]
        full = share > 0
        found[full, m] = (total[each, ends] - total[each, begins])[full] / share[full]
        ends = begins
    return np.sort(found + center, axis=1)


def _gain(total: Array, mass: Array) -> Array:
    """What one cluster takes off the squared error: the square of its sum over its mass."""
    gain: Array = total * total / np.maximum(mass, _LEAST)  # of no mass the sum is 0 too
    return gain


def _one_more(before: Array, mass: Array, total: Array) -> tuple[Array, Array]:
    """Allow one cluster more.

    Args:
        before: (rows, n + 1) the best gain of the first j values with a cluster less.
        mass: (rows, n + 1) of the first j values.
        total: (rows, n + 1) their sum.

    Returns:
        The best gain, and the i where its last cluster begins, each (rows, n + 1).
    """
    rows, length = before.shape
    gain, chosen = np.zeros_like(before), np.zeros(before.shape, np.int32)
    step = 1 << (length - 1).bit_length()
    while step:
        ends = np.arange(step, length, 2 * step)
        after = ends + step
        low = chosen[:, ends - step]
        high = np.where(after < length, chosen[:, np.minimum(after, length - 1)], length - 1)
        best, where = _best((before, mass, total), ends, low, np.minimum(high, ends))
        gain[:, ends], chosen[:, ends] = best.reshape(rows, -1), where.reshape(rows, -1)
        step //= 2
    return gain, chosen


def _best(tables: tuple[Array, Array, Array], ends: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return, for each row and each end, the greatest gain over ``low`` to ``high``, and the first place of it."""
    before, mass, total = tables
    rows, length = before.shape
    if not len(ends):
        return np.zeros((rows, 0)), np.zeros((rows, 0), np.int32)
    row = np.arange(rows)[:, None] * length  # where each row begins in the flat tables
    counts = (high - low + 1).ravel()
    starts = np.cumsum(counts) - counts
    at = np.arange(counts.sum()) - np.repeat(starts - (row + low).ravel(), counts)
    end = (row + ends).ravel()
    sums = np.repeat(total.ravel()[end], counts) - total.ravel()[at]
    shares = np.repeat(mass.ravel()[end], counts) - mass.ravel()[at]
    gains = before.ravel()[at] + _gain(sums, shares)
    best = np.maximum.reduceat(gains, starts)
    hits = np.flatnonzero(gains == np.repeat(best, counts))
    first = hits[np.searchsorted(hits, starts)]
    return best, at[first] - np.repeat(row.ravel(), len(ends))


def among(points: Array, weights: Array, k: int, alone: int | None) -> Array:
    """Return the at most k points, both ends among them, that stand for all with the least squared error.

    The same programming, over pairs of chosen neighbours: what lies between two goes to the nearer.

    Args:
        points: (n,) sorted.
        weights: (n,) how often each counts.
        k: 2 or more; 3 with ``alone``.
        alone: Place of a point that is chosen and stands for nothing but itself; None for no such.
    """
    n = len(points)
    between = _between(points, weights, n if alone is None else alone)
    best = np.where(np.arange(n) == 0, 0.0, np.inf)  # of a walk from the first point to each
    before = []
    for _ in range(k - 1):
        sums = best[:, None] + between
        before.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    chosen = [n - 1]
    for each in reversed(before):
        chosen.append(int(each[chosen[-1]]))
    found: Array = points[np.unique(chosen)]
    return found


def _between(points: Array, weights: Array, alone: int) -> Array:
    """Return (n, n): the squared error of what lies between two chosen points, infinite where these cannot be."""
    moments = [np.concatenate([[0.0], np.cumsum(weights * points**power)]) for power in range(3)]

    def error(low: Array, high: Array, at: Array) -> Array:
        mass, total, square = (each[high] - each[low] for each in moments)
        return np.asarray(square - 2 * at * total + at * at * mass)

    found = np.full((len(points), len(points)), np.inf)
    for first in range(len(points)):
        lasts = np.arange(first + 1, len(points))
        halves = np.searchsorted(points, (points[first] + points[lasts]) / 2, side="right")
        halves = np.where(lasts == alone, lasts, first + 1 if first == alone else halves)
        lost = error(np.full(len(lasts), first + 1), halves, points[first]) + error(halves, lasts, points[lasts])
        found[first, lasts] = np.where((first < alone) & (alone < lasts), np.inf, lost)
    np.fill_diagonal(found, 0.0)  # a walk may stay where it is: fewer points do
    return found
