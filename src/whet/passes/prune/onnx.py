"""Along which axis the weights of an ONNX graph read their inputs."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from whet.models.onnx import counting


def input_axes(proto: ModelProto) -> dict[str, int]:
    """Return the axis of inputs of every weight that a node multiplies by."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found: dict[str, int] = {}
    for node in proto.graph.node:
        for name in counting.kernels(node, constants):
            found.setdefault(name, _axis(node, name))
    return found


def _axis(node: NodeProto, name: str) -> int:
    if node.op_type == "Gemm":  # Y = A' B': rows of B, columns of A
        first = node.input[0] == name
        turned = next((each.i for each in node.attribute if each.name == ("transA" if first else "transB")), 0)
        return (1 - turned) if first else turned
    if node.op_type == "MatMul":
        return -1 if node.input[0] == name else -2
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return -1
    return 0 if node.op_type == "ConvTranspose" else 1
