"""Files of Keras models: ``.keras``, ``.h5`` of Keras 2 and 3, SavedModel folders; read without running what is in them."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from whet.errors import ModelError, in_one_line

_RENAMED = {"batch_input_shape": "batch_shape"}  # of Keras 2, in the settings of an input layer
_GONE = {"groups"}  # of a DepthwiseConv2D, which Keras 2 wrote and no Keras reads
_LAMBDA = "Lambda layers hold Python code, which is not run out of a file"


def read(path: Path, *, trust: bool = False) -> keras.Model:
    """Open a model file.

    Args:
        path: A ``.keras`` or ``.h5`` file.
        trust: Run code that the file brings (Lambda layers), by the user's explicit word.

    Raises:
        ModelError: It is truncated, of another kind, brings code, or needs classes that are not there.
    """
    if path.suffix == ".keras":
        structure = _keras_structure(path)
    else:
        structure = _h5_structure(path)
    _refuse_code(path, structure, trust)
    _name_unknown(path, structure)
    try:
        if path.suffix == ".keras":
            model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
        else:
            model = _from_h5(path, structure, trust)
    except Exception as error:  # Keras raises whatever its layers do
        raise ModelError(
            f"Keras {keras.__version__} cannot open {path.name}: {type(error).__name__}: {in_one_line(error, 200)}; "
            "save it again with this Keras"
        ) from error
    if not isinstance(model, keras.Model):
        raise ModelError(f"{path.name} holds a {type(model).__name__}, not a model")
    return model


def to_bytes(model: keras.Model) -> bytes:
    """Return a model as the bytes of a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def from_bytes(content: bytes) -> keras.Model:
    """Return the model of ``to_bytes``; it is our own, so that its code may run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return keras.saving.load_model(path, compile=False, safe_mode=False)


def _keras_structure(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} is not a .keras file, or it is truncated ({in_one_line(error)}); copy it again"
        ) from error


def _h5_structure(path: Path) -> Any:
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("model_config")
            names = list(file)[:5]
    except OSError as error:
        raise ModelError(
            f"{path} is not an HDF5 file, or it is truncated ({in_one_line(error)}); copy it again"
        ) from error
    if found is None:
        raise ModelError(
            f"{path} holds weights ({', '.join(map(str, names))}), not a model; save the whole model: model.save()"
        )
    return json.loads(found)


def _parts(structure: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every serialized object of a structure that names its class."""
    if isinstance(structure, Mapping):
        if isinstance(structure.get("class_name"), str):
            yield structure
        for value in structure.values():
            yield from _parts(value)
    elif isinstance(structure, list):
        for value in structure:
            yield from _parts(value)


def _refuse_code(path: Path, structure: Any, trust: bool) -> None:
    """Refuse layers of marshalled code, unless the user allowed it."""
    found = [_called(part) for part in _parts(structure) if part["class_name"] == "Lambda"]
    if found and not trust:
        raise ModelError(
            f"{path.name}: {_LAMBDA} ({', '.join(found[:5])}); replace them by layers, or allow it with --trust-pickle"
        )


def _called(part: Mapping[str, Any]) -> str:
    config = part.get("config")
    return str(config.get("name", "?")) if isinstance(config, Mapping) else "?"


def _name_unknown(path: Path, structure: Any) -> None:
    """Name classes of the user's own that are not registered."""
    unknown = []
    for part in _parts(structure):
        registered = part.get("registered_name") or ""
        if ">" in registered and keras.saving.get_registered_object(registered) is None:
            unknown.append(registered.split(">", 1)[1])
        elif "module" not in part and _is_layer(part) and not hasattr(keras.layers, part["class_name"]):
            unknown.append(part["class_name"])
    unknown = [name for name in dict.fromkeys(unknown) if name not in ("Functional", "Sequential", "Model")]
    if unknown:
        raise ModelError(
            f"{path.name} uses classes of its own: {', '.join(unknown)}; give a file.py:function that defines them, "
            f"registers them (keras.saving.register_keras_serializable) and returns keras.saving.load_model('{path.name}')"
        )


def _is_layer(part: Mapping[str, Any]) -> bool:
    config = part.get("config")
    return isinstance(config, Mapping) and ("inbound_nodes" in part or "trainable" in config)


def _from_h5(path: Path, structure: Any, trust: bool) -> keras.Model:
    """Open a file of HDF5, of Keras 2 too: settings that were renamed since are renamed."""
    renamed = _as_now(structure)
    if renamed == structure:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(renamed)
        return keras.saving.load_model(copy, compile=False, safe_mode=not trust)


def _as_now(structure: Any) -> Any:
    """Return a structure of Keras 2 in the words of Keras 3."""
    if isinstance(structure, list):
        return [_as_now(item) for item in structure]
    if not isinstance(structure, Mapping):
        return structure
    made = {key: _as_now(value) for key, value in structure.items()}
    config = made.get("config")
    if isinstance(made.get("class_name"), str) and isinstance(config, dict):
        if made["class_name"] == "DepthwiseConv2D":
            config = {key: value for key, value in config.items() if key not in _GONE}
        if made["class_name"] == "InputLayer":
            config = {_RENAMED.get(key, key): value for key, value in config.items()}
        if made["class_name"] == "BatchNormalization" and isinstance(config.get("axis"), list):
            config = {**config, "axis": config["axis"][0]}
        made["config"] = config
    return made
