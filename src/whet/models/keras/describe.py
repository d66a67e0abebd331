"""A Keras model as a plain description: its calls of layers in order, and its weights by layer."""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from whet.errors import ModelError

if TYPE_CHECKING:
    from whet.types import Array

Description = dict[str, Any]


def describe(model: keras.Model) -> Description:
    """Return what ``whet.models.torch.keras.module`` builds a module from.

    Args:
        model: Functional or Sequential, built; models inside it are written out.

    Raises:
        ModelError: It is a subclass with a ``call`` of its own, or takes no fixed structure.
    """
    graph = functional(model)
    writer = _Calls()
    inputs = [writer.tensor(tensor) for tensor in graph.inputs]
    writer.run(graph, inputs, "")
    names = [input_name(tensor) for tensor in graph.inputs]
    outputs = keras.tree.flatten(graph.outputs)
    labels = ["output"] if len(outputs) == 1 else [f"output_{at}" for at in range(len(outputs))]
    return {
        "inputs": [
            {"name": name, "tensor": number, "shape": list(tensor.shape), "dtype": str(tensor.dtype)}
            for name, number, tensor in zip(names, inputs, graph.inputs, strict=True)
        ],
        "calls": writer.calls,
        "outputs": [
            {"name": label, "tensor": writer.numbers[id(tensor)]}
            for label, tensor in zip(labels, outputs, strict=True)
        ],
    }


def input_name(tensor: Any) -> str:
    """Return the name of an input, as torch and TFLite take it."""
    return safe(str(tensor.name).replace(":", "_"))


def arranged(model: keras.Model, values: list[Any]) -> Any:
    """Return values for the inputs of a model as its ``call`` takes them: alone, in a list, by name."""
    return keras.tree.pack_sequence_as(functional(model)._inputs_struct, values)


def layers(model: keras.Model, prefix: str = "") -> dict[str, keras.Layer]:
    """Return all layers with weights by name; one inside a model inside is ``outer.inner``."""
    found: dict[str, keras.Layer] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= layers(layer, f"{prefix}{safe(layer.name)}.")
        elif layer.weights:
            found[f"{prefix}{safe(layer.name)}"] = layer
    return found


def weights(model: keras.Model) -> dict[str, list[Array]]:
    """Return the weights of each layer, in Keras' order."""
    return {name: layer.get_weights() for name, layer in layers(model).items()}


class _Calls:
    """Collects calls; tensors are numbered as they come."""

    def __init__(self) -> None:
        self.calls: list[Description] = []
        self.numbers: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no identity is given twice

    def tensor(self, tensor: Any) -> int:
        self.kept.append(tensor)
        return self.numbers.setdefault(id(tensor), len(self.numbers))

    def run(self, graph: Any, inputs: list[int], prefix: str) -> list[int]:
        """Collect the calls of a graph that is given these tensors; return what comes out."""
        place = {id(tensor): number for tensor, number in zip(graph.inputs, inputs, strict=True)}
        for node in nodes(graph):
            given = [place[id(tensor)] for tensor in node.input_tensors]
            results = keras.tree.flatten(node.output_tensors if hasattr(node, "output_tensors") else node.outputs)
            if isinstance(node.operation, keras.Model):
                inner = functional(node.operation)
                found = self.run(inner, given, f"{prefix}{safe(node.operation.name)}.")
            else:
                found = [self._call(node, given, results, prefix)]
            for tensor, number in zip(results, found, strict=True):
                place[id(tensor)] = number
                if not prefix:
                    self.kept.append(tensor)
                    self.numbers[id(tensor)] = number
        return [place[id(tensor)] for tensor in keras.tree.flatten(graph.outputs)]

    def _call(self, node: Any, given: list[int], results: list[Any], prefix: str) -> int:
        operation = node.operation
        if len(results) != 1:
            raise ModelError(
                f"layer {operation.name} gives {len(results)} tensors; layers that give one are translated"
            )
        number = len(self.numbers)
        self.numbers[-number - 1] = number  # a number of its own, whoever's tensor it is
        self.calls.append({
            "layer": f"{prefix}{safe(operation.name)}",
            "kind": type(operation).__name__,
            "config": _plain(operation),
            "inputs": given,
            "output": number,
            "shape": list(results[0].shape),
            "input_shape": list(node.input_tensors[0].shape) if node.input_tensors else [],
            "arguments": _arguments(node),
            "named": _named(node),
        })  # fmt: skip
        return number


def functional(model: Any) -> Any:
    """Return the graph of a model.

    Raises:
        ModelError: It has none.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ModelError(f"the Sequential {model.name} does not know its input; give it an Input layer")
        model = model._functional
    if not hasattr(model, "_nodes_by_depth"):
        raise ModelError(
            f"{model.name} is a {type(model).__name__} with a call of its own; models of the functional and the "
            f"sequential form are translated"
        )
    return model


def nodes(graph: Any) -> Iterable[Any]:
    """Yield the calls of a graph in order, its inputs excepted."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def _arguments(node: Any) -> list[float | str | None]:
    """Return what an operation is given in order, as in ``2 - x``: None for a tensor; a number; a type's name."""
    if isinstance(node.operation, keras.Layer):
        return []
    return [_argument(value) for value in (*node.arguments.args, *node.arguments.kwargs.values())]


def _argument(value: Any) -> float | str | None:
    if isinstance(value, keras.KerasTensor):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else type(value).__name__


def _named(node: Any) -> list[str]:
    """Return the arguments that a layer is given by name and that say something: masks, states, switches."""
    if not isinstance(node.operation, keras.Layer):
        return []
    given = node.arguments.kwargs.items()
    return [name for name, value in given if name != "training" and value is not None and value is not False]


def _plain(operation: Any) -> Description:
    """Return the settings of a layer as plain data."""
    config = operation.get_config() if isinstance(operation, keras.Layer) else {}
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(config), default=str))
    if type(operation).__name__ == "Normalization":  # what it was adapted to, which its settings do not hold
        config |= {name: np.asarray(getattr(operation, name)).reshape(-1).tolist() for name in ("mean", "variance")}
    return {key: value for key, value in config.items() if key not in _NOT_STRUCTURE}


_NOT_STRUCTURE = frozenset(
    f"{part}_{kind}"
    for part in ("kernel", "bias", "depthwise", "pointwise", "recurrent", "activity", "beta", "gamma", "embeddings",
                 "moving_mean", "moving_variance")
    for kind in ("initializer", "regularizer", "constraint")
)  # fmt: skip


def safe(name: str) -> str:
    """Return a name that the path of a module in torch can be made of: no dots, no word of Python."""
    plain = name.replace("/", "_").replace(".", "_").replace(" ", "_")
    return f"{plain}_" if keyword.iskeyword(plain) else plain
