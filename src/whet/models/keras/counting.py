"""What a Keras model is made of: layers, weights, MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.models.keras import describe
from whet.types import Layer

if TYPE_CHECKING:
    import keras

_STATISTICS = ("moving_mean", "moving_variance", "mean", "variance")  # measured, not learned
_TABLES = ("Embedding", "BatchNormalization", "LayerNormalization", "GroupNormalization", "Normalization", "PReLU")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")  # each input is multiplied, not each output
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "Bidirectional")


def named_weights(model: keras.Model) -> dict[str, Any]:
    """Return the floating variables of a model as ``layer.kernel``; of a wrapped layer ``layer.inner.kernel``."""
    found: dict[str, Any] = {}
    for name, layer in describe.layers(model).items():
        own = layer.path.count("/") + 1 if getattr(layer, "path", None) else 1
        for variable in layer.weights:
            parts = variable.path.split("/")[own:] or [variable.name]
            key = f"{name}.{'.'.join(parts)}"
            if np.issubdtype(np.dtype(str(variable.dtype)), np.floating):
                found[key if key not in found else f"{key}_{len(found)}"] = variable
    return found


def layers(model: keras.Model) -> list[Layer]:
    """Return the layers that own weights, each with its MACs for one sample over all its uses."""
    uses = describe.describe(model)["calls"]
    kinds = {name: type(layer).__name__ for name, layer in describe.layers(model).items()}
    variables = named_weights(model)
    found = []
    for name, kind in kinds.items():
        own = {key: value for key, value in variables.items() if key.startswith(f"{name}.")}
        kernels = {key: value for key, value in own.items() if len(value.shape) > 1 and kind not in _TABLES}
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
