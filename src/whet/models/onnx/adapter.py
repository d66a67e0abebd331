"""The adapter to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from whet.errors import ModelError, SignatureError, in_one_line
from whet.models.model import Model
from whet.models.onnx import checks, counting, initializers
from whet.models.onnx.refusals import sentence
from whet.models.onnx.signature import graph_signature, has_shape, lengths
from whet.models.signature import refine
from whet.models.source import Source
from whet.storage import storage_errors
from whet.types import Format, Layer, Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Array, Batch

_FILE = "model.onnx"
_EXTERNAL_ABOVE = 1 << 30  # protobuf holds 2 GiB at most
_WEIGHTS_NEED_NOT_BE_INPUTS = 4  # from this version of the format on; tools that change graphs count on it
# What the checker says of operators that are not ONNX's own, and of outputs whose shape is found by running.
LEFT_TO_THE_RUNTIME = ("No Op registered", "is not a registered", "Field 'shape' of 'type' is required")
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


class OnnxAdapter:
    """Opens, stores and runs ``onnx.ModelProto``."""

    format = Format.ONNX

    def open(self, source: Source, sample: Batch | None) -> Model:
        """Read a file and check it; the signature is the graph's own, refined by what the user declared."""
        proto = read(Path(source.path))
        declared = refine(graph_signature(proto), source.inputs)
        check_opens(Path(source.path), proto)
        proto.ir_version = max(proto.ir_version, _WEIGHTS_NEED_NOT_BE_INPUTS)
        initializers.lift_constants(proto)
        signature = lengths(proto, declared, sample)
        model = Model(self.format, proto, signature, counting.traits(proto), source=source)
        if any(not has_shape(value) for value in proto.graph.output):
            signature = self._run_for_outputs(model, sample)
            _declare(proto, signature.outputs)
        return model.with_payload(proto, signature=signature)

    def save(self, model: Model, folder: Path) -> Path:
        """Write ``model.onnx``, and its weights beside it where they exceed what protobuf holds."""
        path = folder / _FILE
        external = model.payload.ByteSize() > _EXTERNAL_ABOVE
        written = self.clone(model) if external else model  # onnx takes the weights out of what it writes
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            onnx.save_model(
                written.payload,
                str(path),
                save_as_external_data=external,
                location=f"{_FILE}.data" if external else None,
            )
        return path

    def load(self, path: Path, source: Source | None) -> ModelProto:
        """Read a stored file."""
        return read(path)

    def files(self, path: Path) -> list[Path]:
        """Return the file and those that hold its external data."""
        proto = onnx.load(str(path), load_external_data=False)
        names = {
            entry.value
            for tensor in proto.graph.initializer
            if uses_external_data(tensor)
            for entry in tensor.external_data
            if entry.key == "location"
        }
        return [path, *(path.parent / name for name in sorted(names))]

    def clone(self, model: Model) -> Model:
        """Copy the graph."""
        copy = ModelProto()
        copy.CopyFrom(model.payload)
        return model.with_payload(copy)

    def forward(self, model: Model, batch: Batch) -> dict[str, Array]:
        """Run the graph in ONNX Runtime on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            model.payload.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, dict(batch)), strict=True))

    def layers(self, model: Model) -> list[Layer]:
        """Return the nodes that own weights or multiply, counted for one sample."""
        if model.signature is None:
            return counting.layers(model.payload, None)
        found = counting.layers(model.payload, model.signature.synthetic(1))
        return [layer.of_one(model.signature.batch or 1) for layer in found]

    def weights(self, model: Model) -> dict[str, Array]:
        """Return a copy of every floating initializer."""
        return {
            tensor.name: np.array(numpy_helper.to_array(tensor))
            for tensor in model.payload.graph.initializer
            if tensor.data_type in _FLOATS
        }

    def matrices(self, model: Model) -> dict[str, Array]:
        """Return the constants that nodes multiply by, through DequantizeLinear too, less their zero points."""
        return counting.matrices(model.payload)

    def with_weights(self, model: Model, weights: Mapping[str, Array]) -> Model:
        """Return a copy of the model with some initializers replaced."""
        model = self.clone(model)
        for tensor in model.payload.graph.initializer:
            if tensor.name in weights:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                array = np.ascontiguousarray(weights[tensor.name], dtype=dtype)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return model

    def _run_for_outputs(self, model: Model, sample: Batch | None) -> Signature:
        """Find the shapes of outputs that the graph does not declare."""
        assert model.signature is not None
        batch = model.signature.bind(sample) if sample is not None else model.signature.synthetic(1)
        try:
            found = self.forward(model, batch)
        except Exception as error:
            raise SignatureError(
                f"the model's outputs have no declared shape and it cannot be run to find them "
                f"({sentence(error)}); say what goes in with --input"
            ) from error
        outputs = [_found(spec, found[spec.name]) for spec in model.signature.outputs]
        return Signature(model.signature.inputs, tuple(outputs))


def read(path: Path) -> ModelProto:
    """Read and check an ONNX file with its external data, which may not leave the file's folder.

    Raises:
        ModelError: The file is missing, truncated, of another format, or invalid.
    """
    if not path.is_file():
        raise ModelError(f"the model file {path} does not exist; check the path")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelError(f"{path} is not an ONNX file, or it is truncated ({in_one_line(error)})") from error
    if not proto.opset_import:
        raise ModelError(f"{path} holds no ONNX graph; it may be truncated or of another format")
    checks.check_graph(path, proto)
    checks.check_external(path, proto)
    try:
        load_external_data_for_model(proto, str(path.parent))
    except (onnx.checker.ValidationError, FileNotFoundError, ValueError, OSError) as error:
        raise ModelError(f"the external data of {path} cannot be read: {in_one_line(error)}") from error
    try:
        # The path form also checks models beyond protobuf's 2 GiB.
        onnx.checker.check_model(str(path), full_check=False)
    except onnx.checker.ValidationError as error:
        if not any(known in str(error) for known in LEFT_TO_THE_RUNTIME):
            raise ModelError(f"{path} is not a valid ONNX model: {sentence(error, proto)}") from error
    return proto


def check_opens(path: Path, proto: ModelProto) -> None:
    """Open a user's file in ONNX Runtime, nothing optimized: what it refuses is the file's fault, and told as such.

    Raises:
        ModelError: ONNX Runtime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, without a common base
        raise ModelError(f"ONNX Runtime cannot open {path}: {sentence(error, proto)}") from error


def _found(spec: TensorSpec, array: Array) -> TensorSpec:
    """Return an output with the type and the axes it was found to have."""
    shape = (None, *array.shape[1:]) if array.ndim else ()
    return replace(spec, dtype=str(array.dtype), shape=shape, sample=0 if shape else None)


def _declare(proto: ModelProto, outputs: tuple[TensorSpec, ...]) -> None:
    """Write types and numbers of axes of outputs into a graph, in place; lengths stay free."""
    for value, spec in zip(proto.graph.output, outputs, strict=True):
        if not has_shape(value):
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
            value.CopyFrom(onnx.helper.make_tensor_value_info(spec.name, kind, [None] * len(spec.shape)))
