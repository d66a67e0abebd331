"""One weight that is to be clustered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.passes.cluster import math
from whet.passes.cluster.math import Axes, Codebook
from whet.train import levels

if TYPE_CHECKING:
    from whet.types import Array

_SCALE_BYTES = 4
_HEAD = 4096  # numbers that most often tell whether there are few values in all


@dataclass(frozen=True, slots=True)
class Target:
    """A weight, and how it is to be clustered.

    Attributes:
        layer, kind: Whose it is.
        array: As it is.
        axis: Of its output channels, or the axes that number them together.
        group: Neighbours in a channel that share a codebook; 0 of one codebook for all.
        grid: Bits of the grid of each channel that values lie on; 0: of none.
        book: As asked for.
    """

    layer: str
    kind: str
    array: Array
    axis: Axes
    group: int
    grid: int
    book: Codebook

    def clustered(self, book: Codebook) -> Array:
        """Return the array with the values of codebooks like this."""
        if self.grid:
            return math.on_grid(self.array, self.axis, book, self.grid)
        return math.cluster(self.array, self.axis, self.group, book)

    def distinct(self, array: Array) -> int:
        """Return the most values that a codebook has in an array in place of this; on a grid these are integers."""
        if self.grid:
            return len(levels.of(math.rows(array, self.axis), 2 ** (self.grid - 1) - 1))
        return math.distinct(array, self.axis, self.group)

    def stored_bytes(self, book: Codebook) -> int:
        """Return what it takes as codes and codebooks; on a grid these are integers, with a scale a channel."""
        size = int(self.array.size)
        if self.grid:
            return math.stored_bytes(size, 1, book.k, 1) + _SCALE_BYTES * math.channels(self.array, self.axis)
        return math.stored_bytes(size, size // self.group if self.group else 1, book.k, self.array.itemsize)

    def no_use(self, book: Codebook) -> str | None:
        """Return why it is left alone, or None."""
        stored = self.stored_bytes(book)
        if stored >= self.array.nbytes:
            return f"codes and codebook would take {stored:,} bytes, its values take {self.array.nbytes:,}"
        if self.grid or (not self.group and math.distinct(self.array.ravel()[:_HEAD]) > book.k):
            return None
        values = math.distinct(self.array, self.axis, self.group)
        return f"it has {values} values already" if values <= book.k else None
