"""Where the channels of an ONNX graph's weights lie, and which of them are tables."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from whet.models.onnx import counting

_LAST, _SECOND = -1, 1
_AXES = {"ConvTranspose": _SECOND, "MatMul": _LAST, "LSTM": _SECOND, "GRU": _SECOND, "RNN": _SECOND}


def channel_axes(proto: ModelProto) -> dict[str, int]:
    """Return the axis of output channels of every weight that a node multiplies by."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found: dict[str, int] = {}
    for node in proto.graph.node:
        for name in counting.kernels(node, constants):
            found.setdefault(name, _axis(node, name))
    return found


def tables(proto: ModelProto) -> dict[str, str]:
    """Return the table that each node looks rows up in, by the node's name."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    return {
        counting.layer_name(node, index): node.input[0]
        for index, node in enumerate(proto.graph.node)
        if node.op_type == "Gather" and node.input[0] in constants and len(constants[node.input[0]].dims) > 1
    }


def _axis(node: NodeProto, name: str) -> int:
    if node.op_type == "Gemm":  # Y = A' B': columns of B, rows of A
        at = 1 if node.input[1] == name else 0
        turned = next((a.i for a in node.attribute if a.name == ("transA", "transB")[at]), 0)
        return (1 - turned) if at else turned
    if node.op_type == "MatMul" and node.input[0] == name:
        return -2
    return _AXES.get(node.op_type, 0)
