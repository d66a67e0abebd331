"""What each sample does to a correlation: its influence, from which a drop is bounded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from whet.data.metrics import likenesses, ranks

if TYPE_CHECKING:
    from whet.types import Array


def influences(outputs: Array, scores: Array, metric: str) -> Array:
    """Return by how much each pair moves the correlation of likeness and score, times N; they add up to 0.

    The infinitesimal jackknife (Efron 1982, "The jackknife, the bootstrap and other resampling plans"): the
    standard error is their standard deviation over the root of N, whatever the distribution, where Fisher's z takes
    it to be normal. For ranks it reckons with what a pair does to the ranks of the others.

    Args:
        outputs: (N, 2, ...), the model's outputs for both sides of each pair.
        scores: (N,) or (N, 1).
        metric: ``spearman`` or ``pearson``.
    """
    likeness, wanted = likenesses(outputs), scores.reshape(len(scores)).astype(np.float64)
    if np.ptp(likeness) == 0 or np.ptp(wanted) == 0:
        return np.zeros(len(wanted))
    return (_of_ranks if metric == "spearman" else _of_values)(likeness, wanted)


def _of_values(x: Array, y: Array) -> Array:
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    product = x * y
    return np.asarray(product - product.mean() * (x**2 + y**2) / 2)


def _of_ranks(x: Array, y: Array) -> Array:
    u, v = ((ranks(values) - (len(x) + 1) / 2) / len(x) for values in (x, y))
    both, of_u, of_v = float(u @ v), float(u @ u), float(v @ v)
    moved = u * v + _moved(x, v) + _moved(y, u) - 3 * both / len(x)
    moved_u = u**2 + 2 * _moved(x, u) - 3 * of_u / len(x)
    moved_v = v**2 + 2 * _moved(y, v) - 3 * of_v / len(x)
    rho, scale = both / math.sqrt(of_u * of_v), len(x)
    return np.asarray(scale * (moved / math.sqrt(of_u * of_v) - rho / 2 * (moved_u / of_u + moved_v / of_v)))


def _moved(values: Array, weights: Array) -> Array:
    """Return, for each value, the mean of the samples' weights: whole where theirs is greater, half where equal."""
    _, place = np.unique(values, return_inverse=True)
    groups = np.bincount(place, weights)
    greater = groups[::-1].cumsum()[::-1] - groups / 2
    return np.asarray(greater[place] / len(values))
