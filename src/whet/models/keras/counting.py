"""What a Keras model is made of: layers, weights, MACs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.models.keras import describe
from whet.types import Layer

if TYPE_CHECKING:
    import keras

_STATISTICS = ("moving_mean", "moving_variance", "mean", "variance")  # measured, not learned
_TABLES = ("Embedding", "BatchNormalization", "LayerNormalization", "GroupNormalization", "Normalization", "PReLU")
_BIASES = (
    "bias",
)  # of two axes in attention (heads, width) and in a GRU (its two products): added, not multiplied
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")  # each input is multiplied, not each output
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "Bidirectional")


def named_weights(model: keras.Model) -> dict[str, Any]:
    """Return the floating variables of a model as ``layer.kernel``; of a layer inside one ``layer.inner.kernel``.

    Names follow from which layer holds which, and are those of a copy and of a stored model too; the paths that
    Keras itself gives variables are others once a wrapper (``Bidirectional``) was copied.
    """
    found: dict[str, Any] = {}
    for name, layer in describe.layers(model).items():
        seen: set[int] = set()
        for key, variable in _variables(layer, name):
            if id(variable) not in seen and np.issubdtype(np.dtype(str(variable.dtype)), np.floating):
                found[key if key not in found else f"{key}_{len(found)}"] = variable
            seen.add(id(variable))
    return found


def _variables(layer: Any, name: str) -> Iterator[tuple[str, Any]]:
    for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
        yield f"{name}.{variable.name}", variable
    for inner in layer._layers:
        yield from _variables(inner, f"{name}.{describe.safe(inner.name)}")


def layers(model: keras.Model) -> list[Layer]:
    """Return the layers that own weights, each with its MACs for one sample over all its uses."""
    uses = describe.describe(model)["calls"]
    kinds = {name: type(layer).__name__ for name, layer in describe.layers(model).items()}
    variables = named_weights(model)
    found = []
    for name, kind in kinds.items():
        own = {key: value for key, value in variables.items() if key.startswith(f"{name}.")}
        kernels = {
            key: value
            for key, value in own.items()
            if len(value.shape) > 1 and value.name not in _BIASES and kind not in _TABLES
        }
        macs = sum(_macs(call, kernels) for call in uses if call["layer"] == name)
        count = sum(math.prod(value.shape) for value in own.values() if value.name not in _STATISTICS)
        size = sum(math.prod(value.shape) * np.dtype(str(value.dtype)).itemsize for value in own.values())
        found.append(Layer(name, kind, tuple(kernels), count, size, macs))
    return found


def _macs(call: Mapping[str, Any], kernels: Mapping[str, Any]) -> int:
    """Return what one use of a layer multiplies: every kernel once at every position."""
    moved = call["kind"] in (*_TRANSPOSED, *_RECURRENT)
    shape = call["input_shape"] if moved else call["shape"]
    positions: int = math.prod(size or 1 for size in shape[1:-1])
    sizes: list[int] = [math.prod(kernel.shape) for kernel in kernels.values()]
    return positions * sum(sizes)
