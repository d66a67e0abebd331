"""What an ONNX graph is made of: nodes with weights, parameters, MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from whet.types import Layer

if TYPE_CHECKING:
    from whet.types import Array, Batch

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_LEARNED = _FLOATS | {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
# The same in operators of quantized graphs.
_QUANTIZED_KERNELS = {
    "ConvInteger": (1,), "MatMulInteger": (1,), "DynamicQuantizeMatMul": (1,), "DynamicQuantizeLSTM": (1, 2),
    "QLinearConv": (3,), "QLinearMatMul": (3,),
}  # fmt: skip
# Operators whose weight matrices may be pruned, clustered or quantized, and the positions of these.
_KERNELS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip

Shapes = Mapping[str, tuple[int | None, ...]]


def layers(proto: ModelProto, sample: Batch | None) -> list[Layer]:
    """Return every node that owns weights or multiplies.

    Args:
        proto: The model.
        sample: Inputs of one sample, which give the free axes their lengths; None leaves MACs unknown.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    shapes = shapes_of(proto, sample) if sample is not None else {}
    through = _dequantized(proto, constants)
    found = []
    for index, node in enumerate(proto.graph.node):
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            continue
        owned = {
            constants[key].name: constants[key]
            for name in node.input
            if (key := through.get(name, name)) in constants
        }
        learned = [tensor for tensor in owned.values() if tensor.data_type in _LEARNED]
        count = macs(node, shapes) if sample is not None else None
        if not learned and not count:
            continue
        matrices = kernels(node, constants)
        found.append(
            Layer(
                layer_name(node, index, matrices),
                node.op_type,
                tuple(name for name in matrices if constants[name].data_type in _FLOATS),
                sum(math.prod(tensor.dims) for tensor in learned),
                sum(size(tensor) for tensor in learned),
                count,
            )
        )
    return found


def kernels(node: NodeProto, constants: Mapping[str, TensorProto]) -> tuple[str, ...]:
    """Return the constants that a node multiplies by: matrices and windows, not biases and tables."""
    names = (node.input[at] for at in _KERNELS.get(node.op_type, ()) if at < len(node.input))
    return tuple(name for name in names if name in constants and len(constants[name].dims) > 1)


def matrices(proto: ModelProto) -> dict[str, Array]:
    """Return every constant that is multiplied by, quantized ones as integers less their zero point.

    Weights are quantized symmetrically here, so that only a DequantizeLinear brings a zero point.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    dequantized = {node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, Array] = {}
    for node in proto.graph.node:
        places = {**_KERNELS, **_QUANTIZED_KERNELS}.get(node.op_type, ())
        for name in (node.input[at] for at in places if at < len(node.input)):
            source = dequantized.get(name)
            key = source.input[0] if source is not None else name
            if key in constants and len(constants[key].dims) > 1:
                array = numpy_helper.to_array(constants[key])
                found[key] = (
                    array if source is None else array.astype(np.int32) - _zero_point(source, constants, array)
                )
    return found


def _zero_point(node: NodeProto, constants: Mapping[str, TensorProto], array: Array) -> Array:
    """Return a DequantizeLinear's zero point in a shape that broadcasts over its input."""
    if len(node.input) < 3 or node.input[2] not in constants:
        return np.zeros((), np.int32)
    point: Array = numpy_helper.to_array(constants[node.input[2]]).astype(np.int32)
    if point.ndim == 0:
        return point
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return point.reshape([-1 if at == axis % array.ndim else 1 for at in range(array.ndim)])


def layer_name(node: NodeProto, index: int, matrices: tuple[str, ...] = ()) -> str:
    """Name a node as its author would: by its weight's path in the source model, else by its own name."""
    for kernel in matrices:
        if kernel.endswith(".weight") and "/" not in kernel:
            return kernel.removesuffix(".weight")
    return node.name or f"{node.op_type}_{index}"


def size(tensor: TensorProto) -> int:
    """Return the bytes that a tensor's elements take."""
    bits = {TensorProto.INT4: 4, TensorProto.UINT4: 4}.get(tensor.data_type)
    if bits is None:
        bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return int(math.prod(tensor.dims) * bits + 7) // 8


def shapes_of(proto: ModelProto, sample: Batch) -> Shapes:
    """Return the shape of every tensor when the graph runs on ``sample``, as far as inference finds it."""
    model = ModelProto()
    model.CopyFrom(proto)
    for value in model.graph.input:
        if value.name in sample:
            for axis, length in zip(value.type.tensor_type.shape.dim, sample[value.name].shape, strict=False):
                axis.dim_value = length
    for value in [*model.graph.output, *model.graph.value_info]:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    for tensor in proto.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    return shapes


def macs(node: NodeProto, shapes: Shapes) -> int | None:
    """Return the multiply-accumulate operations of a node; 0 if it has none, None if its shapes are unknown."""
    count = _MACS.get(node.op_type)
    if count is None:
        return 0
    try:
        return count(node, shapes)
    except (KeyError, TypeError, IndexError):
        return None


def macs_known(kind: str) -> bool:
    """Tell whether an operator multiplies and accumulates."""
    return kind in _MACS


def _conv(node: NodeProto, shapes: Shapes, weight: int = 1) -> int:
    kernel = shapes[node.input[weight]]  # (out, in / groups, *window)
    return math.prod(shapes[node.output[0]]) * math.prod(kernel[1:])  # type: ignore[arg-type]


def _conv_transpose(node: NodeProto, shapes: Shapes) -> int:
    kernel = shapes[node.input[1]]  # (in, out / groups, *window)
    return math.prod(shapes[node.input[0]]) * math.prod(kernel[1:])  # type: ignore[arg-type]


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]  # type: ignore[arg-type, operator]


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    transposed = next((a.i for a in node.attribute if a.name == "transA"), 0)
    inner = shapes[node.input[0]][0 if transposed else 1]
    return int(math.prod(shapes[node.output[0]]) * inner)  # type: ignore[arg-type, operator]


def _recurrent(gates: int) -> Callable[[NodeProto, Shapes], int]:
    def count(node: NodeProto, shapes: Shapes) -> int:
        time, batch, width = shapes[node.input[0]]
        directions = shapes[node.input[1]][0]
        hidden = next(a.i for a in node.attribute if a.name == "hidden_size")
        return int(time * batch * directions * gates * hidden * (width + hidden))  # type: ignore[operator]

    return count


_MACS: Mapping[str, Callable[[NodeProto, Shapes], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": lambda node, shapes: _conv(node, shapes, weight=3),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent(4),
    "DynamicQuantizeLSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}


def _dequantized(proto: ModelProto, constants: Mapping[str, TensorProto]) -> dict[str, str]:
    """Map what a DequantizeLinear of a constant yields to that constant."""
    return {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
