"""Files of Keras models: ``.keras``, and ``.h5`` of Keras 2 and 3; read without running what is in them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from whet.errors import ModelError, in_one_line
from whet.models.keras import limits
from whet.models.keras.keras2 import as_now

_STRUCTURE, _WEIGHTS = "config.json", "model.weights.h5"  # in a .keras file
_CODE = {"Lambda", "__lambda__"}  # classes that hold marshalled Python
_OURS = {"keras", "builtins"}  # modules of Keras itself
_SUFFIXES = (".keras", ".h5")


def read(path: Path, *, trust: bool = False) -> keras.Model:
    """Open a model file.

    Args:
        path: A ``.keras`` or ``.h5`` file.
        trust: Run code that the file brings (Lambda layers), by the user's explicit word.

    Raises:
        ModelError: It is truncated, of another kind, brings code, or needs classes that are not there.
    """
    structure = _zip_structure(path) if path.suffix == ".keras" else _h5_structure(path)
    _refuse_code(path.name, structure, trust)
    _name_unknown(path.name, structure)
    with _explained(path.name):
        model = _loaded(path, structure, trust)
    if not isinstance(model, keras.Model):
        raise ModelError(f"{path.name} holds a {type(model).__name__}, not a model; save the whole model")
    return model


def built(structure: Mapping[str, Any], name: str, *, trust: bool) -> keras.Model:
    """Return a model of a structure, its weights not filled in.

    Args:
        structure: Of a functional or sequential model, in the words of Keras 3.
        name: What the user calls it.
        trust: Run code that it brings.

    Raises:
        ModelError: It brings code, or needs classes that are not there.
    """
    _refuse_code(name, structure, trust)
    _name_unknown(name, structure)
    kind = "Sequential" if structure["class_name"] == "Sequential" else "Model"
    whole = {**structure, "module": "keras", "class_name": kind, "registered_name": kind}
    with _explained(name):
        return keras.saving.deserialize_keras_object(whole, safe_mode=not trust)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say what Keras cannot open; it raises whatever its layers do."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"Keras {keras.__version__} cannot open {name}: {type(error).__name__}: {in_one_line(error)}; "
            f"copy it again, or save it with this Keras"
        ) from error


def to_bytes(model: keras.Model) -> bytes:
    """Return a model as the bytes of a ``.keras`` file.

    Raises:
        ModelError: It cannot be written as one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
        except Exception as error:  # Keras raises whatever its layers do
            raise ModelError(
                f"the model {model.name} cannot be saved for another process to open: {in_one_line(error)}; "
                f"write a function that builds it, and give file.py:function"
            ) from error
        return path.read_bytes()


def identity(content: bytes) -> str:
    """Return a hash of the structure and the weights in a ``.keras`` file, the same whenever it is written."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        digest.update(file.read(_STRUCTURE))
        with h5py.File(io.BytesIO(file.read(_WEIGHTS)), "r") as weights:
            names: list[str] = []
            weights.visit(names.append)
            for name in sorted(names):
                if isinstance(weights[name], h5py.Dataset):
                    digest.update(name.encode() + np.asarray(weights[name]).tobytes())
    return digest.hexdigest()[:24]


def from_bytes(content: bytes) -> keras.Model:
    """Return the model of ``to_bytes``: the user's own, so that its code may run.

    Raises:
        ModelError: It needs classes that another process does not know.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return read(path, trust=True)


def _zip_structure(path: Path) -> Any:
    """Return the structure that a ``.keras`` file holds, sizes looked at before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as file:
            limits.check_archive(path, file)
            structure = file.read(_STRUCTURE)
            with file.open(_WEIGHTS) as stored, h5py.File(stored, "r") as weights:
                limits.check_arrays(path, weights)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, RuntimeError) as error:
        raise ModelError(f"{path} is no .keras file, or truncated ({in_one_line(error)}); copy it again") from error
    return limits.parse_structure(path, structure)


def _h5_structure(path: Path) -> Any:
    """Return the structure that a file of HDF5 holds."""
    try:
        with h5py.File(path, "r") as file:
            limits.check_arrays(path, file)
            found = file.attrs.get("model_config")
            names = list(file)[:5]
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{path} is no HDF5 file, or truncated ({in_one_line(error)}); copy it again") from error
    if found is None:
        raise ModelError(
            f"{path} holds weights ({', '.join(map(str, names))}), not a model; save it whole: model.save()"
        )
    return limits.parse_structure(path, found)


def parts(structure: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every serialized object of a structure that names its class."""
    if isinstance(structure, Mapping):
        if isinstance(structure.get("class_name"), str):
            yield structure
        for value in structure.values():
            yield from parts(value)
    elif isinstance(structure, list):
        for value in structure:
            yield from parts(value)


def _refuse_code(name: str, structure: Any, trust: bool) -> None:
    """Refuse layers of marshalled code, unless the user allowed it."""
    found = [part for part in parts(structure) if part["class_name"] in _CODE]
    if found and not trust:
        names = [_called(part) for part in found if part["class_name"] == "Lambda"] or ["a function"]
        raise ModelError(
            f"{name} brings Python code of its own (Lambda: {', '.join(names[:5])}), which is not run out of "
            f"a file; replace it by layers, or allow it with --trust-pickle"
        )


def _called(part: Mapping[str, Any]) -> str:
    config = part.get("config")
    return str(config.get("name", "unnamed")) if isinstance(config, Mapping) else "unnamed"


def _name_unknown(name: str, structure: Any) -> None:
    """Name classes and functions of the user's own that are not registered."""
    unknown = list(dict.fromkeys(found for part in parts(structure) if (found := _unknown(part))))
    if unknown:
        raise ModelError(
            f"{name} uses classes or functions of its own: {', '.join(unknown)}; give a file.py:function that "
            f"defines and registers them (@keras.saving.register_keras_serializable()) and returns "
            f"keras.saving.load_model({name if name.endswith(_SUFFIXES) else f'{name}.h5'!r})"
        )


def _unknown(part: Mapping[str, Any]) -> str:
    """Return the name of what a part of a structure needs and Keras does not know, or nothing."""
    name, registered, module = part["class_name"], part.get("registered_name") or "", part.get("module")
    config = part.get("config")
    if name == "function" and isinstance(config, str):
        known = hasattr(keras.activations, config) or keras.saving.get_registered_object(registered or config)
        return "" if known else config
    if registered and keras.saving.get_registered_object(registered) is not None:
        return ""
    if ">" in registered or (module and module.partition(".")[0] not in _OURS):
        return registered.rpartition(">")[2] or name
    known = not _is_layer(part) or hasattr(keras.layers, name) or hasattr(keras, name) or name in _GRAPHS
    return "" if known or (module or "").startswith("keras.src") else name


_GRAPHS = ("Functional", "Model", "Sequential")


def _is_layer(part: Mapping[str, Any]) -> bool:
    config = part.get("config")
    return isinstance(config, Mapping) and ("inbound_nodes" in part or "trainable" in config)


def _loaded(path: Path, structure: Any, trust: bool) -> keras.Model:
    """Open a file; in one of Keras 2, settings that were renamed since are renamed in a copy first."""
    renamed = as_now(structure)
    if renamed == structure:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if path.suffix == ".keras":
            _copy_zip(path, copy, json.dumps(renamed))
        else:
            shutil.copyfile(path, copy)
            with h5py.File(copy, "r+") as file:
                file.attrs["model_config"] = json.dumps(renamed)
        return keras.saving.load_model(copy, compile=False, safe_mode=not trust)


def _copy_zip(path: Path, copy: Path, structure: str) -> None:
    """Copy a ``.keras`` file with another structure in it."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for item in old.infolist():
            new.writestr(item, structure if item.filename == _STRUCTURE else old.read(item))
