"""Structures of Keras 2 in the words of Keras 3: what was renamed, dropped, or counted otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODELS = ("Functional", "Model", "Sequential")
_SEPARABLE = {"groups": 1, "kernel_initializer": ..., "kernel_regularizer": None, "kernel_constraint": None}
_RECURRENT = {"time_major": False}
_GONE: Mapping[
    str, Mapping[str, Any]
] = {  # settings that no Keras 3 reads, and what they may say (... is anything)
    "DepthwiseConv2D": {"groups": ...},
    "DepthwiseConv1D": {"groups": ...},
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "SimpleRNN": _RECURRENT,
    "RNN": _RECURRENT,
    "MultiHeadAttention": {
        "query_shape": ...,
        "key_shape": ...,
        "value_shape": ...,
        "softmax_robust_masking": False,
    },
}
_INNER = {"layer", "backward_layer", "cell"}  # settings that are a layer


def as_now(structure: Any) -> Any:
    """Return a structure of Keras 2 in the words of Keras 3; one of Keras 3 stays as it is.

    A setting that Keras 3 has no equal of stays too where it says something, so that Keras refuses it by name.
    """
    if isinstance(structure, list):
        return [as_now(item) for item in structure]
    if not isinstance(structure, Mapping):
        return structure
    made = {key: as_now(value) for key, value in structure.items()}
    name, config = made.get("class_name"), made.get("config")
    if isinstance(name, str) and isinstance(config, dict):
        made["config"] = _layer(name, config)
        if name == "Policy":  # of a mixed precision; since then a string says as much
            return config.get("name")
        if name in _MODELS and isinstance(config.get("layers"), list):
            made["config"] = _model(name, made["config"])
    return made


def _layer(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a layer."""
    gone = _GONE.get(name, {})
    made = {key: value for key, value in config.items() if key not in gone or gone[key] not in (..., value)}
    if name == "InputLayer" and "batch_input_shape" in made:
        made["batch_shape"] = made.pop("batch_input_shape")
    if name == "LeakyReLU" and "alpha" in made:
        made["negative_slope"] = made.pop("alpha")
    for key in _INNER & set(made):
        if isinstance(made[key], dict) and "class_name" in made[key]:
            made[key].setdefault("module", "keras.layers")
    if name == "BatchNormalization" and isinstance(made.get("axis"), list):
        made["axis"] = made["axis"][0]
    return made


def _model(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a model: its input as a layer, and calls of models in it counted from 0."""
    layers = [dict(layer) for layer in config["layers"] if isinstance(layer, Mapping)]
    shape = layers[0]["config"].get("batch_input_shape") if layers and name == "Sequential" else None
    if shape is not None:
        own = layers[0]["config"]
        dtype = own.get("dtype") if isinstance(own.get("dtype"), str) else "float32"
        told = {"batch_shape": shape, "dtype": dtype, "name": f"{own.get('name')}_input"}
        layers.insert(0, {"class_name": "InputLayer", "config": told})
    for layer in layers:
        layer["config"] = {key: value for key, value in layer["config"].items() if key != "batch_input_shape"}
    early = {layer["config"].get("name"): layer["class_name"] for layer in layers if _counts_itself(layer)}
    for layer in layers:
        if isinstance(layer.get("inbound_nodes"), list):
            layer["inbound_nodes"] = [_node(node, early) for node in layer["inbound_nodes"]]
    made = {**config, "layers": layers}
    later = {name for name, kind in early.items() if kind == "Sequential"}  # of others Keras 3 knows
    if isinstance(config.get("output_layers"), list):
        made["output_layers"] = _tensors(config["output_layers"], later)
    return made


def _counts_itself(layer: Mapping[str, Any]) -> bool:
    """Tell whether a layer is a model whose first call, in the count of Keras 2, was that on its own input."""
    inner = layer["config"].get("layers")
    if layer["class_name"] not in _MODELS or not isinstance(inner, list) or not inner:
        return False
    return bool(layer["class_name"] != "Sequential" or inner[0]["class_name"] == "InputLayer")


def _node(node: Any, early: Mapping[str, str]) -> Any:
    """Return a call of a layer; one that is given tensors by name too is written as Keras 3 writes it."""
    if not isinstance(node, list):
        return node
    tensors = [_tensor(item, set(early)) for item in node]
    named = tensors[0][3] if tensors and _is_tensor(tensors[0]) and len(tensors[0]) > 3 else {}
    if not any(_is_tensor(value) for value in named.values()):
        return tensors
    given = [_keras_tensor(item) for item in tensors]
    return {
        "args": given if len(given) == 1 else [given],
        "kwargs": {
            key: _keras_tensor(_tensor(value, set(early))) if _is_tensor(value) else value
            for key, value in named.items()
        },
    }


def _tensors(structure: Any, early: set[str]) -> Any:
    """Return all tensors of a structure, with calls of these models counted from 0."""
    if _is_tensor(structure):
        return _tensor(structure, early)
    return [_tensors(item, early) for item in structure] if isinstance(structure, list) else structure


def _tensor(tensor: Any, early: set[str]) -> Any:
    """Return a tensor: the layer that it comes from, the call, the place in what that gave, what else is told."""
    if isinstance(tensor, list) and tensor[0] in early and tensor[1] > 0:
        return [tensor[0], tensor[1] - 1, *tensor[2:]]
    return tensor


def _is_tensor(value: Any) -> bool:
    kinds = [type(item) for item in value] if isinstance(value, list) else []
    return kinds[:3] == [str, int, int] and len(kinds) < 5


def _keras_tensor(tensor: list[Any]) -> dict[str, Any]:
    """Return a tensor as Keras 3 writes one; its shape is found when the layer is called again."""
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [None], "dtype": "float32", "keras_history": tensor[:3]},
    }
