"""Integers that all channels of a weight share, each times its own scale: found again in the array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array

FEW = 7  # the greatest of 4 bits: a grid so coarse that training has to keep it
_NEAR = 1e-3  # of a step: how far float32 arithmetic moves a weight


def of(rows: Array, top: int) -> Array:
    """Return the sorted integers that rows (channels, n) are nearest to, the greatest of each channel ``top``.

    Both ends are among them, whether a channel has them or not: training may take one there.
    """
    return np.unique(np.concatenate([[-top, top], np.rint(_steps(rows, top)).ravel()])).astype(np.int64)


def shared(rows: Array, most: int) -> Array | None:
    """Return the at most ``most`` integers of 4 bits whose multiples all rows are, None where they are not."""
    steps = _steps(rows, FEW)
    if np.any(np.abs(steps - np.rint(steps)) > _NEAR):
        return None
    found = of(rows, FEW)
    return found if len(found) <= most else None


def _steps(rows: Array, top: int) -> Array:
    greatest = np.abs(rows).max(axis=1, keepdims=True, initial=0).astype(np.float64)
    return np.asarray(rows / np.where(greatest > 0, greatest, 1.0) * top)
