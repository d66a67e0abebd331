"""How many weights each layer loses: more of the layers without whose weights the outputs change least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from whet.data.data import Part
from whet.errors import PassError
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import PassContext
from whet.passes.prune import math
from whet.passes.prune.choose import on_line, order
from whet.progress import Event

if TYPE_CHECKING:
    from whet.types import Array, Batch

_SAMPLES = 64
_PROBES = (0.3, 0.6, 0.9)  # shares of zeros that each weight is tried at
_RUNGS = 50  # that the share of a weight goes up by


def shares_by_sensitivity(
    model: Model, arrays: Mapping[str, Array], sparsity: float, context: PassContext
) -> dict[str, float]:
    """Return the share of zeros of each weight, with which all together have ``sparsity``.

    Raises:
        PassError: The model's inputs are not known.
    """
    batch = _batch(model, context)
    adapter = adapter_for(model.format)
    wanted = adapter.forward(model, batch)
    losses: list[list[tuple[float, float]]] = []
    for at, (name, array) in enumerate(arrays.items()):
        context.on_event(Event("sensitivity of layers", at, len(arrays)))
        points = [(0.0, 0.0)]
        for share in _PROBES:
            tried = adapter.with_weights(model, {name: math.zero_least(array, round(share * array.size))})
            points.append((share, _unexplained(wanted, adapter.forward(tried, batch))))
        losses.append(points)
    return dict(zip(arrays, allocate(losses, [array.size for array in arrays.values()], sparsity), strict=True))


def allocate(losses: list[list[tuple[float, float]]], sizes: list[int], sparsity: float) -> list[float]:
    """Return shares whose loss is small, by weights of these sizes: zeros go where they cost least each."""
    ladder = [*range(_RUNGS, 0, -1)]

    def price(at: int, have: int, keep: int) -> float:
        now, then = (on_line(losses[at], 1 - kept / _RUNGS) for kept in (have, keep))
        return max(then - now, 0.0) / sizes[at]

    left, shares = sparsity * sum(sizes), [0.0] * len(sizes)
    for at in order([ladder] * len(sizes), price):
        more = min(1 / _RUNGS, left / sizes[at])
        shares[at], left = shares[at] + more, left - more * sizes[at]
        if left <= 0:
            break
    return shares


def _batch(model: Model, context: PassContext) -> Batch:
    """Return samples to calibrate on; synthetic ones where there are none."""
    if model.signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    size, data = model.signature.batch or _SAMPLES, context.data
    if data is None or not data.size(Part.CALIBRATE):
        return model.signature.synthetic(size, context.seed)
    count = min(size, data.size(Part.CALIBRATE))
    found = model.signature.bind(data.batch(Part.CALIBRATE, range(count)))
    return model.signature.fill(found, size) if model.signature.batch else found


def _unexplained(wanted: Batch, found: Batch) -> float:
    """Return the error of floating outputs as a share of how much they vary between samples."""
    floats = [name for name, value in wanted.items() if np.issubdtype(value.dtype, np.floating)]
    error = sum(float(((found[name].astype(np.float64) - wanted[name]) ** 2).sum()) for name in floats)
    spread = sum(float(((wanted[name] - wanted[name].mean(0)).astype(np.float64) ** 2).sum()) for name in floats)
    return error / max(spread, 1e-30)
