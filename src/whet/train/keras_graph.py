"""A Keras model run through anew, call by call, so that something may stand between its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whet.errors import PassError
from whet.models.keras import describe

import keras  # after the description, whose package chooses the backend  # isort: skip

Call = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Makes one call of a layer: ``call(name, operation, arguments, named_arguments)``; returns what comes out."""


def plainly(name: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a layer as it is."""
    return operation(*args, **kwargs)


def replayed(model: keras.Model, call: Call = plainly) -> tuple[Any, Any]:
    """Call all layers of a model again, those inside models inside too; return its inputs and its new outputs.

    The layers are the model's own: what is trained in a model that is made of these is trained in it.

    Args:
        model: Functional or Sequential.
        call: Makes each call.

    Raises:
        PassError: Layers of models inside it have one name, and cannot stand beside each other.
    """
    graph = describe.functional(model)
    called: dict[str, set[int]] = {}

    def named(name: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called.setdefault(operation.name, set()).add(id(operation))
        if len(called[operation.name]) > 1:
            raise PassError(
                f"two layers of the model, in models inside it, are both called {operation.name}; give each a name "
                f"of its own"
            )
        return call(name, operation, args, kwargs)

    outputs = _run(graph, list(graph.inputs), "", named)
    return graph._inputs_struct, keras.tree.pack_sequence_as(graph._outputs_struct, outputs)


def run(model: keras.Model, values: list[Any], call: Call) -> list[Any]:
    """Call all layers of a model on tensors for its inputs, those inside models inside too; return its outputs."""
    return _run(describe.functional(model), values, "", call)


def _run(graph: Any, inputs: list[Any], prefix: str, call: Call) -> list[Any]:
    place = {id(tensor): given for tensor, given in zip(graph.inputs, inputs, strict=True)}
    for node in describe.nodes(graph):
        args, kwargs = node.arguments.fill_in(place)
        name = f"{prefix}{describe.safe(node.operation.name)}"
        if isinstance(node.operation, keras.Model):
            given = [place[id(tensor)] for tensor in node.input_tensors]
            found = _run(describe.functional(node.operation), given, f"{name}.", call)
        else:
            found = keras.tree.flatten(call(name, node.operation, args, kwargs))
        place.update({id(tensor): value for tensor, value in zip(node.outputs, found, strict=True)})
    return [place[id(tensor)] for tensor in keras.tree.flatten(graph.outputs)]
