"""The adapter to Keras 3, on TensorFlow. Models of Keras 2 are opened as models of Keras 3."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["KERAS_BACKEND"] = "tensorflow"  # files do not say on which they were made
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow tells of the processor's instructions otherwise

import keras
import numpy as np

from whet import userfile
from whet.errors import ModelError, SignatureError, in_one_line
from whet.models.keras import archive, counting, describe, saved, served
from whet.models.model import Model
from whet.models.signature import refine
from whet.models.source import MemorySource, Origin, Source
from whet.storage import storage_errors
from whet.types import Format, Layer, Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Array, Batch

_FILE = "model.keras"


class KerasAdapter:
    """Opens, stores and runs ``keras.Model``."""

    format = Format.KERAS

    def open(self, source: Source, sample: Batch | None) -> Model:
        """Read a file or folder, or call a factory; free axes are as long as in a sample or ``source.inputs``."""
        model = _built(source)
        declared = refine(_signature_inputs(model), source.inputs)
        batch = declared.bind(sample) if sample is not None else declared.synthetic(2)
        made = Model(self.format, model, declared, source=source)
        try:
            outputs = self.forward(made, batch)
        except Exception as error:
            raise SignatureError(
                f"the model cannot be run on {', '.join(map(str, declared.inputs))}: {type(error).__name__}: "
                f"{in_one_line(error)}; give data of the shape and type it takes, or say so with --input"
            ) from error
        if source.origin is Origin.FILE and Path(source.path).is_dir():
            served.agree(Path(source.path), model, batch, list(outputs.values()))
        found = tuple(
            TensorSpec(name, str(array.dtype), (None, *_free(tensor.shape[1:], array.shape[1:])))
            for (name, array), tensor in zip(outputs.items(), keras.tree.flatten(model.outputs), strict=True)
        )
        return made.with_payload(model, signature=Signature(declared.inputs, found))

    @staticmethod
    def inputs(model: keras.Model) -> list[str]:
        """Return the names of what goes in, in order."""
        return [describe.input_name(tensor) for tensor in model.inputs]

    def save(self, model: Model, folder: Path) -> Path:
        """Write ``model.keras``."""
        path = folder / _FILE
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            model.payload.save(path)
        return path

    def load(self, path: Path, source: Source | None) -> keras.Model:
        """Read a stored file."""
        return archive.read(path, trust=source is not None and source.trust_pickle)

    def files(self, path: Path) -> list[Path]:
        """Return the file, which is all there is."""
        return [path]

    def clone(self, model: Model) -> Model:
        """Copy layers and weights."""
        copy = keras.models.clone_model(model.payload)
        copy.set_weights(model.payload.get_weights())
        return model.with_payload(copy)

    def forward(self, model: Model, batch: Batch) -> dict[str, Array]:
        """Run the model in inference mode."""
        values = [keras.ops.convert_to_tensor(batch[name]) for name in self.inputs(model.payload)]
        found = model.payload(describe.arranged(model.payload, values), training=False)
        return dict(zip(output_names(model.payload), map(np.asarray, keras.tree.flatten(found)), strict=True))

    def layers(self, model: Model) -> list[Layer]:
        """Return the layers that own weights, counted for one sample."""
        return counting.layers(model.payload)

    def weights(self, model: Model) -> dict[str, Array]:
        """Return a copy of every floating weight, as ``layer.kernel``."""
        found = counting.named_weights(model.payload)
        return {name: np.array(weight.value) for name, weight in found.items()}

    def matrices(self, model: Model) -> dict[str, Array]:
        """Return the matrices and kernels a model multiplies by."""
        names = {name for layer in self.layers(model) for name in layer.weights}
        return {name: value for name, value in self.weights(model).items() if name in names}

    def with_weights(self, model: Model, weights: Mapping[str, Array]) -> Model:
        """Return a copy of the model with some weights replaced."""
        model = self.clone(model)
        for name, variable in counting.named_weights(model.payload).items():
            if name in weights:
                variable.assign(weights[name])
        return model


def output_names(model: keras.Model) -> list[str]:
    """Return the names of outputs, those of the module that torch has of it."""
    count = len(keras.tree.flatten(model.outputs))
    return ["output"] if count == 1 else [f"output_{at}" for at in range(count)]


def _built(source: Source) -> keras.Model:
    """Return the user's model: out of a file, by a factory, or as it lay in memory.

    Raises:
        ModelError: It is no Keras model of a fixed structure.
    """
    if source.origin is Origin.FACTORY:
        model = userfile.call(Path(source.path), source.factory, ModelError)
        name = f"{Path(source.path).name}:{source.factory}"
    elif isinstance(source, MemorySource):
        model, name = archive.from_bytes(source.memory), source.factory
    else:
        path = Path(source.path)
        read = saved.read if path.is_dir() else archive.read
        model, name = read(path, trust=source.trust_pickle), path.name
    if not isinstance(model, keras.Model):
        raise ModelError(f"{name} returned a {type(model).__name__}, not a keras.Model; return the model itself")
    if source.weights:
        _fill(model, Path(source.weights))
    describe.functional(model)
    return model


def _fill(model: keras.Model, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # Keras raises whatever its reader does
        raise ModelError(
            f"{path.name} does not hold the weights of this model: {in_one_line(error, 200)}"
        ) from error


def _signature_inputs(model: keras.Model) -> Signature:
    """Return what goes in, as the model declares it."""
    specs = [
        TensorSpec(describe.input_name(tensor), str(tensor.dtype), (None, *tensor.shape[1:]))
        for tensor in model.inputs
    ]
    return Signature(tuple(specs), ())


def _free(declared: tuple[int | None, ...], found: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(have if want is not None else None for want, have in zip(declared, found, strict=True))
