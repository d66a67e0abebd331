"""What a SavedModel answers itself, by the graph that it serves: the measure of the model that is rebuilt of it.

A graph runs no Python. It could yet write files or reach the network, by operators with an effect outside of it: of
such only those are let run that read weights, call functions of the graph, and loop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from whet.errors import ModelError, in_one_line
from whet.models.keras import describe, saved

if TYPE_CHECKING:
    from whet.types import Array, Batch

_SIGNATURE = "serving_default"
_TOLERANCE = 1e-4  # of the greatest output
_WITHIN = {  # operators that TensorFlow keeps in order, and that have no effect outside of the graph
    "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "StatefulPartitionedCall", "While",
    "If", "Case", "Assert",
}  # fmt: skip
_WHOLE = "save the model as .h5 or .keras where it was made"
_OUTSIDE = {"ReadFile", "MatchingFiles"}  # that read files, of which TensorFlow says that they have no effect


def agree(folder: Path, model: keras.Model, batch: Batch, outputs: list[Array]) -> None:
    """Check outputs of a rebuilt model against what its folder serves.

    Args:
        folder: The SavedModel.
        model: Rebuilt of it.
        batch: What went in, by the names of inputs.
        outputs: What came out, in order.

    Raises:
        ModelError: They differ, or the folder's graph cannot be run without an effect outside of it.
    """
    names = list(describe.functional(model).output_names)
    wanted = _served(folder, batch)
    if len(names) == len(wanted) == 1:
        wanted = dict(zip(names, wanted.values(), strict=True))
    if set(names) != set(wanted):
        raise ModelError(
            f"the outputs that {folder.name} serves ({', '.join(wanted)}) are not its model's "
            f"({', '.join(names)}), so that the two cannot be compared; {_WHOLE}"
        )
    tolerance = _tolerance(model)
    for name, found in zip(names, outputs, strict=True):
        share = _difference(wanted[name], found[: len(wanted[name])])
        if not share <= tolerance:
            raise ModelError(
                f"the model rebuilt of {folder.name} is off what the folder serves by {share:.2g} of the greatest "
                f"value of {name!r} (allowed: {tolerance:.1g}); {_WHOLE}"
            )


def _tolerance(model: keras.Model) -> float:
    """Return the share of the greatest output that may differ: more where layers compute in 16 bits."""
    narrow = [tf.as_dtype(layer.compute_dtype) for layer in model.layers]
    return max(_TOLERANCE, *(4 * _step(kind) for kind in narrow if kind.is_floating))


def _step(kind: tf.DType) -> float:
    """Return the distance from 1 to the next number of a type."""
    return float(ml_dtypes.finfo(kind.as_numpy_dtype).eps)  # type: ignore[no-untyped-call]


def _served(folder: Path, batch: Batch) -> dict[str, Array]:
    """Run the graph on a batch, or on the number of samples that it takes."""
    graph = saved.parsed(folder)
    _only(folder, graph)
    options = tf.saved_model.LoadOptions(allow_partial_checkpoint=True)  # the state of the training stays behind
    with tempfile.TemporaryDirectory() as place:
        saved.write(Path(place), graph, folder)
        try:
            serve = tf.saved_model.load(place, options=options).signatures[_SIGNATURE]
        except Exception as error:  # TensorFlow raises whatever its readers do
            raise ModelError(
                f"TensorFlow {tf.__version__} cannot open the SavedModel {folder}: {in_one_line(error)}; copy the "
                f"whole folder again"
            ) from error
        return _run(folder, serve, batch)


def _run(folder: Path, serve: Any, batch: Batch) -> dict[str, Array]:
    """Run what is served on a batch, or on the number of samples that it takes."""
    specs = serve.structured_input_signature[1]
    given = _given(folder, specs, batch)
    try:
        return {name: np.asarray(value) for name, value in serve(**given).items()}
    except Exception as error:  # TensorFlow raises whatever its kernels do
        raise ModelError(
            f"the graph of {folder.name} cannot be run on "
            f"{', '.join(f'{name}{list(value.shape)}' for name, value in given.items())}: {in_one_line(error)}; "
            f"give data that it takes, or say what goes in with --input"
        ) from error


def _given(folder: Path, specs: Mapping[str, Any], batch: Batch) -> dict[str, tf.Tensor]:
    """Return a batch as a graph takes it."""
    values = {describe.safe(name): value for name, value in batch.items()}
    names = {name: describe.safe(name) for name in specs}
    if len(specs) == len(values) == 1:
        values = dict(zip(names.values(), values.values(), strict=True))
    if set(names.values()) != set(values):
        raise ModelError(
            f"the inputs that {folder.name} serves ({', '.join(names)}) are not its model's ({', '.join(batch)}), "
            f"so that the two cannot be compared; {_WHOLE}"
        )
    given = {}
    for name, spec in specs.items():
        value = values[names[name]]
        count = spec.shape[0] if spec.shape.rank else None
        value = value if count is None else np.resize(value, (count, *value.shape[1:]))
        given[name] = tf.constant(value, spec.dtype)
    return given


def _difference(wanted: Array, found: Array) -> float:
    """Return the greatest difference as a share of the greatest value; infinite between unlike shapes."""
    if wanted.shape != found.shape:
        return float("inf")
    want, have = wanted.astype(np.float64), found.astype(np.float64)
    greatest = float(np.abs(want).max(initial=0.0))
    return float(np.abs(want - have).max(initial=0.0)) / (greatest or 1.0)


def _function(folder: Path, objects: Any) -> int:
    """Return the number of the function that is served.

    Raises:
        ModelError: There is none.
    """
    place = 0
    for name in ("signatures", _SIGNATURE):
        children = {child.local_name: child.node_id for child in objects.nodes[place].children}
        if name not in children:
            raise ModelError(
                f"{folder.name} serves nothing ({_SIGNATURE} is missing), so that a model rebuilt of it cannot be "
                f"compared; {_WHOLE}"
            )
        place = children[name]
    return place


def _only(folder: Path, graph: Any) -> None:
    """Leave in a graph what is served, with the variables, and nothing that is run as it is opened.

    Raises:
        ModelError: What is served would do more than compute.
    """
    objects = graph.object_graph_def
    kept = _function(folder, objects)
    name = objects.nodes[kept].bare_concrete_function.concrete_function_name
    library = graph.graph_def.library
    functions = _called(library, name)
    operators = {node.op for item in library.function if item.signature.name in functions for node in item.node_def}
    operators -= functions
    found = sorted(filter(_has_effect, operators))
    if found:
        raise ModelError(
            f"the graph of {folder.name} has operators that act outside of it ({', '.join(found[:5])}), which are "
            f"not run; {_WHOLE}"
        )
    for at, node in enumerate(objects.nodes):
        node.slot_variables.clear()  # of the training, which Keras 3 cannot open
        node.saveable_objects.clear()
        if at != kept and not (node.HasField("variable") or node.HasField("constant")):
            node.user_object.SetInParent()
    for other in set(objects.concrete_functions) - {name}:
        del objects.concrete_functions[other]
    left = [item for item in library.function if item.signature.name in functions]
    constants = [node for node in graph.graph_def.node if node.op == "Const"]
    for node in (node for item in left for node in item.node_def):
        node.attr.pop("_gradient_op_type", None)
    del library.function[:], library.gradient[:], library.registered_gradients[:], graph.graph_def.node[:]
    library.function.extend(left)
    graph.graph_def.node.extend(constants)


def _has_effect(operator: str) -> bool:
    """Tell whether an operator may act outside of its graph; one that TensorFlow does not know may."""
    if operator in _WITHIN:
        return False
    known = op_def_registry.get(operator)
    return known is None or known.is_stateful or operator in _OUTSIDE


def _called(library: Any, function: str) -> set[str]:
    """Return the names of a function and of every one that it calls."""
    functions = {item.signature.name: item for item in library.function}
    places, seen = [function], {function}
    while places:
        name = places.pop()
        for node in functions[name].node_def:
            values = node.attr.values()
            named = {node.op, *(value.func.name for value in values)}
            named.update(each.name for value in values for each in value.list.func)
            called = (named & set(functions)) - seen
            seen |= called
            places += called
    return seen
