"""Few values for many: k-means in one dimension, on arrays of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from whet.passes.cluster import optimal

if TYPE_CHECKING:
    from whet.passes.cluster.spec import Initial
    from whet.types import Array

_EXACT = 4096  # values that are solved exactly
_MERGED = 2048  # points that stand for more of them
_BINS = 1 << 16  # of the histogram that these are polished on
_ROUNDS = 300  # of Lloyd's iteration, at most
_CLIPPED = 7  # the greatest integer of grids so coarse that clipping a channel pays
_CLIPS = np.linspace(1.0, 0.3, 36)  # shares of its greatest magnitude that such a channel is tried at
_SEEN = 4096  # numbers of a channel that find its scale
_NARROW = 1e-30  # a range that has no bins in float32


Axes = int | tuple[int, ...]
"""The axis of output channels, or the axes that number them together: (2, 3) of a depthwise kernel of Keras."""


@dataclass(frozen=True, slots=True)
class Codebook:
    """How an array is to be clustered.

    Attributes:
        k: Values at most.
        initial: Where k-means starts.
        keep_zeros: Zeros stay zero and are one of the values, where there are any.
        seed: For k-means++.
    """

    k: int
    initial: Initial = "optimal"
    keep_zeros: bool = False
    seed: int = 0


def cluster(array: Array, axis: Axes, group: int, book: Codebook) -> Array:
    """Return an array of the same type and shape whose parts have at most ``book.k`` values each.

    Args:
        array: Of any shape.
        axis: Of its output channels, or the axes that number them together.
        group: Neighbours in a channel that are a part; 0 takes the whole array for one.
        book: How each part is clustered.
    """
    moved = _channels_first(array, axis)
    parts = moved.reshape(-1, group or max(array.size, 1))
    together = book.initial == "optimal" and parts.shape[1] <= _EXACT
    found = _rows(parts, book) if together else np.stack([_shared(part, book) for part in parts])
    return _back(found.reshape(moved.shape), axis)


def on_grid(array: Array, axis: Axes, book: Codebook, bits: int) -> Array:
    """Return an array of at most ``book.k`` (4 or more) integers of ``bits``, each channel times its own scale.

    Integers are -127..127 of 8 bits, -7..7 of 4. Both ends are among them and every channel ends at one, so that
    per-channel quantization, whose scale is the greatest magnitude over 127 or 7, finds the same again. Of 4 bits a
    channel is clipped to where its squared error is least. Errors weigh as in the weights.
    """
    moved = _channels_first(array, axis)
    numbers = rows(array, axis).astype(np.float64)
    top = 2 ** (bits - 1) - 1
    every = np.arange(-top, top + 1.0)
    scales = _scales(numbers, every)
    values = _integers(numbers / scales, scales, every, book)
    if len(values) < len(every):
        scales = _scales(numbers, values)  # fewer values end elsewhere
    found = _snapped(numbers / scales, values, book.keep_zeros) * scales
    return _back(found.reshape(moved.shape), axis).astype(array.dtype)


def _scales(numbers: Array, values: Array) -> Array:
    """Return the scale of each channel (channels, 1), by which its numbers are nearest to some sorted integers."""
    full = np.abs(numbers).max(1, keepdims=True) / values[-1]
    full[full == 0] = 1
    if values[-1] > _CLIPPED:
        return np.asarray(full)
    seen = numbers[:, :: max(1, numbers.shape[1] // _SEEN)]
    best, least = full, np.full(full.shape, np.inf)
    for share in _CLIPS:
        scale = full * share
        error = ((_nearest(seen / scale, values) * scale - seen) ** 2).sum(1, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return np.asarray(best)


def _integers(steps: Array, scales: Array, every: Array, book: Codebook) -> Array:
    """Choose sorted integers, the ends among them, by k-means on those that steps (channels, n) are nearest to."""
    top = int(every[-1])
    codes = np.clip(np.rint(steps), -top, top).astype(np.int64)
    counts = np.zeros(len(every))  # of the integers, each by the square of its channel's scale
    np.add.at(counts, codes + top, np.broadcast_to(scales**2, codes.shape))
    zero = top if book.keep_zeros and counts[top] else None
    if book.initial == "optimal":
        return optimal.among(every, counts, book.k, zero)
    fixed = [0, len(every) - 1, *([] if zero is None else [zero])]
    counts[fixed] = 0
    free = _centroids(every, counts, book, book.k - len(fixed)) if counts.any() else every[:0]
    return np.unique(np.concatenate([every[fixed], np.rint(free)]))


def _snapped(steps: Array, values: Array, keep_zeros: bool) -> Array:
    """Return the nearest of the values; a zero that is kept stands for nothing but itself."""
    if not keep_zeros or 0 not in values:
        return _nearest(steps, values)
    return np.where(np.rint(steps) == 0, 0.0, _nearest(steps, values[values != 0]))


def distinct(array: Array, axis: Axes = 0, group: int = 0) -> int:
    """Return the most distinct values that a part has; parts are those of ``cluster``."""
    parts = _channels_first(array, axis).reshape(-1, group or max(array.size, 1))
    ordered = np.sort(parts, axis=1)
    return int((np.diff(ordered, axis=1) != 0).sum(1).max(initial=0)) + 1


def rows(array: Array, axis: Axes) -> Array:
    """Return an array as (channels, numbers of each)."""
    return _channels_first(array, axis).reshape(-1, row(array, axis))


def row(array: Array, axis: Axes) -> int:
    """Return the numbers that one channel has."""
    return int(array.size // max(channels(array, axis), 1))


def channels(array: Array, axis: Axes) -> int:
    """Return how many channels there are."""
    return prod(array.shape[at] for at in ((axis,) if isinstance(axis, int) else axis))


def _channels_first(array: Array, axis: Axes) -> Array:
    return np.moveaxis(array, axis, 0 if isinstance(axis, int) else tuple(range(len(axis))))


def _back(moved: Array, axis: Axes) -> Array:
    """Return an array whose channels were brought to the front as it was before."""
    return np.ascontiguousarray(np.moveaxis(moved, 0 if isinstance(axis, int) else tuple(range(len(axis))), axis))


def noise(before: Array, after: Array) -> float:
    """Return the share of an array's energy that its error has; 0 where nothing was lost."""
    wanted, lost = before.astype(np.float64).ravel(), (before.astype(np.float64) - after).ravel()
    energy = float(wanted @ wanted)
    return float(lost @ lost) / energy if energy else 0.0


def sqnr_db(share: float) -> float:
    """Return a share of noise as the ratio of signal to it, in dB; 200 where there is none."""
    return float(-10 * np.log10(share)) if share > 1e-20 else 200.0


def centroids(values: Array, book: Codebook) -> Array:
    """Return at most ``book.k`` values that stand for all, sorted float64.

    Up to 4,096 distinct values are clustered as they are; more by their histogram: bins that hold the mean of what
    fell into them.
    """
    points, weights = _points(values)
    if book.initial != "optimal" or len(points) <= _EXACT:
        return _centroids(points, weights, book, book.k)
    coarse = _merged(points, weights)
    return _lloyd(points, weights, _centroids(*coarse, book, book.k))


def _rows(parts: Array, book: Codebook) -> Array:
    """Cluster every row (rows, n) for itself, exactly; a zero that is kept counts as one value of its row."""
    kept = (parts == 0) if book.keep_zeros else np.zeros(parts.shape, bool)
    found = np.zeros_like(parts)
    for has_zero in (False, True):
        rows = np.flatnonzero(kept.any(1) == has_zero)
        k = max(book.k - has_zero, 1)
        order = np.argsort(parts[rows], axis=1)
        points = np.take_along_axis(parts[rows], order, 1).astype(np.float64)
        weights = 1.0 - np.take_along_axis(kept[rows], order, 1)
        values = optimal.centroids(points, weights, k).astype(parts.dtype) if len(rows) else np.empty((0, k))
        for row, each in zip(rows, values, strict=True):
            found[row] = _assigned(parts[row], each[np.isfinite(each)]) if np.isfinite(each).any() else 0
    found[kept] = 0
    return found


def _shared(flat: Array, book: Codebook) -> Array:
    """Cluster a flat array as a whole."""
    kept = flat == 0
    if not book.keep_zeros or not kept.any():
        return _assigned(flat, centroids(flat, book))
    found = np.zeros_like(flat)
    if not kept.all():
        rest = flat[~kept]
        found[~kept] = _assigned(rest, centroids(rest, replace(book, k=max(book.k - 1, 1))))
    return found


def _assigned(flat: Array, values: Array) -> Array:
    """Give each number the nearest of some values, in its own type."""
    values = np.unique(values.astype(flat.dtype))
    wide = np.promote_types(flat.dtype, np.float32)
    edges = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(wide)
    found: Array = values[np.searchsorted(edges, flat)]
    return found


def _points(values: Array) -> tuple[Array, Array]:
    """Return at most 65,536 sorted points, and how many values each stands for."""
    low, high = float(values.min()), float(values.max())
    if values.size <= _BINS or values.dtype.itemsize < 4 or high - low < _NARROW:
        points, counts = np.unique(values, return_counts=True)
        return points.astype(np.float64), counts.astype(np.float64)
    step = values.dtype.type(_BINS / (high - low))
    at = ((values - values.dtype.type(low)) * step).astype(np.int32)
    np.clip(at, 0, _BINS - 1, out=at)
    counts = np.bincount(at, minlength=_BINS).astype(np.float64)
    sums = np.bincount(at, values, minlength=_BINS)
    full = counts > 0
    return sums[full] / counts[full], counts[full]


def _merged(points: Array, weights: Array) -> tuple[Array, Array]:
    """Bring points to 2,048, fine where the best centroids lie close: by the cube root of the density.

    Source: Panter and Dite 1951, "Quantization distortion in pulse-count modulation".
    """
    spread = np.cumsum(np.cbrt(weights * np.gradient(points) ** 2))
    groups = np.minimum((spread / spread[-1] * _MERGED).astype(np.int64), _MERGED - 1)
    mass = np.bincount(groups, weights, minlength=_MERGED)
    sums = np.bincount(groups, weights * points, minlength=_MERGED)
    full = mass > 0
    return sums[full] / mass[full], mass[full]


def _centroids(points: Array, weights: Array, book: Codebook, k: int) -> Array:
    """Run k-means on sorted weighted points, as the codebook starts it."""
    if book.initial == "optimal":
        best: Array = optimal.centroids(points[None], weights[None], k)[0]
        known: Array = best[np.isfinite(best)]
        return known
    used = weights > 0
    points, weights = points[used], weights[used]
    if len(points) <= k:
        return points
    if book.initial == "linear":
        start = np.linspace(points[0], points[-1], k)
    elif book.initial == "density":
        shares = np.cumsum(weights) / weights.sum()
        start = np.interp((np.arange(k) + 0.5) / k, shares, points)
    else:
        start = _plus_plus(points, weights, k, np.random.default_rng(book.seed))
    return _lloyd(points, weights, start)


def _plus_plus(points: Array, weights: Array, k: int, rng: np.random.Generator) -> Array:
    """Draw starts, each with a chance in proportion to its squared distance from those before.

    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    chosen = [rng.choice(points, p=weights / weights.sum())]
    far = (points - chosen[0]) ** 2
    while len(chosen) < k and (far * weights).any():
        chosen.append(rng.choice(points, p=far * weights / (far * weights).sum()))
        far = np.minimum(far, (points - chosen[-1]) ** 2)
    return np.sort(np.array(chosen))


def _lloyd(points: Array, weights: Array, start: Array) -> Array:
    """Move centroids to the means of what is nearest to them, until they stay; those of nothing are dropped."""
    center = float(points @ weights / weights.sum())
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    total = np.concatenate([[0.0], np.cumsum((points - center) * weights)])
    found, before = np.sort(start), np.empty(0, np.int64)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(points, (found[1:] + found[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], ends, [len(points)]])
        if np.array_equal(bounds, before):
            break
        shares, before = np.diff(mass[bounds]), bounds
        full = shares > 0
        found = found.copy()
        found[full] = np.diff(total[bounds])[full] / shares[full] + center
    return found[np.diff(mass[before]) > 0]


def _nearest(points: Array, values: Array) -> Array:
    """Return for each point the nearest of some sorted values."""
    nearest: Array = values[np.searchsorted((values[1:] + values[:-1]) / 2, points)]
    return nearest


def bits_for(values: int) -> int:
    """Return the bits of a code that tells so many values apart, at least 1."""
    return max((values - 1).bit_length(), 1)


def stored_bytes(size: int, books: int, k: int, value_bytes: int) -> int:
    """Return the bytes of ``size`` codes and of ``books`` codebooks of ``k`` values."""
    return -(-size * bits_for(k) // 8) + books * k * value_bytes
