"""Which weights go: arithmetic on NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array


def prune_layers(weights: Mapping[str, Array], sparsity: float) -> dict[str, Array]:
    """Zero the ``round(sparsity * size)`` elements of least magnitude of every array."""
    return {name: zero_least(array, round(sparsity * array.size)) for name, array in weights.items()}


def prune_global(weights: Mapping[str, Array], sparsity: float) -> dict[str, Array]:
    """Zero the ``round(sparsity * total)`` elements of least magnitude of all arrays together; types stay."""
    flat = np.concatenate([array.ravel() for array in weights.values()])
    flat = zero_least(flat, round(sparsity * flat.size))
    pruned, start = {}, 0
    for name, array in weights.items():
        pruned[name] = flat[start : start + array.size].reshape(array.shape).astype(array.dtype)
        start += array.size
    return pruned


def zero_least(array: Array, count: int) -> Array:
    """Return a copy with its ``count`` elements of least magnitude set to zero; of equals, the first go first."""
    out = array.copy()
    if count > 0:
        order = np.argsort(np.abs(array), axis=None, kind="stable")
        out.reshape(-1)[order[:count]] = 0
    return out


def prune_shares(weights: Mapping[str, Array], shares: Mapping[str, float]) -> dict[str, Array]:
    """Zero in every array its own share of the elements, those of least magnitude."""
    return {name: zero_least(array, round(shares[name] * array.size)) for name, array in weights.items()}


def prune_pattern(array: Array, axis: int, kept: int, of: int) -> Array:
    """Keep the ``kept`` greatest of every ``of`` neighbours along an axis, whose length is a multiple of ``of``."""
    rows = np.moveaxis(array, axis, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, of)
    ranks = np.argsort(np.argsort(np.abs(groups), axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.moveaxis(np.where(ranks >= of - kept, groups, 0).reshape(rows.shape), -1, axis).astype(array.dtype)


def polynomial(step: int, begin: int, end: int, initial: float, final: float) -> float:
    """Return the sparsity of a step: from ``initial`` to ``final``, fast at first, as a cubic that ends flat."""
    done = min(max((step - begin) / max(end - begin, 1), 0.0), 1.0)
    return final + (initial - final) * (1 - done) ** 3


def sqnr_by_kind(
    before: Mapping[str, Array], after: Mapping[str, Array], kinds: Mapping[str, str]
) -> dict[str, float]:
    """Return by layer type how loud the weights are over what was taken away, in dB."""
    found = {}
    for kind in dict.fromkeys(kinds[name] for name in after):
        names = [name for name in after if kinds[name] == kind]
        energy = sum(float((before[name].astype(np.float64) ** 2).sum()) for name in names)
        noise = sum(float(((before[name] - after[name]).astype(np.float64) ** 2).sum()) for name in names)
        found[kind] = float(10 * np.log10(energy / noise)) if noise else 200.0
    return found


def sparsity(arrays: Mapping[str, Array]) -> float:
    """Return the share of zeros among all elements; 0 of none."""
    total = sum(array.size for array in arrays.values())
    zeros = sum(array.size - int(np.count_nonzero(array)) for array in arrays.values())
    return zeros / total if total else 0.0
