"""Along which axes the weights of an ONNX graph read their inputs and make their outputs."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from whet.models.onnx import counting

_RECURRENT = (2, 1)  # (directions, gates x hidden, inputs)
_PAIRS = {"ConvTranspose": (0, 1), "LSTM": _RECURRENT, "GRU": _RECURRENT, "RNN": _RECURRENT}
_CONV = (1, 0)


def input_axes(proto: ModelProto) -> dict[str, int]:
    """Return the axis of inputs of every weight that a node multiplies by."""
    return {name: pair[0] for name, pair in _pairs(proto).items()}


def output_axes(proto: ModelProto) -> dict[str, int]:
    """Return the axis of output channels of every weight that a node multiplies by."""
    return {name: pair[1] for name, pair in _pairs(proto).items()}


def _pairs(proto: ModelProto) -> dict[str, tuple[int, int]]:
    """Return the axes of inputs and of outputs of every weight; of the first node that reads it."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found: dict[str, tuple[int, int]] = {}
    for node in proto.graph.node:
        for name in counting.kernels(node, constants):
            found.setdefault(name, _pair(node, name))
    return found


def _pair(node: NodeProto, name: str) -> tuple[int, int]:
    first = node.input[0] == name
    if node.op_type == "MatMul":
        return (-1, -2) if first else (-2, -1)
    if node.op_type == "Gemm":  # Y = A' B': rows of B are inputs, rows of A outputs, unless they are transposed
        turned = next((each.i for each in node.attribute if each.name == ("transA" if first else "transB")), 0)
        return (1, 0) if first != bool(turned) else (0, 1)
    return _PAIRS.get(node.op_type, _CONV)
