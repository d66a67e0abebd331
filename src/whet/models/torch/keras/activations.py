"""Activations, by their names in Keras and as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whet.models.torch.keras.graph import Call, Layer, NotTranslated, Value, Writer


def activate(writer: Writer, value: Value, name: Any) -> Value:
    """Write an activation by its name in Keras."""
    if isinstance(name, Mapping):  # a serialized layer, or a function of the user's own
        name = name.get("class_name") if name.get("module") in ("builtins", None) else name.get("config", name)
    if name in (None, "linear"):
        return value
    if name in ("softmax", "log_softmax"):
        found = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}[name]
        return Value(writer.call(found, writer.last(value), dim=-1), value.shape)
    if name not in _ACTIVATIONS:
        raise NotTranslated(f"the activation {name!r} has no translation")
    return Value(writer.call(_ACTIVATIONS[name], value.node), value.shape, value.first)


def _leaky_relu(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def _hard_sigmoid(x: Tensor) -> Tensor:
    return functional.relu6(x + 3) / 6


_ACTIVATIONS: Mapping[str, Callable[..., Any]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": _leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": functional.hardswish,
    "hard_swish": functional.hardswish,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "exponential": torch.exp,
}


def _activation(writer: Writer, call: Call) -> Value:
    return activate(writer, call.inputs[0], call.config["activation"])


def _relu(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    slope, most = config.get("negative_slope") or 0.0, config.get("max_value")
    if config.get("threshold"):
        raise NotTranslated("a ReLU with a threshold has no translation")
    node = writer.call(functional.leaky_relu, value.node, slope) if slope else None
    if most is not None:
        node = writer.call(torch.clamp, node or value.node, min=None if slope else 0.0, max=most)
    return Value(node or writer.call(functional.relu, value.node), value.shape, value.first)


def _unary(function: Callable[..., Any], **settings: str) -> Layer:
    """Write an elementwise function, with arguments by their names in the layer's settings."""

    def write(writer: Writer, call: Call) -> Value:
        (value, *_), named = call.inputs, {ours: call.config[theirs] for ours, theirs in settings.items()}
        return Value(writer.call(function, value.node, **named), value.shape, value.first)

    return write


def _prelu(writer: Writer, call: Call) -> Value:
    (value,), shared = call.inputs, call.config["shared_axes"] or []
    rank, width = len(value.shape), value.shape[-1]
    assert width is not None
    if set(shared) != set(range(1, rank - 1)):
        raise NotTranslated("a PReLU with a slope for each position has no translation")
    build = partial(nn.PReLU, width, init=0.0)
    return Value(writer.layer(call.name, build, writer.first(value)), value.shape, rank > 2)


def _softmax(writer: Writer, call: Call) -> Value:
    (value,) = call.inputs
    return Value(writer.call(torch.softmax, writer.last(value), dim=call.config.get("axis", -1)), value.shape)


def _same(_writer: Writer, call: Call) -> Value:
    """Write nothing: what only training knows."""
    return call.inputs[0]


_TRAINING_ONLY = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout",
    "GaussianNoise", "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation",
    "RandomContrast", "RandomBrightness", "Identity",
)  # fmt: skip


LAYERS: Mapping[str, Layer] = {
    "Activation": _activation,
    "ReLU": _relu,
    "PReLU": _prelu,
    "LeakyReLU": _unary(functional.leaky_relu, negative_slope="negative_slope"),
    "ELU": _unary(functional.elu, alpha="alpha"),
    "Softmax": _softmax,
    **dict.fromkeys(_TRAINING_ONLY, _same),
}
