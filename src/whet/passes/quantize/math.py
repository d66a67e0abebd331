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
COUNTED = 1 << 22  # values of a tensor
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

    Of arrays that have more than ``COUNTED`` values together a part of each is drawn: networks have hundreds of
    tensors of millions of values, and a quantile of 99.99 % is as well known from four million.

    Args:
        extremes: Nothing lies beyond them.
        arrays: How many will be added.
    """

    def __init__(self, extremes: Range, arrays: int = 1) -> None:
        self.extremes = extremes
        self.counts = np.zeros(BINS, dtype=np.int64)
        self._most = max(1, COUNTED // arrays)
        self._rng = np.random.default_rng(0)

    @property
    def edges(self) -> Array:
        """The (BINS + 1,) limits of the bins."""
        return np.linspace(self.extremes.low, self.extremes.high, BINS + 1)

    def add(self, values: Array) -> None:
        """Take in some values of any shape."""
        if self.extremes.high > self.extremes.low:
            if values.size > self._most:
                values = values.reshape(-1)[self._rng.integers(0, values.size, self._most)]
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


_ON_GRID = 1e-3  # of a step: how far float32 arithmetic, the folding of a BatchNorm among it, moves a weight
_GLANCE = 64  # numbers of a channel that tell most grids off


def on_grid(weight: Array, axis: int | None, most: int) -> tuple[Array, Array] | None:
    """Return the integers and scales that give a weight back, where each channel has such a grid; None where not.

    A channel that was trained on a grid of few bits is on it still after a BatchNorm was folded into it. Of grids
    that fit, the coarsest is taken, unless a finer one lets a channel use the integers that others use.

    Args:
        weight: Floats of any shape.
        axis: Of the channels; None for one scale.
        most: The greatest magnitude an integer may have, up to 127.
    """
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    rows = rows.astype(np.float64)
    greatest = np.abs(rows).max(axis=1, keepdims=True)
    shares = rows / np.where(greatest > 0, greatest, 1.0)  # (channels, numbers), -1 to 1
    glance = shares[:, :: max(1, shares.shape[1] // _GLANCE)]
    tops = np.zeros(len(rows), np.int64)  # the integer of the greatest magnitude, by channel
    for top in range(1, most + 1):
        left = np.flatnonzero(tops == 0)
        close = left[_fits(glance[left], top)]
        tops[close[_fits(shares[close], top)]] = top
    if not tops.all():
        return None
    tops = _alike(shares, tops, most)
    integers = np.rint(shares * tops[:, None]).astype(np.int8)
    if axis is not None:
        integers = np.moveaxis(integers.reshape(weight.shape[axis], *np.delete(weight.shape, axis)), 0, axis)
    scales = np.where(greatest[:, 0] > 0, greatest[:, 0], 1.0) / tops
    return integers.reshape(weight.shape), scales


def _fits(shares: Array, top: int) -> Array:
    """Tell by row whether ``top`` times its numbers are whole."""
    steps = shares * top
    return np.asarray((np.abs(steps - np.rint(steps)) < _ON_GRID).all(axis=1))


def _alike(shares: Array, tops: Array, most: int) -> Array:
    """Return multiples of ``tops`` with which the rows have as few distinct integers together as can be seen.

    Where one end serves all rows, as clustering on a grid leaves them, all have it. Else rows of many values, which
    have no choice, come first; the others follow them.
    """
    if not (tops.max(initial=1) % tops).any():
        return np.full_like(tops, tops.max(initial=1))
    found = [np.unique(np.rint(row * top)).astype(np.int64) for row, top in zip(shares, tops, strict=True)]
    used: set[int] = set()
    chosen = tops.copy()
    for row in sorted(range(len(found)), key=lambda at: -len(found[at])):
        times = range(1, most // int(tops[row]) + 1)
        best = min(times, key=lambda by: (len(set((found[row] * by).tolist()) - used), by))
        used |= set((found[row] * best).tolist())
        chosen[row] = tops[row] * best
    return chosen
