"""Constants of an ONNX graph: flushed, shared, stored tightly."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

_LEAST_NORMAL = {TensorProto.FLOAT: np.finfo(np.float32).tiny, TensorProto.DOUBLE: np.finfo(np.float64).tiny}
_WEIGHTS = {*_LEAST_NORMAL, TensorProto.FLOAT16, TensorProto.INT8}


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and those that its nodes hold: the branches of an If, the body of a Loop."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds, and those that theirs hold."""
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from graphs(inner)


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, in the graphs it holds too, and the constants of these."""
    yield from node.input
    for graph in inner_graphs(node):
        yield from (tensor.name for tensor in graph.initializer)
        for inner in graph.node:
            yield from inner.input


def sort_nodes(graph: GraphProto) -> None:
    """Have every node stand after those whose outputs it reads, in place; inner graphs too.

    The tools of ONNX Runtime that change graphs append nodes, and overlook what an If or a Loop reads.
    """
    for node in graph.node:
        for inner in inner_graphs(node):
            sort_nodes(inner)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[name] for name in reads(node) if name in makers} for node in graph.node]
    order = list(TopologicalSorter(dict(enumerate(needs))).static_order())
    if order != sorted(order):
        nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def lift_constants(proto: ModelProto) -> int:
    """Make initializers of the weights that some exporters write as Constant nodes, in place; return how many."""
    kept, lifted = [], []
    for node in proto.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), TensorProto())
        if node.op_type == "Constant" and value.data_type in _WEIGHTS and value.dims:
            lifted.append(TensorProto.FromString(value.SerializeToString()))
            lifted[-1].name = node.output[0]
        else:
            kept.append(node)
    outputs = {value.name for value in proto.graph.output}
    if not lifted or outputs & {tensor.name for tensor in lifted}:
        return 0
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    proto.graph.initializer.extend(lifted)
    return len(lifted)


def close_inputs(proto: ModelProto) -> None:
    """Take initializers off the inputs, in place: nobody may pass others."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in constants]
    if len(kept) < len(proto.graph.input):
        copies = [ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del proto.graph.input[:]
        proto.graph.input.extend(copies)


def flush_subnormals(proto: ModelProto) -> int:
    """Set subnormal weights to zero, in place; return how many there were.

    Folding BatchNorm into weights makes such numbers, and processors take up to fifty times longer over them.
    Float16 is left alone: its subnormals are ordinary weights, and are widened before they are multiplied.
    """
    count = 0
    for tensor in proto.graph.initializer:
        least = _LEAST_NORMAL.get(tensor.data_type)
        if least is None:
            continue
        array = numpy_helper.to_array(tensor)
        bad = (array != 0) & (np.abs(array) < least)
        if bad.any():
            count += int(bad.sum())
            tensor.CopyFrom(numpy_helper.from_array(np.where(bad, 0, array).astype(array.dtype), tensor.name))
    return count


def pack_raw(proto: ModelProto) -> None:
    """Store every initializer as raw bytes, in place; typed fields may take ten bytes a number."""
    for tensor in proto.graph.initializer:
        if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def share_equal(proto: ModelProto) -> int:
    """Make equal initializers one, in place; return how many were dropped."""
    fixed = {value.name for value in [*proto.graph.input, *proto.graph.output]}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for tensor in proto.graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if not tensor.HasField("raw_data") or tensor.name in fixed:
            kept.append(tensor)
        elif key in first:
            renamed[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    if not renamed or _has_subgraphs(proto):
        return 0
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
    _keep(proto, kept)
    return len(renamed)


def drop_unused(proto: ModelProto) -> int:
    """Drop initializers that nothing reads, in place; return how many."""
    if _has_subgraphs(proto):
        return 0
    read = {name for node in proto.graph.node for name in node.input}
    read |= {value.name for value in [*proto.graph.input, *proto.graph.output]}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    dropped = len(proto.graph.initializer) - len(kept)
    if dropped:
        _keep(proto, kept)
    return dropped


def _keep(proto: ModelProto, tensors: list[TensorProto]) -> None:
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(copies)


def _has_subgraphs(proto: ModelProto) -> bool:
    """Whether any node holds a graph of its own (If, Loop, Scan), which may read outer names."""
    return any(True for node in proto.graph.node for _ in inner_graphs(node))
