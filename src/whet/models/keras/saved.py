"""SavedModel folders of Keras 2: rebuilt out of the configuration and the weights that they hold, no code run.

The structure is JSON in ``keras_metadata.pb``, or (TensorFlow before 2.5) beside each object in ``saved_model.pb``;
the weights are a checkpoint, whose names come of the same objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError, Message
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
from tensorflow.python.keras.protobuf.saved_metadata_pb2 import SavedMetadata

from whet.errors import ModelError, in_one_line
from whet.models.keras import archive, describe
from whet.models.keras.keras2 import as_now
from whet.models.source import SAVED_MODEL

if TYPE_CHECKING:
    pass

_METADATA = "keras_metadata.pb"
_VARIABLES = Path("variables", "variables")  # of the checkpoint; each of its files begins so
_MOST_BYTES = 2**31 - 1  # what a protobuf message may have
_GRAPHS = ("_tf_keras_network", "_tf_keras_sequential")  # models whose structure is data
_ELSEWHERE = (
    "convert it where it was made (tf.lite.TFLiteConverter.from_saved_model) and give the .tflite file, or save "
    "the model there as .h5 or .keras"
)
_OPERATORS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")  # a function of TensorFlow as a layer


@dataclass(frozen=True)
class _Saved:
    """A folder that was read: its objects, and what Keras noted of each by its number."""

    folder: Path
    graph: Any
    notes: Mapping[int, Mapping[str, Any]]

    def child(self, node: int, name: str) -> int | None:
        """Return the number of an object's child."""
        children = self.graph.nodes[node].children
        return next((child.node_id for child in children if child.local_name == name), None)

    def children(self, node: int | None) -> list[int]:
        """Return the numbers of all children of an object, in order."""
        return [] if node is None else [child.node_id for child in self.graph.nodes[node].children]


def read(folder: Path, *, trust: bool = False) -> keras.Model:
    """Rebuild the model that Keras 2 wrote into a folder.

    Args:
        folder: With ``saved_model.pb`` and ``variables/``.
        trust: Run code that the folder brings (Lambda layers), by the user's explicit word.

    Raises:
        ModelError: It is damaged, has no structure of Keras, or one that cannot be rebuilt.
    """
    saved, identifier = _opened(folder)
    with _damage(folder):
        structure = _structure(saved)
        _refuse_operators(folder, structure)
    if identifier not in _GRAPHS:
        raise ModelError(
            f"{folder.name} holds {structure['class_name']}, a model with a call of its own, whose structure is "
            f"Python that it does not hold; {_ELSEWHERE}"
        )
    model = archive.built(as_now(structure), folder.name, trust=trust)
    with _damage(folder):
        _fill(saved, model)
    return model


def parsed(folder: Path) -> Any:
    """Return the ``MetaGraphDef`` that a folder holds.

    Raises:
        ModelError: Files are missing, lie elsewhere, or are truncated.
    """
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(
                f"{path.relative_to(folder)} in {folder} leads out of the folder, to {os.path.realpath(path)}; "
                f"copy the folder with what its links lead to: cp -rL"
            )
    graphs = _message(folder / SAVED_MODEL, SavedModel()).meta_graphs
    if len(graphs) != 1:
        raise ModelError(f"{folder / SAVED_MODEL} holds {len(graphs)} graphs, not one; {_ELSEWHERE}")
    return graphs[0]


def write(place: Path, graph: Any, folder: Path) -> None:
    """Write a graph as a SavedModel, with the weights of another folder."""
    (place / SAVED_MODEL).write_bytes(
        SavedModel(saved_model_schema_version=1, meta_graphs=[graph]).SerializeToString()
    )
    (place / _VARIABLES.parent).symlink_to((folder / _VARIABLES.parent).resolve())


def _opened(folder: Path) -> tuple[_Saved, str]:
    """Return what a folder holds, and the kind of model that its first object is."""
    graph = parsed(folder).object_graph_def
    path = folder / _METADATA
    if path.is_file():
        noted = {node.node_id: node for node in _message(path, SavedMetadata()).nodes}
    else:
        noted = {at: node.user_object for at, node in enumerate(graph.nodes) if node.HasField("user_object")}
    keras_own = {
        at: node for at, node in noted.items() if node.metadata and node.identifier.startswith("_tf_keras")
    }
    if any(node.HasField("resource") or node.HasField("asset") for node in graph.nodes):
        raise ModelError(
            f"{folder.name} holds lookup tables or files of words, which are not rebuilt; turn text into numbers "
            f"in the data, and save the model without those layers"
        )
    if 0 not in keras_own:
        raise ModelError(
            f"{folder} is a SavedModel without a structure of Keras (a model.export() of Keras 3, or TensorFlow's "
            f"own), a graph that runs and cannot be changed; {_ELSEWHERE}"
        )
    with _damage(folder):
        notes = {at: json.loads(node.metadata) for at, node in keras_own.items()}
    return _Saved(folder, graph, notes), str(keras_own[0].identifier)


def _message(path: Path, message: Message) -> Any:
    """Read a file of Protocol Buffers."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist; copy the whole folder")
    if path.stat().st_size > _MOST_BYTES:
        raise ModelError(
            f"{path} has {path.stat().st_size:,} bytes, more than the 2 GiB of any graph; do not open it"
        )
    try:
        message.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelError(
            f"{path} is no file of a SavedModel, or truncated ({in_one_line(error)}); copy the whole folder again"
        ) from error
    return message


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the readers raise into one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the SavedModel {folder} is damaged: {type(error).__name__}: {in_one_line(error)}; copy the whole "
            f"folder again"
        ) from error


def _structure(saved: _Saved) -> dict[str, Any]:
    """Return the structure of the model, in the words of Keras 2."""
    noted = saved.notes[0]
    config = dict(noted.get("config") or {})
    if noted["class_name"] == "Sequential" and noted.get("build_input_shape"):
        config.setdefault("build_input_shape", noted["build_input_shape"])
    return {"class_name": noted["class_name"], "config": _listed(config)}


def _listed(structure: Any) -> Any:
    """Return a structure with the tuples and shapes that it marks as such as lists."""
    if isinstance(structure, list):
        return [_listed(item) for item in structure]
    if not isinstance(structure, Mapping):
        return structure
    if structure.get("class_name") in ("__tuple__", "TensorShape") and "items" in structure:
        return [_listed(item) for item in structure["items"]]
    return {key: _listed(value) for key, value in structure.items()}


def _refuse_operators(folder: Path, structure: Any) -> None:
    """Refuse functions of TensorFlow that stand in the graph in place of layers."""
    found = [part for part in archive.parts(structure) if part["class_name"] in _OPERATORS]
    if found:
        names = dict.fromkeys(str(part.get("name") or part["config"].get("name")) for part in found)
        raise ModelError(
            f"{folder.name} has functions of TensorFlow in place of layers ({', '.join(list(names)[:5])}), which "
            f"Keras 3 does not know; write them as layers (Rescaling, Add, ReLU), or {_ELSEWHERE}"
        )


def _fill(saved: _Saved, model: keras.Model) -> None:
    """Give every layer of a model its weights."""
    prefix = saved.folder / _VARIABLES
    if not prefix.with_suffix(".index").is_file():
        raise ModelError(f"{prefix}.index does not exist: the weights are missing; copy the whole folder")
    reader = tf.train.load_checkpoint(str(prefix))
    keys = _keys(saved, reader)
    pairs = [(variable, keys[number]) for variable, number in _pairs(saved, 0, model)]
    _fits(saved.folder, reader, [key for _, key in pairs])
    for variable, key in pairs:
        variable.assign(reader.get_tensor(key))
    for layer in describe.layers(model).values():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _pairs(saved: _Saved, node: int, model: keras.Model) -> Iterator[tuple[Any, int]]:
    """Yield each weight of a model with the number of the object that holds its value; layers are known by name."""
    numbers = {saved.notes[at]["name"]: at for at in saved.children(node) if at in saved.notes}
    for layer in model.layers:
        wanted = layer.trainable_weights + layer.non_trainable_weights  # the order of Keras 2
        if not wanted:
            continue
        if layer.name not in numbers:
            raise ModelError(
                f"the SavedModel {saved.folder} holds no layer {layer.name!r}; copy the whole folder again"
            )
        if isinstance(layer, keras.Model):
            yield from _pairs(saved, numbers[layer.name], layer)
            continue
        found = _variables(saved, numbers[layer.name])
        held = [[dim.size for dim in saved.graph.nodes[at].variable.shape.dim] for at in found]
        has = [list(variable.shape) for variable in wanted]
        if held != has:
            raise ModelError(
                f"layer {layer.name} ({type(layer).__name__}) of {saved.folder.name} holds weights of the shapes "
                f"{held}; in Keras {keras.__version__} it has {has}; {_ELSEWHERE}"
            )
        yield from zip(wanted, found, strict=True)


def _variables(saved: _Saved, layer: int) -> list[int]:
    """Return the numbers of a layer's variables: those that are trained, then the others."""
    trained = saved.children(saved.child(layer, "trainable_variables"))
    every = saved.children(saved.child(layer, "variables"))
    if not every:  # of a Normalization they are its own children, each under two names
        own = dict.fromkeys(saved.children(layer))
        every = [number for number in own if saved.graph.nodes[number].HasField("variable")]
    return [*trained, *(number for number in every if number not in trained)]


def _keys(saved: _Saved, reader: Any) -> dict[int, str]:
    """Return the name in the checkpoint of each variable, found by walking both graphs of objects side by side."""
    stored = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
    found: dict[int, str] = {}
    places, seen = [(0, 0)], {0}
    while places:
        node, at = places.pop()
        for attribute in stored[at].attributes:
            found[node] = attribute.checkpoint_key
        for child in stored[at].children:
            number = saved.child(node, child.local_name)
            if number is not None and child.node_id not in seen:
                seen.add(child.node_id)
                places.append((number, child.node_id))
    return found


def _fits(folder: Path, reader: Any, keys: list[str]) -> None:
    """Refuse an index of weights that speaks of more bytes than there are, before room is made for them."""
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    told = sum(int(np.prod(shapes[key], dtype=object)) * types[key].size for key in keys)
    there = sum(path.stat().st_size for path in (folder / _VARIABLES.parent).glob("variables.data-*"))
    if told > there:
        raise ModelError(
            f"the weights of the SavedModel {folder} are {told:,} bytes by their index, and its files have "
            f"{there:,}; copy the whole folder again"
        )
