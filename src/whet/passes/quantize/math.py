"""Ranges of activations from streams of values: arithmetic on NumPy arrays, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.types import Range

if TYPE_CHECKING:
    from whet.types import Array

BINS = 2048
_LEVELS = 128  # of a symmetric 8-bit code, one side
_COUNTED = 1 << 17  # values of an array
_STRIDE = 8  # bins between two thresholds that the entropy search tries


@dataclass
class Extremes:
    """The least and greatest value of a stream."""

    low: float = np.inf
    high: float = -np.inf

    def add(self, values: Array) -> None:
        """Take in some values of any shape."""
        if values.size:
            self.low = float(np.minimum(self.low, values.min()))  # which keeps a NaN, as min() would not
            self.high = float(np.maximum(self.high, values.max()))

    def range(self) -> Range:
        """Return the range, widened to hold zero: quantization must be able to say 0 exactly (padding, ReLU)."""
        if self.low > self.high:
            return Range(0.0, 0.0)
        return Range(min(self.low, 0.0), max(self.high, 0.0))


class Histogram:
    """Counts of a stream's values in ``BINS`` equal bins between extremes that are known beforehand.

    Of an array of more than ``_COUNTED`` values so many are drawn: a transformer has hundreds of tensors with
    millions of values a batch, and a quantile of 99.99 % is as well known from a part of them.
    """

    def __init__(self, extremes: Range) -> None:
        self.extremes = extremes
        self.counts = np.zeros(BINS, dtype=np.int64)
        self._rng = np.random.default_rng(0)

    @property
    def edges(self) -> Array:
        """The (BINS + 1,) limits of the bins."""
        return np.linspace(self.extremes.low, self.extremes.high, BINS + 1)

    def add(self, values: Array) -> None:
        """Take in some values of any shape."""
        if self.extremes.high > self.extremes.low:
            if values.size > _COUNTED:
                values = values.reshape(-1)[self._rng.integers(0, values.size, _COUNTED)]
            found, _ = np.histogram(values, BINS, (self.extremes.low, self.extremes.high))
            self.counts += found

    def percentile(self, share: float) -> Range:
        """Return the range that keeps ``share`` percent of the values, as much cut off below as above.

        Right to within the width of a bin. Zero stays inside.
        """
        total = self.counts.sum()
        if not total:
            return self.extremes
        below = np.concatenate([[0.0], np.cumsum(self.counts) / total])  # (BINS + 1,)
        cut = (100.0 - share) / 200.0
        low = self.edges[np.searchsorted(below, cut, side="right") - 1]
        high = self.edges[min(int(np.searchsorted(below, 1.0 - cut, side="left")), BINS)]
        return Range(min(float(low), 0.0), max(float(high), 0.0))

    def entropy(self) -> Range:
        """Return the range whose clipped and quantized values diverge least from the original ones.

        The threshold on magnitudes that minimises the Kullback-Leibler divergence (Migacz 2017).
        """
        magnitudes = self._magnitudes()
        if not magnitudes.any():
            return self.extremes
        tried = np.unique(np.append(np.arange(_LEVELS, BINS, _STRIDE), BINS))
        best = min(tried, key=lambda size: (_divergence(magnitudes, int(size)), -size))
        limit = max(abs(self.extremes.low), abs(self.extremes.high)) * int(best) / BINS
        return Range(max(self.extremes.low, -limit), min(self.extremes.high, limit))

    def _magnitudes(self) -> Array:
        """Return counts of magnitudes in BINS bins from 0 to the greatest."""
        centres = np.abs((self.edges[:-1] + self.edges[1:]) / 2)
        most = max(abs(self.extremes.low), abs(self.extremes.high))
        found, _ = np.histogram(centres, BINS, (0.0, most), weights=self.counts)
        found[0] = found[1]  # a ReLU's exact zeros cost nothing at any threshold, and would drown the rest
        return np.asarray(found)


def _divergence(counts: Array, size: int) -> float:
    """Return KL(P || Q): P is the first ``size`` bins, outliers in the last; Q is P in ``_LEVELS`` levels."""
    p = counts[:size].astype(np.float64)
    seen = p > 0
    p[-1] += counts[size:].sum()
    level = np.minimum(np.arange(size) * _LEVELS // size, _LEVELS - 1)  # (size,)
    mass = np.bincount(level, weights=counts[:size], minlength=_LEVELS)
    members = np.bincount(level, weights=seen, minlength=_LEVELS)
    spread = np.divide(mass, members, out=np.zeros(_LEVELS), where=members > 0)
    q = np.where(seen, spread[level], 0.0)
    if not q.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    tiny = 1e-9  # outliers fall into a bin that Q may not have
    return float((p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], tiny))).sum())


_CLIPS = np.linspace(0.3, 1.0, 36)  # shares of the greatest magnitude that a scale is tried for
_MOST = 1 << 20  # numbers that are looked at for one scale


def narrowed(weight: Array, axis: int | None, bits: int) -> tuple[Array, Array]:
    """Round a weight to integers of ``bits`` bits, symmetric around 0, by the scales of least squared error.

    Args:
        weight: Floats of any shape.
        axis: Of the channels, which have a scale each; None for one scale.
        bits: 2 to 8: integers from ``-(2**(bits - 1) - 1)`` to as much above.

    Returns:
        Integers of the weight's shape (int8), and scales (channels,), or (1,).
    """
    most = (1 << (bits - 1)) - 1
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    seen = rows[:, :: max(1, rows.shape[1] // _MOST)]  # (channels, some)
    full = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / most
    best, least = full, np.full(full.shape, np.inf)
    for share in _CLIPS[::-1]:
        scale = full * share
        error = ((np.clip(np.rint(seen / scale), -most, most) * scale - seen) ** 2).sum(axis=1, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    integers = np.clip(np.rint(rows / best), -most, most).astype(np.int8)
    if axis is not None:
        integers = np.moveaxis(integers.reshape(weight.shape[axis], *np.delete(weight.shape, axis)), 0, axis)
    return integers.reshape(weight.shape), best.reshape(-1)
