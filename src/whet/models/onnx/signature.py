"""What goes into an ONNX graph and what comes out, as the graph declares it and a user refines it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto

from whet.errors import SignatureError
from whet.types import Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Batch

_LENGTHS = (1, 16, 128, 512, 1024, 4096, 16000)  # tried for free axes, the least that runs is taken
_VALUES = 2**24  # of one input at most: several free axes multiply


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


def refine(signature: Signature, declared: tuple[TensorSpec, ...]) -> Signature:
    """Give free axes the lengths, and synthetic values the ranges, that a user declared.

    An input of fixed axes that is held at one value is the same for all samples.
    """
    if not declared:
        return signature
    by_name = {spec.name: spec for spec in declared}
    if len(declared) == 1 and len(signature.inputs) == 1:
        by_name = {signature.inputs[0].name: declared[0]}
    unknown = [name for name in by_name if name not in {spec.name for spec in signature.inputs}]
    if unknown:
        names = ", ".join(str(spec) for spec in signature.inputs)
        raise SignatureError(f"the model has no input {unknown[0]!r}; its inputs are {names}")
    inputs = []
    for spec in signature.inputs:
        given = by_name.get(spec.name)
        if given is None:
            inputs.append(spec)
            continue
        if given.dtype != spec.dtype or not _fits(given, spec):
            raise SignatureError(f"--input {given} does not fit the model's input {spec}")
        constant = given.held and None not in spec.shape and len(signature.inputs) > 1
        sample = None if constant else spec.sample
        inputs.append(replace(spec, example=given.example, low=given.low, high=given.high, sample=sample))
    return Signature(tuple(inputs), signature.outputs)


def with_lengths(proto: ModelProto, signature: Signature, sample: Batch | None) -> Signature:
    """Give free axes that nobody declared a length to measure at: the data's, or the least at which the graph runs.

    Where it runs at none that is tried, the signature is returned as it is.
    """
    if not any(_undeclared(spec) for spec in signature.inputs):
        return signature
    if sample is not None:
        bound = signature.bind(sample)
        return _examples(signature, {name: array.shape for name, array in bound.items()})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # noqa: BLE001 - what ONNX Runtime refuses is told by the runtime that is to run it
        return signature
    for length in _LENGTHS:
        tried = _examples(signature, {spec.name: (length,) * len(spec.shape) for spec in signature.inputs})
        if max(math.prod(size or length for size in spec.shape) for spec in tried.inputs) > _VALUES:
            break
        try:
            session.run(None, dict(tried.synthetic(2)))
        except Exception:  # noqa: BLE001, S112 - as long as it takes
            continue
        return tried
    return signature


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


def _undeclared(spec: TensorSpec) -> bool:
    """Tell whether an input has a free axis, the sample's excepted, without a length to measure at."""
    return not spec.example and any(size is None and axis != spec.sample for axis, size in enumerate(spec.shape))


def _examples(signature: Signature, lengths: dict[str, tuple[int, ...]]) -> Signature:
    inputs = [replace(spec, example=lengths[spec.name]) if _undeclared(spec) else spec for spec in signature.inputs]
    return Signature(tuple(inputs), signature.outputs)


def _fits(given: TensorSpec, spec: TensorSpec) -> bool:
    """Tell whether declared lengths are those of a graph's fixed axes, but for the sample's."""
    return len(given.shape) == len(spec.shape) and all(
        axis == spec.sample or size in (None, length)
        for axis, (size, length) in enumerate(zip(spec.shape, given.example, strict=True))
    )


def _spec(value: ValueInfoProto) -> TensorSpec:
    kind = value.type.WhichOneof("value") or "tensor_type"
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type == TensorProto.STRING:
        what = "text" if kind == "tensor_type" else f"a {kind.removesuffix('_type')}"
        raise SignatureError(
            f"{value.name!r} is {what}, not a tensor of numbers; export the model without it "
            f"(a classifier of skl2onnx with zipmap=False, a text model without its tokenizer)"
        )
    dtype = "float32"
    if tensor.elem_type:
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)
