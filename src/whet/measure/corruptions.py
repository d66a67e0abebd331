"""What inputs meet in the field: noise, blur, light, lost tokens, missing columns. NumPy alone, seeded.

They act on model-ready inputs, so that any preprocessing and any source of data will do. How strong each is follows
from the inputs themselves: a channel's or a column's spread, a picture's side. What an input is, its axes and type
tell: see ``Kind``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array, Batch

_CHANNELS = (1, 3, 4)
_LEAST_SIDE = 5  # pixels; what is smaller is no picture
_BLURRED_SIDE = 28  # pixels that a side counts at least where a blur is measured by it: less would change nothing


class Kind(StrEnum):
    """What an input is."""

    PICTURE = "picture"  # (N, C, H, W) or (N, H, W, C) of 1, 3 or 4 channels
    TEXT = "text"  # (N, L) whole numbers
    MASK = "mask"  # zeros and ones, of the shape of a text
    TABLE = "table"  # (N, columns), or a series (N, steps, columns), of floats


@dataclass(frozen=True, slots=True)
class Corruption:
    """One way to spoil inputs, at one severity.

    Attributes:
        name: ``gaussian noise``.
        kind: Of the inputs that it acts on; the others stay as they are.
        severity: 1 to 3.
        amount: In the unit that ``unit`` tells.
        unit: ``of a channel's spread``.
    """

    name: str
    kind: Kind
    severity: int
    amount: float
    unit: str


# As strong as the mild, middle and hard levels of Hendrycks and Dietterich 2019 ("Benchmarking Neural Network
# Robustness to Common Corruptions and Perturbations"), who give theirs in shares of the range of bytes.
_GRID = {
    Kind.PICTURE: {
        "gaussian noise": ((0.1, 0.2, 0.4), "of a channel's spread"),
        "blur": ((0.015, 0.025, 0.04), "of the short side, the Gaussian's standard deviation"),
        "brightness": ((0.25, 0.5, 1.0), "of a channel's spread brighter"),
        "contrast": ((0.75, 0.5, 0.3), "of the contrast left"),
    },
    Kind.TEXT: {"dropped tokens": ((0.05, 0.15, 0.3), "of the tokens")},
    Kind.TABLE: {
        "missing columns": ((0.1, 0.25, 0.5), "of the columns set to their mean"),
        "noise": ((0.1, 0.25, 0.5), "of a column's spread"),
    },
}


@dataclass(frozen=True)
class Usual:
    """One input as it usually is; arrays broadcast against (N, ...).

    Attributes:
        kind: What it is.
        axis: Of its channels or columns.
        mean, spread, low, high: By channel or column.
    """

    kind: Kind
    axis: int
    mean: Array
    spread: Array
    low: Array
    high: Array


def learn(batch: Batch) -> dict[str, Usual]:
    """Return what clean inputs usually are, by name; those that no corruption is known for are left out.

    Args:
        batch: Clean samples, a hundred or so.
    """
    texts = _texts(batch)
    found = {}
    for name, array in batch.items():
        kind, axis = _kind(name, array, texts)
        if kind is not None:
            others = tuple(at for at in range(array.ndim) if at != axis % array.ndim)
            values = array.astype(np.float64)
            found[name] = Usual(
                kind, axis, *(measure(values, axis=others, keepdims=True) for measure in (np.mean, np.std)),
                *(measure(values, axis=others, keepdims=True) for measure in (np.min, np.max)),
            )  # fmt: skip
    return found


def known(usual: Mapping[str, Usual]) -> list[Corruption]:
    """Return every corruption there is for such inputs, each at three severities."""
    kinds = {item.kind for item in usual.values()}
    return [
        Corruption(name, kind, severity, amount, unit)
        for kind, grid in _GRID.items()
        if kind in kinds
        for name, (amounts, unit) in grid.items()
        for severity, amount in enumerate(amounts, 1)
    ]


def corrupt(batch: Batch, how: Corruption, usual: Mapping[str, Usual], rng: np.random.Generator) -> Batch:
    """Return a spoilt copy of a batch; types and shapes stay.

    Args:
        batch: Clean inputs.
        how: The corruption.
        usual: As ``learn`` found it.
        rng: All randomness comes from it.
    """
    if how.kind is Kind.TEXT:
        return _drop_tokens(batch, how.amount, usual, rng)
    spoilt = dict(batch)
    for name, item in usual.items():
        if item.kind is how.kind:
            values = batch[name].astype(np.float32 if batch[name].itemsize <= 4 else np.float64)
            changed = _CHANGES[how.name](values, how.amount, item, rng)
            spoilt[name] = _as_before(changed, batch[name], item)
    return spoilt


def _texts(batch: Batch) -> list[str]:
    """Return the names of the inputs that hold tokens: (N, L) whole numbers, of zeros and ones only if all are."""
    whole = [name for name, array in batch.items() if array.ndim == 2 and array.dtype.kind in "iu"]
    return [name for name in whole if not _binary(batch[name])] or whole


def _kind(name: str, array: Array, texts: list[str]) -> tuple[Kind | None, int]:
    """Return what an input is, and the axis of its channels or columns."""
    if name in texts:
        return Kind.TEXT, 1
    if texts and array.ndim == 2 and _binary(array) and ("mask" in name.lower() or bool(array[:, 0].all())):
        return Kind.MASK, 1
    if array.ndim == 4 and array.dtype.kind in "fu":
        for axis, sides in ((1, array.shape[2:]), (3, array.shape[1:3])):
            if array.shape[axis] in _CHANNELS and min(sides) >= _LEAST_SIDE:
                return Kind.PICTURE, axis
    if array.ndim in (2, 3) and array.dtype.kind == "f":
        return Kind.TABLE, 1 if array.shape[-1] == 1 else array.ndim - 1
    return None, 0


def _binary(array: Array) -> bool:
    return bool(np.isin(array, (0, 1)).all())


def _as_before(changed: Array, before: Array, item: Usual) -> Array:
    """Return values in the type they had; a picture stays within the values that pictures take."""
    if item.kind is Kind.PICTURE:
        changed = np.clip(changed, item.low, item.high)
    if before.dtype.kind in "iu":
        changed = np.round(changed)
    return np.ascontiguousarray(changed, dtype=before.dtype)


def _noise(values: Array, amount: float, item: Usual, rng: np.random.Generator) -> Array:
    return np.asarray(values + amount * item.spread * rng.standard_normal(values.shape, dtype=np.float32))


def _brighten(values: Array, amount: float, item: Usual, rng: np.random.Generator) -> Array:
    return np.asarray(values + amount * item.spread)


def _flatten(values: Array, amount: float, item: Usual, rng: np.random.Generator) -> Array:
    """Draw every pixel towards its picture's mean, channel by channel."""
    sides = tuple(axis for axis in (1, 2, 3) if axis != item.axis)
    mean = values.mean(axis=sides, keepdims=True)
    return np.asarray(mean + amount * (values - mean))


def _blur(values: Array, amount: float, item: Usual, rng: np.random.Generator) -> Array:
    """Blur by a Gaussian, one side after the other; each is a product with a banded matrix."""
    pictures = values if item.axis == 1 else np.moveaxis(values, item.axis, 1)  # (N, C, H, W)
    high, wide = pictures.shape[2:]
    sigma = amount * max(min(high, wide), _BLURRED_SIDE)
    down, across = (gaussian(side, sigma).astype(values.dtype) for side in (high, wide))
    blurred = down @ pictures @ across.T
    return blurred if item.axis == 1 else np.moveaxis(blurred, 1, item.axis)


def gaussian(side: int, sigma: float) -> Array:
    """Return the matrix (side, side) that blurs a line by a Gaussian cut at four sigma; the ends are repeated."""
    reach = int(4 * sigma + 0.5)
    taps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    places = np.clip(np.arange(side)[:, None] + taps, 0, side - 1)  # (side, taps)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], places), weights / weights.sum())
    return matrix


def _lose_columns(values: Array, amount: float, item: Usual, rng: np.random.Generator) -> Array:
    """Set columns of each sample to their usual mean; a series loses them at every step."""
    shape = [1] * values.ndim
    shape[0], shape[item.axis] = values.shape[0], values.shape[item.axis]
    return np.where(rng.random(shape) < amount, item.mean, values)


def _drop_tokens(batch: Batch, amount: float, usual: Mapping[str, Usual], rng: np.random.Generator) -> Batch:
    """Mask tokens out, or where there is no mask replace them by 0, which stands for padding or the unknown.

    The first of a row stays: it often stands for the whole text.
    """
    spoilt = dict(batch)
    texts = [name for name, item in usual.items() if item.kind is Kind.TEXT]
    masks = [name for name, item in usual.items() if item.kind is Kind.MASK]
    gone = {shape: rng.random(shape) < amount for shape in sorted({batch[name].shape for name in texts})}
    for name in masks or texts:
        array = batch[name]
        if array.shape in gone:
            dropped = gone[array.shape] & (np.arange(array.shape[1]) > 0)
            spoilt[name] = np.where(dropped, np.zeros((), array.dtype), array)
    return spoilt


_CHANGES = {
    "gaussian noise": _noise,
    "blur": _blur,
    "brightness": _brighten,
    "contrast": _flatten,
    "missing columns": _lose_columns,
    "noise": _noise,
}
