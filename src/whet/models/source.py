"""Where a model comes from: enough to open it again in another process."""

from __future__ import annotations

import hashlib
import importlib.machinery
import sys
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from whet import bounds, pickling, userfile
from whet.errors import ModelError, in_one_line
from whet.models.identity import identity
from whet.models.recognise import check_file
from whet.storage import files_below, sha256
from whet.types import Format, TensorSpec


class Origin(StrEnum):
    """How the structure of a model is had."""

    FACTORY = "factory"  # a function of a user's file builds it
    FILE = "file"  # a file holds it whole
    KERAS = "keras"  # a description of a Keras model builds a module, from a file
    HUB = "hub"  # a config of transformers builds it, from a folder
    MEMORY = "memory"  # an object that the user's program holds


_SUFFIXES = {
    ".onnx": Format.ONNX,
    ".pt2": Format.TORCH,
    ".tflite": Format.TFLITE,
    ".keras": Format.KERAS,
    ".h5": Format.KERAS,
}
PROGRAM, DESCRIPTION, CONFIG = "program.pt2", "keras.json", "config.json"  # beside a stored torch model
SAVED_MODEL = "saved_model.pb"  # in the folder of a SavedModel
_LATER = {".xml", ".engine"}
_KERAS = {"keras", "tensorflow", "tf_keras"}
_WEIGHTS = {".pt", ".pth", ".th", ".bin", ".ckpt", ".safetensors"}


@dataclass(frozen=True, slots=True)
class Source:
    """A user's model, named. Plain data: what is read from a disk names files, and never carries an object.

    Attributes:
        origin: How the structure is had.
        format: What it is.
        path: The file of the factory or of the model, the folder of a SavedModel or of one of the hub; empty in
            memory.
        factory: The function's name; the model's name on the hub; the class's name in memory.
        weights: A file of weights, or empty.
        trust_pickle: Whether the user allowed weights to be unpickled.
        inputs: As given by ``--input``; empty if the data tells.
        identity: A hash of an object in memory, the same in every process; its pickle is not.
        revision: Of a model that was fetched from the hub.
    """

    origin: Origin
    format: Format
    path: str = ""
    factory: str = ""
    weights: str = ""
    trust_pickle: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    identity: str = ""
    revision: str = ""

    @property
    def name(self) -> str:
        """A short name for tables and folders."""
        return Path(self.factory).name or Path(self.path).stem

    def plain(self) -> Source:
        """Return what may be stored: the fields of a Source, and no object in memory."""
        return Source(**{field.name: getattr(self, field.name) for field in fields(Source)})

    def without_folders(self) -> Source:
        """Return what may be shipped: names of files without the folders they are in on this machine."""
        return replace(self.plain(), path=Path(self.path).name, weights=Path(self.weights).name)

    def fingerprint(self) -> str:
        """Return a hash of everything that decides what the model is."""
        digest = hashlib.sha256(repr((self.origin, self.format, self.factory, self.inputs)).encode())
        for path in self._files():
            digest.update(sha256(path).encode() if path else b"-")
        digest.update((self.identity or hashlib.sha256(b"").hexdigest()).encode())
        return digest.hexdigest()[:24]

    def _files(self) -> list[Path | None]:
        """Return the files that decide what the model is."""
        if self.origin is Origin.HUB:
            from whet.models.torch import hub

            tokenizer = hub.tokenizer_file(self)
            return [Path(self.path) / "config.json", *hub.weight_files(Path(self.path)), tokenizer]
        weights = Path(self.weights) if self.weights else None
        if self.origin is Origin.FACTORY:
            return [*userfile.files(Path(self.path)), weights]
        path = Path(self.path) if self.path else None
        return [*(files_below(path) if path is not None and path.is_dir() else [path]), weights]


@dataclass(frozen=True, slots=True)
class MemorySource(Source):
    """An object that this program holds. It travels to child processes through a private pipe.

    Only ``source_of`` makes one: plain data that was read from a disk becomes a Source, which has no bytes.

    Attributes:
        memory: The object: cloudpickled, or as the content of a ``.keras`` file.
    """

    memory: bytes = b""


@dataclass(frozen=True, slots=True)
class BundleSource(MemorySource):
    """What the torch module of a bundle is built from; whatever else its stored model names is not followed.

    Attributes:
        is_users: Whether the user has given it, in place of what the bundle brings.
    """

    is_users: bool = False

    @property
    def is_foreign_code(self) -> bool:
        """Whether building the module runs code that is in the bundle."""
        return self.origin is Origin.FACTORY and not self.is_users

    @staticmethod
    def of_user(source: Source) -> BundleSource:
        """Return a source that the user has given for the module of a bundle."""
        own = {field.name: getattr(source, field.name) for field in fields(source)}
        return BundleSource(**{**own, "is_users": True})


def bundle_source(folder: Path, code: Path, factory: str) -> BundleSource | None:
    """Return what a bundle brings to build its torch module from; None where the class was in a program's memory.

    Args:
        folder: The stored model in the bundle.
        code: The file of a factory, if the bundle has one.
        factory: The function's name.
    """
    for name, origin in ((PROGRAM, Origin.FILE), (DESCRIPTION, Origin.KERAS)):
        if (folder / name).is_file():
            return BundleSource(origin, Format.TORCH, str(folder / name), factory)
    if (folder / CONFIG).is_file():
        return BundleSource(Origin.HUB, Format.TORCH, str(folder), factory)
    return BundleSource(Origin.FACTORY, Format.TORCH, str(code), factory) if code.is_file() else None


def source_of(
    model: Any,
    weights: str | Path | None = None,
    inputs: tuple[TensorSpec, ...] = (),
    *,
    trust_pickle: bool = False,
) -> Source:
    """Name a model: ``file.py:factory``, a model file, a folder, ``hf:owner/name``, an object.

    A folder has a ``saved_model.pb`` (a SavedModel of Keras) or a ``config.json`` (a model of transformers).

    Nothing is opened yet; a model of the hub that is not on this machine is fetched.

    Raises:
        ModelError: The name has no form that is known, or the file is not there.
    """
    if not isinstance(model, str | Path):
        return _in_memory(model, inputs)
    bounds.check_path(model, "the model")
    weights_file = _existing(Path(weights), "weights") if weights else None
    hub_name = _hub_name(model)
    if hub_name:
        from whet.models.torch import hub

        if weights_file is not None:
            raise ModelError(f"--weights goes with file.py:function; {model} has its own weights")
        return hub.source(hub_name, inputs)
    parts = userfile.split(str(model))
    if parts is not None:
        if parts[0].exists():
            userfile.check(parts[0], ModelError)
        path, name = _existing(parts[0], "model"), parts[1]
        filled = str(weights_file or "")
        return Source(Origin.FACTORY, _built(path, name), str(path), name, filled, trust_pickle, tuple(inputs))
    return _file(Path(model), weights_file, inputs, trust_pickle)


def _built(path: Path, name: str) -> Format:
    """Return what a function builds, before it is called: a Keras model where its file imports Keras and no torch.

    Raises:
        ModelError: It imports both.
    """
    imported = userfile.imports(path)
    if not imported & _KERAS:
        return Format.TORCH
    if "torch" in imported:
        raise ModelError(
            f"{path.name} imports both torch and Keras, so that it is not known what {name} builds; put the "
            f"function into a file that imports one of them alone"
        )
    return Format.KERAS


def _hub_name(model: str | Path) -> str:
    """Return the name or folder of a model of transformers, or nothing."""
    if str(model).startswith("hf:"):
        return str(model).removeprefix("hf:")
    return str(Path(model).absolute()) if (Path(model) / "config.json").is_file() else ""


def _file(path: Path, weights: Path | None, inputs: tuple[TensorSpec, ...], trust_pickle: bool) -> Source:
    if path.is_dir() or path.name == SAVED_MODEL:
        return _folder(path, weights, inputs, trust_pickle)
    suffix = path.suffix.lower()
    if suffix in _WEIGHTS:
        raise ModelError(
            f"{path} holds weights, not a model; name the function that builds it, and the weights beside: "
            f"model.py:build --weights {path}"
        )
    if suffix == ".py":
        raise ModelError(f"{path} is a Python file; name the function in it that builds the model: {path}:build")
    if suffix not in _SUFFIXES:
        known = (
            "an .onnx, .pt2, .tflite, .keras or .h5 file, a SavedModel folder, file.py:function, or hf:owner/name"
        )
        hint = f"{suffix} files are not read by this version" if suffix in _LATER else f"{path} is none of these"
        raise ModelError(f"a model is {known}; {hint}")
    if weights is not None:
        raise ModelError(f"--weights goes with file.py:function; {path.name} holds its own weights")
    trusted = trust_pickle and _SUFFIXES[suffix] is Format.KERAS  # Lambda layers; in others there is no code
    file = str(_existing(path, "model"))
    return Source(Origin.FILE, _SUFFIXES[suffix], file, trust_pickle=trusted, inputs=tuple(inputs))


def _folder(path: Path, weights: Path | None, inputs: tuple[TensorSpec, ...], trust_pickle: bool) -> Source:
    """Name a SavedModel, by its folder or by the file of its graph."""
    folder = path.parent if path.name == SAVED_MODEL and not path.is_dir() else path
    if not (folder / SAVED_MODEL).exists() and path == folder:
        raise ModelError(
            f"{path} is a folder without a manifest.json (a bundle's, to be measured or verified), a config.json "
            f"(of transformers) or a {SAVED_MODEL} (a SavedModel's); give one of these, a model file or "
            f"file.py:function"
        )
    _existing(folder / SAVED_MODEL, "model")
    if weights is not None:
        raise ModelError(f"--weights goes with file.py:function; {folder} holds its own weights")
    return Source(Origin.FILE, Format.KERAS, str(folder.resolve()), trust_pickle=trust_pickle, inputs=tuple(inputs))


def _existing(path: Path, what: str) -> Path:
    check_file(path, what)
    return path.resolve()


def _in_memory(model: Any, inputs: tuple[TensorSpec, ...]) -> Source:
    """Name an object in memory; its class travels by value if a child process could not import it."""
    import cloudpickle

    kind = type(model)
    if any(base.__module__.partition(".")[0] == "keras" and base.__name__ == "Model" for base in kind.__mro__):
        from whet.models.keras import archive

        content = archive.to_bytes(model)
        digest = archive.identity(content)
        return MemorySource(
            Origin.MEMORY, Format.KERAS, factory=model.name, inputs=tuple(inputs), memory=content, identity=digest
        )
    if not any(base.__module__.startswith("torch.nn.") and base.__name__ == "Module" for base in kind.__mro__):
        raise ModelError(
            f"a model in memory is a torch.nn.Module or a keras.Model, this is a {kind.__name__}; "
            f"give an .onnx file or file.py:function otherwise"
        )
    modules = {type(part).__module__ for part in model.modules()}
    by_value = [sys.modules[name] for name in modules if name in sys.modules and not _importable(name)]
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        memory, digest = pickling.dumps(model), identity(model)
    except Exception as error:
        raise ModelError(
            f"the {kind.__name__} cannot be sent to a child process "
            f"({type(error).__name__}: {in_one_line(error)}); "
            f"write a function that builds it, and give file.py:function"
        ) from error
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return MemorySource(
        Origin.MEMORY, Format.TORCH, factory=kind.__name__, inputs=tuple(inputs), memory=memory, identity=digest
    )


def _importable(module: str) -> bool:
    """Tell whether a fresh process with our search path could import a module."""
    if module == "__main__":
        return True  # cloudpickle carries __main__ by value by itself
    parts = module.split(".")
    path: Any = None
    for depth in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        if spec is None:
            return parts[0] in sys.builtin_module_names
        path = spec.submodule_search_locations
    return True
