"""Which axes of a weight are channels that a layer gives, and which it reads: Keras has its own for every kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.models.keras import counting, describe

if TYPE_CHECKING:
    import keras

    from whet.types import Array

_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_TABLES = ("Embedding", "ReversibleEmbedding")
_TABLE = "embeddings"


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of one weight, counted from its first.

    Attributes:
        outputs: Those that together number the output channels: (2, 3) of a depthwise kernel (h, w, in, times).
        inputs: The one along which neighbours are read by one channel; None where a channel reads one input alone.
    """

    outputs: tuple[int, ...]
    inputs: int | None

    def rows(self, array: Array) -> Array:
        """Return a weight as (channels, numbers of each)."""
        moved = np.moveaxis(array, self.outputs, range(len(self.outputs)))
        return moved.reshape(math.prod(moved.shape[: len(self.outputs)]), -1)

    def others(self, count: int) -> tuple[int, ...]:
        """Return the axes of a weight of so many that do not number channels."""
        return tuple(at for at in range(count) if at not in self.outputs)

    def back(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """Return (channels, numbers of each) as a weight of this shape."""
        moved = [shape[at] for at in (*self.outputs, *self.others(len(shape)))]
        return np.moveaxis(rows.reshape(moved), range(len(self.outputs)), self.outputs)


def axes(model: keras.Model) -> dict[str, Axes]:
    """Return the axes of every weight of two axes and more, by name."""
    owners = {id(variable): owner for owner in _owners(model) for variable in owner._trainable_variables}
    owners |= {id(variable): owner for owner in _owners(model) for variable in owner._non_trainable_variables}
    return {
        name: _axes(owners.get(id(variable)), variable.name, len(variable.shape))
        for name, variable in counting.named_weights(model).items()
        if len(variable.shape) > 1
    }


def tables(model: keras.Model) -> dict[str, str]:
    """Return the table of every layer that looks rows up, by the layer's name."""
    kinds = {name: type(layer).__name__ for name, layer in describe.layers(model).items()}
    return {name: f"{name}.{_TABLE}" for name, kind in kinds.items() if kind in _TABLES}


def _owners(model: keras.Model) -> Iterator[Any]:
    """Yield every layer, those inside wrappers, cells and attention among them."""
    for layer in describe.layers(model).values():
        yield from layer._flatten_layers()


def _axes(owner: Any, name: str, count: int) -> Axes:
    kind = type(owner).__name__
    if kind in _TABLES:
        return Axes((0,), 1)
    if kind in _DEPTHWISE or name == "depthwise_kernel":
        return Axes((count - 2, count - 1), None)
    if kind.startswith("Conv") and kind.endswith("Transpose"):
        return Axes((count - 2,), count - 1)
    if kind == "EinsumDense" and name == "kernel":
        return _by_equation(owner.equation)
    return Axes((count - 1,), count - 2)


def _by_equation(equation: str) -> Axes:
    """Return the axes of the kernel of an EinsumDense: ``abc,cde->abde`` reads its first and gives the others."""
    operands, _, result = equation.replace(" ", "").partition("->")
    kernel = operands.partition(",")[2]
    read = [at for at, letter in enumerate(kernel) if letter not in result]
    given = tuple(at for at, letter in enumerate(kernel) if letter in result)
    return Axes(given or (0,), read[-1] if read else None)
