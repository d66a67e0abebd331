"""Initial states of recurrent layers: zeros, which the standard has anyway, need no nodes."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from whet.models.onnx import initializers

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_MOVES = ("Expand", "Slice", "Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze", "Gather", "Tile")


def drop_zero_states(proto: ModelProto) -> int:
    """Leave out the initial states that are zero whatever comes in, and what made them, in place; return how many.

    Exporters write them out in the batch's size: five small nodes, 4 % of the time of a small LSTM at batch 1.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    dropped = 0
    for node in proto.graph.node:
        for at in _STATES.get(node.op_type, ()):
            if at < len(node.input) and node.input[at] and _zero(node.input[at], makers, constants):
                node.input[at] = ""
                dropped += 1
    if dropped:
        drop_dead_nodes(proto)
        initializers.drop_unused(proto)
    return dropped


def _zero(name: str, makers: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]) -> bool:
    """Whether a tensor is a constant of zeros, or one that was only moved or made longer."""
    if name in constants:
        return not numpy_helper.to_array(constants[name]).any()
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        return not any(numpy_helper.to_array(item.t).any() for item in node.attribute if item.name == "value")
    if node.op_type == "Constant":
        return any(item.name == "value" and not numpy_helper.to_array(item.t).any() for item in node.attribute)
    return node.op_type in _MOVES and _zero(node.input[0], makers, constants)


def drop_dead_nodes(proto: ModelProto) -> int:
    """Drop nodes whose outputs nothing reads, in place; return how many."""
    graph, kept = proto.graph, []
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):  # each stands after those it reads
        if needed & set(node.output):
            needed |= set(initializers.reads(node))
            kept.append(node)
    dropped = len(graph.node) - len(kept)
    if dropped:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(copies)
    return dropped
