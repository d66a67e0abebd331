"""SavedModel folders as Keras 2 writes them, made of models of Keras 3: objects, weights, notes, what is served."""

import json
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.keras.protobuf.saved_metadata_pb2 import SavedMetadata

KINDS = {"Sequential": "_tf_keras_sequential", "Functional": "_tf_keras_network"}


def structure(model):
    """Return the class and the settings of a model, in the words of Keras 2."""
    return plain({"class_name": type(model).__name__, "config": model.get_config()}, set())


def plain(value, models):
    """Return settings without what only Keras 3 writes, tuples marked, calls of models inside counted from 1."""
    if isinstance(value, tuple):
        return {"class_name": "__tuple__", "items": [plain(item, models) for item in value]}
    if isinstance(value, list):
        return [plain(item, models) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "DTypePolicy":
        return value["config"]["name"]
    own = value.get("config", {}).get("layers", []) if isinstance(value.get("config"), dict) else []
    models = models | {layer["config"]["name"] for layer in own if layer["class_name"] in KINDS}
    made = {key: plain(item, models) for key, item in value.items() if key not in ("module", "registered_name")}
    if "inbound_nodes" in value:
        made["inbound_nodes"] = [called(node, models) for node in value["inbound_nodes"]]
    if made.get("class_name") == "InputLayer":
        made["config"]["batch_input_shape"] = made["config"].pop("batch_shape")
        made["config"].pop("optional", None)
    if made.get("class_name") == "BatchNormalization":
        made["config"]["axis"] = [3]
    return {key: item for key, item in made.items() if key != "build_config"}


def called(node, models):
    """Return a call of a layer as Keras 2 writes it."""
    (given,) = node["args"]
    histories = [
        tensor["config"]["keras_history"] for tensor in (given if isinstance(given, (list, tuple)) else [given])
    ]
    return [[name, at + (name in models), place, {}] for name, at, place in histories]


def objects(model):
    """Return the objects of a model, with those of its layers and its variables below."""
    root = tf.__internal__.tracking.AutoTrackable()
    for at, layer in enumerate(model.layers):
        node = objects(layer) if hasattr(layer, "layers") else tf.__internal__.tracking.AutoTrackable()
        variables = layer.trainable_weights + layer.non_trainable_weights
        if variables and not hasattr(layer, "layers"):
            for variable in variables:
                setattr(node, variable.name, variable.value)
            node.trainable_variables = [variable.value for variable in layer.trainable_weights]
            node.variables = [variable.value for variable in variables]
        setattr(root, f"layer-{at}", node)
    return root


def write(folder, model, *, within=False, serve=None, told=None, extra=None):
    """Write a model.

    Args:
        folder: To write to.
        model: Sequential or functional, of one input.
        within: Put the notes beside each object, as TensorFlow before 2.5 did, not into a file of their own.
        serve: What is served, in place of the model.
        told: What is noted of the model, in place of its structure.
        extra: An object that lies beside its layers.
    """
    root = objects(model)
    if extra is not None:
        root.extra = extra
    (given,) = model.inputs
    spec = tf.TensorSpec(given.shape, given.dtype, name=given.name)
    answer = serve or (lambda x: model(x, training=False))
    served = tf.function(lambda **x: {"answer": answer(x[given.name])}, autograph=False)
    tf.saved_model.save(root, str(folder), signatures=served.get_concrete_function(**{given.name: spec}))
    note(Path(folder), model, told or structure(model), within)
    return Path(folder)


def note(folder, model, told, within):
    """Add what Keras 2 notes of each object."""
    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    notes = SavedMetadata()
    places = [(0, model, told)]
    while places:
        at, layer, text = places.pop()
        children = {child.local_name: child.node_id for child in nodes[at].children}
        for number, inner in enumerate(getattr(layer, "layers", ())):
            places.append((children[f"layer-{number}"], inner, {"class_name": type(inner).__name__}))
        identifier = KINDS.get(type(layer).__name__, "_tf_keras_layer")
        metadata = json.dumps({"name": layer.name, **text})
        if within:
            nodes[at].user_object.identifier, nodes[at].user_object.metadata = identifier, metadata
        else:
            notes.nodes.add(node_id=at, identifier=identifier, metadata=metadata)
    path.write_bytes(saved.SerializeToString())
    if not within:
        (folder / "keras_metadata.pb").write_bytes(notes.SerializeToString())
