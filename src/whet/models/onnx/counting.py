"""What an ONNX graph is made of: nodes with weights, parameters, MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from whet.models.onnx.initializers import graphs, inner_graphs, reads
from whet.types import Layer, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Array, Batch

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_FOUR_BITS = {TensorProto.INT4, TensorProto.UINT4}
_LEARNED = _FLOATS | _FOUR_BITS | {TensorProto.INT8, TensorProto.UINT8}
# The same in operators of quantized graphs.
_QUANTIZED_KERNELS = {
    "ConvInteger": (1,), "MatMulInteger": (1,), "DynamicQuantizeMatMul": (1,), "DynamicQuantizeLSTM": (1, 2),
    "QLinearConv": (3,), "QLinearMatMul": (3,),
}  # fmt: skip
# Where their biases are; what else they read are scales and zero points.
_QUANTIZED_BIASES = {"DynamicQuantizeMatMul": (4,), "DynamicQuantizeLSTM": (3,), "QLinearConv": (8,)}
# Operators whose weight matrices may be pruned, clustered or quantized, and the positions of these.
KERNELS = {
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
    constants = {tensor.name: tensor for graph in graphs(proto.graph) for tensor in graph.initializer}
    shapes = shapes_of(proto, sample) if sample is not None else {}
    through = dequantized(proto, constants)
    coded = set(through.values())
    found: dict[str, Layer] = {}
    taken: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            continue
        names = dict.fromkeys(through.get(name, name) for name in _weights(node))
        owned = [constants[name] for name in names if name in constants and _learned(constants[name], coded)]
        learned = [tensor for tensor in owned if tensor.name not in taken]
        count = macs(node, shapes) if sample is not None else None
        if not owned and not (_multiplies(node) if count is None else count):
            continue
        taken.update(names)
        matrices = kernels(node, constants, through)
        layer = Layer(
            layer_name(node, index, matrices),
            node.op_type,
            tuple(name for name in matrices if constants[name].data_type in _FLOATS),
            sum(math.prod(tensor.dims) for tensor in learned),
            sum(size(tensor) for tensor in learned),
            count,
        )
        found[layer.name] = _together(found[layer.name], layer) if layer.name in found else layer
    return list(found.values())


def _together(first: Layer, again: Layer) -> Layer:
    """Add up a layer that is applied more than once."""
    macs = None if first.macs is None or again.macs is None else first.macs + again.macs
    return replace(
        first,
        weights=tuple(dict.fromkeys([*first.weights, *again.weights])),
        parameters=first.parameters + again.parameters,
        bytes=first.bytes + again.bytes,
        macs=macs,
    )


def _weights(node: NodeProto) -> Iterator[str]:
    """Yield the names of weights that a node may read; of a quantized one, not its scales and zero points."""
    if node.op_type not in _QUANTIZED_KERNELS:
        yield from reads(node)
        return
    places = (*_QUANTIZED_KERNELS[node.op_type], *_QUANTIZED_BIASES.get(node.op_type, ()))
    yield from (node.input[at] for at in places if at < len(node.input))


def _learned(tensor: TensorProto, coded: set[str]) -> bool:
    """Tell weights (``coded``: read by a DequantizeLinear) from shapes, and from the one number of a formula."""
    learned = tensor.data_type in _LEARNED or (tensor.data_type == TensorProto.INT32 and tensor.name in coded)
    return learned and bool(tensor.dims)


def _multiplies(node: NodeProto) -> bool:
    """Tell whether a node multiplies and accumulates, in the graphs it holds too."""
    return macs_known(node.op_type) or any(
        macs_known(inner.op_type) for graph in inner_graphs(node) for inner in graph.node
    )


def kernels(
    node: NodeProto, constants: Mapping[str, TensorProto], through: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Return the constants that a node multiplies by: matrices and windows, not biases and tables.

    ``through`` leads from what a DequantizeLinear yields to the constant it reads.
    """
    places = {**KERNELS, **_QUANTIZED_KERNELS}.get(node.op_type, ())
    names = (through.get(node.input[at], node.input[at]) for at in places if at < len(node.input))
    return tuple(name for name in names if name in constants and len(constants[name].dims) > 1)


def matrices(proto: ModelProto) -> dict[str, Array]:
    """Return every constant that is multiplied by, quantized ones as integers less their zero point.

    Weights are quantized symmetrically here, so that only a DequantizeLinear brings a zero point.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    dequantized = {node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, Array] = {}
    for node in proto.graph.node:
        places = {**KERNELS, **_QUANTIZED_KERNELS}.get(node.op_type, ())
        for name in (node.input[at] for at in places if at < len(node.input)):
            source = dequantized.get(name)
            key = source.input[0] if source is not None else name
            if key in constants and len(constants[key].dims) > 1:
                array = numpy_helper.to_array(constants[key])
                found[key] = (
                    array if source is None else array.astype(np.int32) - _zero_point(source, constants, array)
                )
    return found


def traits(proto: ModelProto) -> frozenset[Trait]:
    """Return what a file says of itself: integer weights, or weights of 16 bits."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    through = dequantized(proto, constants)
    types = {constants[name].data_type for node in proto.graph.node for name in kernels(node, constants, through)}
    found = [Trait(TraitKind.QUANTIZED, 4 if types & _FOUR_BITS else 8)] if types & (_LEARNED - _FLOATS) else []
    found += [Trait(TraitKind.HALF, 16)] if types & _HALVES else []
    return frozenset(found)


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
    for kernel in (name.removesuffix("_quantized") for name in matrices):
        if kernel.endswith(".weight") and "/" not in kernel:
            return kernel.removesuffix(".weight")
    return node.name or f"{node.op_type}_{index}"


def size(tensor: TensorProto) -> int:
    """Return the bytes that a tensor's elements take."""
    bits = 4
    if tensor.data_type not in _FOUR_BITS:
        bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return int(math.prod(tensor.dims) * bits + 7) // 8


def shapes_of(proto: ModelProto, sample: Batch) -> Shapes:
    """Return the shapes of tensors when the graph runs on ``sample``: inferred, or else found by running it.

    Only those of nodes that multiply are found by running; a graph that cannot be run leaves them unknown.
    """
    shapes = _inferred(proto, sample)
    needed = {name for node in proto.graph.node if macs_known(node.op_type) for name in [*node.input, *node.output]}
    unknown = sorted(name for name in needed if name and None in shapes.get(name, (None,)))
    return {**shapes, **_observed(proto, sample, unknown)} if unknown else shapes


def _observed(proto: ModelProto, sample: Batch, names: list[str]) -> Shapes:
    """Run the graph with inner tensors for outputs, and return their shapes."""
    import onnxruntime

    shown = ModelProto()
    shown.CopyFrom(proto)
    present = {value.name for value in shown.graph.output}
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        arrays = session.run(names, dict(sample))
    except Exception:  # noqa: BLE001 - whatever the reason is, what is not known is reported as None
        return {}
    return {name: tuple(array.shape) for name, array in zip(names, arrays, strict=True)}


def _inferred(proto: ModelProto, sample: Batch) -> Shapes:
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
    """Return the multiply-accumulate operations of a node; 0 if it has none, None if they cannot be known.

    That is where shapes are unknown, and where an If or a Loop decides as it runs.
    """
    count = _MACS.get(node.op_type)
    if count is None:
        return None if _multiplies(node) else 0
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


def dequantized(proto: ModelProto, constants: Mapping[str, TensorProto]) -> dict[str, str]:
    """Map what a DequantizeLinear of a constant yields to that constant."""
    return {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
