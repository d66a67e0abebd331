"""Thin factors of a matrix or kernel, and the ranks they need: arithmetic on NumPy arrays.

A weight is (out, in, *window); that of a Linear is a kernel without a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array

_ROUNDS = 10  # of the iteration that fits both sides of a Tucker decomposition to each other
_SHARES = np.linspace(1, 0.005, 200)  # of the channels, tried for a number of products


@dataclass(frozen=True, slots=True)
class Wish:
    """How thin: a share of energy, of MACs, or a rank, of which one is not zero; ranks in steps of ``multiple``."""

    energy: float = 0.0
    macs: float = 0.0
    rank: int = 0
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class Chain:
    """What stands in place of a layer.

    Attributes:
        method: ``svd``, ``spatial`` or ``tucker``.
        parts: Weights (out, in, *window), first to last.
        axes: For each part and axis of the window, whether it takes the layer's stride, padding and dilation.
        energy: Share of the layer's squared weights that is kept.
    """

    method: str
    parts: tuple[Array, ...]
    axes: tuple[tuple[bool, ...], ...]
    energy: float

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers of channels between the parts."""
        return tuple(int(part.shape[0]) for part in self.parts[:-1])

    @property
    def parameters(self) -> int:
        """Weights of all parts, without the bias."""
        return sum(int(part.size) for part in self.parts)

    def macs(self, stride: Sequence[int]) -> int:
        """Return the products for one position of the output; the edges of a picture are not looked at."""
        shapes = [part.shape for part in self.parts]
        return _macs(shapes, self.axes, stride)


def decompose(weight: Array, method: str, wish: Wish, stride: Sequence[int] = ()) -> Chain:
    """Return the chain that a wish allows.

    Args:
        weight: (out, in, *window).
        method: ``svd``; ``spatial`` and ``tucker`` take two axes of a window.
        wish: How thin.
        stride: Of the layer, along each axis of the window; it decides how often each part is computed.
    """
    exact = weight.astype(np.float64)
    chain = _METHODS[method](exact, wish, tuple(stride) or (1,) * (weight.ndim - 2))
    parts = tuple(np.ascontiguousarray(part, dtype=weight.dtype) for part in chain.parts)
    return Chain(method, parts, chain.axes, min(chain.energy, 1.0))


def rank_for(squares: Array, energy: float) -> int:
    """Return the least number of leading ``squares``, in falling order, that hold this share of their sum."""
    kept = np.cumsum(squares)
    return int(np.searchsorted(kept, energy * kept[-1] * (1 - 1e-12)) + 1) if kept[-1] > 0 else 1


def _svd(weight: Array, wish: Wish, stride: tuple[int, ...]) -> Chain:
    """The window at few channels, then a matrix: the best of its rank, by Eckart and Young."""
    out, window = weight.shape[0], weight.shape[2:]
    axes = ((True,) * len(window), (False,) * len(window))

    def shapes(rank: int) -> list[tuple[int, ...]]:
        return [(rank, *weight.shape[1:]), (out, rank, *(1,) * len(window))]

    left, right, energy = _pair(
        weight.reshape(out, -1), wish, lambda rank: _macs(shapes(rank), axes, stride), weight
    )
    first, second = shapes(len(right))
    return Chain("svd", (right.reshape(first), left.reshape(second)), axes, energy)


def _spatial(weight: Array, wish: Wish, stride: tuple[int, ...]) -> Chain:
    """A column of the window, then a row: the best of its rank, as a matrix of (out, row) by (in, column)."""
    out, inner, high, wide = weight.shape
    axes = ((True, False), (False, True))

    def shapes(rank: int) -> list[tuple[int, ...]]:
        return [(rank, inner, high, 1), (out, rank, 1, wide)]

    matrix = weight.transpose(0, 3, 1, 2).reshape(out * wide, inner * high)
    left, right, energy = _pair(matrix, wish, lambda rank: _macs(shapes(rank), axes, stride), weight)
    row = left.reshape(out, wide, -1).transpose(0, 2, 1)[:, :, None]
    return Chain("spatial", (right.reshape(-1, inner, high, 1), row), axes, energy)


def _pair(matrix: Array, wish: Wish, macs: Callable[[int], int], weight: Array) -> tuple[Array, Array, float]:
    """Return (rows, rank) and (rank, columns), scaled alike, and the share of energy that they keep."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    squares = values**2
    if wish.rank:
        rank = wish.rank
    elif wish.macs:
        rank = int(wish.macs * weight.size / macs(1)) // wish.multiple * wish.multiple or wish.multiple
    else:
        rank = -(-rank_for(squares, wish.energy) // wish.multiple) * wish.multiple
    rank = min(rank, len(values))
    root = np.sqrt(values[:rank])
    energy = float(squares[:rank].sum() / squares.sum()) if squares.sum() else 1.0
    return left[:, :rank] * root, root[:, None] * right[:rank], energy


def _tucker(weight: Array, wish: Wish, stride: tuple[int, ...]) -> Chain:
    """Fewer channels in, the window between these, and out again."""
    out, inner, *window = weight.shape
    flat = len(window) * (False,)
    axes = (flat, len(window) * (True,), flat)
    ones = (1,) * len(window)

    def shapes(ranks: tuple[int, int]) -> list[tuple[int, ...]]:
        return [(ranks[1], inner, *ones), (ranks[0], ranks[1], *window), (out, ranks[0], *ones)]

    ranks = _tucker_ranks(weight, wish, lambda ranks: _macs(shapes(ranks), axes, stride))
    core, left, right = tucker(weight, *ranks)
    first, _, last = shapes(ranks)
    whole = float((weight**2).sum())
    energy = float((core**2).sum()) / whole if whole else 1.0
    return Chain("tucker", (right.T.reshape(first), core, left.reshape(last)), axes, energy)


def tucker(weight: Array, rank_out: int, rank_in: int) -> tuple[Array, Array, Array]:
    """Return the core (rank_out, rank_in, *window) and two orthonormal sides, (out, rank_out) and (in, rank_in)."""
    right = _leading(weight.swapaxes(0, 1), rank_in)
    for _ in range(_ROUNDS):
        left = _leading(np.einsum("oi...,ir->or...", weight, right), rank_out)
        right = _leading(np.einsum("oi...,or->ir...", weight, left), rank_in)
    core = np.einsum("oi...,or,is->rs...", weight, left, right, optimize=True)
    return core, left, right


def _tucker_ranks(weight: Array, wish: Wish, macs: Callable[[tuple[int, int]], int]) -> tuple[int, int]:
    """Return the channels out and in. Of energy, each side may lose half of what may be lost."""
    most = weight.shape[0], weight.shape[1]
    if wish.rank:
        return min(wish.rank, most[0]), min(wish.rank, most[1])
    if wish.macs:
        for share in _SHARES:
            ranks = _rounded(tuple(int(share * size) for size in most), most, wish.multiple, up=False)
            if macs(ranks) <= wish.macs * weight.size:
                return ranks
        return _rounded((1, 1), most, wish.multiple, up=True)
    sides = (weight, weight.swapaxes(0, 1))
    spectra = [np.maximum(np.linalg.eigvalsh(_gram(side))[::-1], 0) for side in sides]
    found = tuple(rank_for(squares, 1 - (1 - wish.energy) / 2) for squares in spectra)
    return _rounded(found, most, wish.multiple, up=True)


def _rounded(ranks: Sequence[int], most: tuple[int, int], multiple: int, *, up: bool) -> tuple[int, int]:
    """Bring ranks to a multiple, at least one of it, and at most as many as there are."""
    steps = [max(-(-rank // multiple) if up else rank // multiple, 1) * multiple for rank in ranks]
    return min(steps[0], most[0]), min(steps[1], most[1])


def _leading(tensor: Array, rank: int) -> Array:
    """Return the orthonormal directions of the first axis that hold most energy, (length, rank)."""
    found: Array = np.linalg.eigh(_gram(tensor))[1][:, ::-1][:, :rank]
    return found


def _gram(tensor: Array) -> Array:
    rows = tensor.reshape(len(tensor), -1)
    gram: Array = rows @ rows.T
    return gram


def _macs(shapes: Sequence[Sequence[int]], axes: Sequence[Sequence[bool]], stride: Sequence[int]) -> int:
    """Return the products for one position of the output; a part before the stride is computed more often."""
    total, strided = 0, [False] * len(stride)
    for shape, takes in zip(shapes, axes, strict=True):
        strided = [before or now for before, now in zip(strided, takes, strict=True)]
        total += prod(shape) * prod(1 if done else step for done, step in zip(strided, stride, strict=True))
    return total


_METHODS = {"svd": _svd, "spatial": _spatial, "tucker": _tucker}
