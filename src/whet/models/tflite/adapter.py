"""The adapter to TFLite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whet.errors import ModelError, SignatureError, in_one_line
from whet.models.model import Model
from whet.models.signature import refine, with_lengths
from whet.models.source import Source
from whet.models.tflite import constants, counting
from whet.models.tflite.flatbuffer import custom_operators, parse
from whet.models.tflite.interpreter import Running
from whet.models.tflite.signature import as_it_runs, file_signature, one_at_a_time
from whet.storage import storage_errors, write_bytes
from whet.types import Format, Layer, Signature

if TYPE_CHECKING:
    from whet.types import Array, Batch

_FILE = "model.tflite"
_OF_TENSORFLOW = "Flex"  # begins the names of operators that run in TensorFlow itself


class TfliteAdapter:
    """Opens, stores and runs the bytes of TFLite files.

    Only the first graph of a file is the model; of a file with several signatures, that is the first of these.
    """

    format = Format.TFLITE

    def open(self, source: Source, sample: Batch | None) -> Model:
        """Read a file and try it; the signature is the file's own, refined by what the user declared.

        Whether the number of samples is free is found by running two: files say so that reshape to one.
        """
        content = read(Path(source.path))

        def opened() -> Callable[[Batch], object]:
            return Running(content).run

        signature = with_lengths(refine(file_signature(content), source.inputs), sample, opened)
        return Model(self.format, content, _tried(content, signature), counting.traits(content), source=source)

    def save(self, model: Model, folder: Path) -> Path:
        """Write ``model.tflite``."""
        path = folder / _FILE
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, model.payload)
        return path

    def load(self, path: Path, source: Source | None) -> bytes:
        """Read a stored file."""
        return read(path)

    def files(self, path: Path) -> list[Path]:
        """Return the file, which is all there is."""
        return [path]

    def clone(self, model: Model) -> Model:
        """Return the model: its bytes cannot be changed."""
        return model.with_payload(bytes(model.payload))

    def forward(self, model: Model, batch: Batch) -> dict[str, Array]:
        """Run the file in LiteRT, without a delegate where it can do without."""
        return Running(model.payload).run(batch)

    def layers(self, model: Model) -> list[Layer]:
        """Return the operators that own weights or multiply, counted for one sample."""
        if model.signature is None:
            return counting.layers(model.payload, None)
        running = Running(model.payload)
        running.run(model.signature.synthetic(1))
        found = counting.layers(model.payload, running.shapes())
        return [layer.of_one(model.signature.batch or 1) for layer in found]

    def weights(self, model: Model) -> dict[str, Array]:
        """Return a copy of every constant that was learned; of integers, the numbers that they stand for."""
        found = counting.weights(model.payload)
        return {name: np.array(constants.numbers(tensor)) for name, tensor in found.items()}

    def matrices(self, model: Model) -> dict[str, Array]:
        """Return the constants that operators multiply by, as stored; integers less their zero points."""
        return counting.matrices(model.payload)

    def with_weights(self, model: Model, weights: Mapping[str, Array]) -> Model:
        """Return a model with some constants written over where they lie; all else in the file stays as it is.

        Raises:
            ModelError: One of them is not held in floats, or shares its bytes with another that is to differ.
        """
        content = bytearray(model.payload)
        found = counting.weights(content)
        written: dict[int, bytes] = {}
        for name in weights.keys() & found.keys():
            tensor = found[name]
            if not counting.replaceable(tensor):
                how = "sparse" if tensor.sparsity is not None else f"{tensor.type} with scales"
                raise ModelError(
                    f"the weights {name!r} are {how} in the file and cannot be replaced; change them in the model "
                    f"that it was converted from, before they are quantized"
                )
            assert tensor.data is not None
            array = np.ascontiguousarray(weights[name], dtype=constants.FLOATS[tensor.type])
            place = tensor.data.ctypes.data
            if written.setdefault(place, array.tobytes()) != array.tobytes():
                raise ModelError(f"{name!r} shares its bytes with other weights of the file; give both the same")
            tensor.data[:] = array.reshape(-1).view(np.uint8)
        return model.with_payload(bytes(content))


def read(path: Path) -> bytes:
    """Read a file, verify that it is whole, and see that LiteRT has all its operators.

    Raises:
        ModelError: It is missing, truncated, of another format, or has operators that LiteRT does not.
    """
    if not path.is_file():
        raise ModelError(f"the model file {path} does not exist; check the path")
    content = path.read_bytes()
    try:
        Running(content)
    except Exception as error:  # LiteRT raises ValueError and RuntimeError, the schema whatever it meets
        raise ModelError(_why(path, content, error)) from error
    if flex := [name for name in custom_operators(content) if name.startswith(_OF_TENSORFLOW)]:
        raise ModelError(_of_tensorflow(path, flex, []))  # where lengths are free, no call has told so yet
    for tensor in (tensor for graph in parse(content) for tensor in graph.tensors):
        if tensor.sparsity is not None and tensor.data is not None:
            constants.stored(tensor)  # LiteRT does not look whether its indices lie within it
    return content


def _why(path: Path, content: bytes, error: Exception) -> str:
    """Say why LiteRT does not open a file."""
    told = in_one_line(error)
    if content[4:8] != b"TFL3" or "not a valid Flatbuffer" in told:
        return f"{path} is not a TFLite file, or it is truncated; convert the model again, or copy the file whole"
    try:
        custom = custom_operators(content)
    except Exception:  # noqa: BLE001 - a file that LiteRT refuses may say anything of itself
        custom = []
    flex = [name for name in custom if name.startswith(_OF_TENSORFLOW)]
    others = [name for name in custom if name not in flex]
    if flex:
        return _of_tensorflow(path, flex, others)
    if others:
        return (
            f"{path} has custom operators ({', '.join(others)}), which LiteRT does not know; convert the model "
            f"without them ({told})"
        )
    return f"LiteRT does not open {path}: {told}"


def _of_tensorflow(path: Path, flex: list[str], others: list[str]) -> str:
    return (
        f"{path} has operators of TensorFlow itself ({', '.join(flex)}), which LiteRT does not run; convert it "
        f"with TFLITE_BUILTINS alone, without SELECT_TF_OPS"
        + (f"; also custom operators ({', '.join(others)})" if others else "")
    )


def _tried(content: bytes, signature: Signature) -> Signature:
    """Return a signature with its outputs as they are found by running, and the samples that a call takes.

    Raises:
        SignatureError: The file cannot be run on what it says it takes.
    """
    fixed = signature.batch
    if fixed is None:
        try:
            return as_it_runs(signature, Running(content).run(signature.synthetic(2)), 2)
        except (ValueError, RuntimeError, SignatureError):
            signature, fixed = one_at_a_time(signature), 1
    try:
        return as_it_runs(signature, Running(content).run(signature.synthetic(fixed)), fixed)
    except (ValueError, RuntimeError) as error:
        told = ", ".join(map(str, signature.inputs))
        raise SignatureError(
            f"LiteRT cannot run the model on {told} ({in_one_line(error)}); say what goes in with --input"
        ) from error
