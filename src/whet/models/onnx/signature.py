"""What goes into an ONNX graph and what comes out, as the graph declares it and a user refines it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto

from whet.errors import SignatureError
from whet.models.signature import with_lengths
from whet.types import Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Batch

_KINDS = {"optional_type": "an optional", "sparse_tensor_type": "a sparse tensor"}
_NUMBERS = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip


def graph_signature(proto: ModelProto) -> Signature:
    """Return the signature a graph declares; initializers that are also inputs are not inputs.

    The axis of samples is the first of the first input, and in other tensors the one with the same symbolic name: a
    state (layers, batch, width) has it second. An input of a fixed other length there is the same for all samples.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    for value in inputs:
        if not has_shape(value) and value.type.HasField("tensor_type"):
            raise SignatureError(
                f"the graph does not say how many axes its input {value.name!r} has; "
                f"write them into the file (onnx.tools.update_model_dims)"
            )
    symbol, size = _samples(inputs)
    specs = [_spec(value) for value in inputs]
    known = [replace(spec, sample=_axis(_symbols(value), spec.shape, symbol, size))
             for value, spec in zip(inputs, specs, strict=True)]  # fmt: skip
    return Signature(tuple(known), tuple(_output(value, symbol, size) for value in proto.graph.output))


def lengths(proto: ModelProto, signature: Signature, sample: Batch | None) -> Signature:
    """Give free axes that nobody declared a length to measure at, as ``with_lengths`` does, in ONNX Runtime."""

    def opened() -> Callable[[Batch], object]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return lambda batch: session.run(None, dict(batch))

    return with_lengths(signature, sample, opened)


def has_shape(value: ValueInfoProto) -> bool:
    """Tell whether a graph says how many axes a tensor has."""
    return bool(value.type.tensor_type.HasField("shape"))


def _samples(inputs: Sequence[ValueInfoProto]) -> tuple[str, int | None]:
    """Return the symbolic name and the length of the axis of samples, as the first input that has axes tells."""
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            return dims[0].dim_param, dims[0].dim_value if dims[0].dim_value > 0 else None
    return "", None


def _symbols(value: ValueInfoProto) -> list[str]:
    return [dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _axis(symbols: list[str], shape: tuple[int | None, ...], symbol: str, size: int | None) -> int | None:
    """Return which axis of an input is the sample; None of a constant."""
    if not shape:
        return None
    if symbol and symbol in symbols:
        return symbols.index(symbol)
    return 0 if shape[0] in (None, size) or (size is None and shape[0] == 1) else None


def _output(value: ValueInfoProto, symbol: str, size: int | None) -> TensorSpec:
    """Return an output; one that is not by the sample, as far as the graph tells, has no axis of samples."""
    spec = _spec(value)
    symbols = _symbols(value)
    if symbol and symbol in symbols:
        return replace(spec, sample=symbols.index(symbol))
    fixed = bool(spec.shape) and size is not None and spec.shape[0] not in (None, size)
    return replace(spec, sample=None if fixed or (has_shape(value) and not spec.shape) else 0)


def _spec(value: ValueInfoProto) -> TensorSpec:
    kind = value.type.WhichOneof("value") or "tensor_type"
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type == TensorProto.STRING:
        what = "text" if kind == "tensor_type" else _KINDS.get(kind, f"a {kind.removesuffix('_type')}")
        raise SignatureError(
            f"{value.name!r} is {what}, not a tensor of numbers; export the model without it "
            f"(a classifier of skl2onnx with zipmap=False, a text model without its tokenizer)"
        )
    dtype = "float32"
    if tensor.elem_type and tensor.elem_type not in _NUMBERS:
        name = TensorProto.DataType.Name(tensor.elem_type)
        raise SignatureError(
            f"{value.name!r} is of the type {name}, which ONNX Runtime takes from no array; export the model with "
            f"float32, float16 or integers of 8 bits and more for its inputs and outputs"
        )
    if tensor.elem_type:
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)
