"""Which weights of an ONNX graph are tables."""

from __future__ import annotations

from onnx import ModelProto

from whet.models.onnx import counting


def tables(proto: ModelProto) -> dict[str, str]:
    """Return the table that each node looks rows up in, by the node's name."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    return {
        counting.layer_name(node, index): node.input[0]
        for index, node in enumerate(proto.graph.node)
        if node.op_type == "Gather" and node.input[0] in constants and len(constants[node.input[0]].dims) > 1
    }
